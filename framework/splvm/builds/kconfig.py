"""Configuration fragments: how they are written, how several make one, and what became of them. Pure.

A fragment is a part of a kernel's .config, with two additions. ``CONFIG_X?=y`` asks for an option that some versions
lack; whether it is there is noted, and no error. And a comment before options says why they are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from splvm.errors import BuildError

_STEP = "the kernel's configuration"
_SET = re.compile(r"CONFIG_(\w+)(\??)=(.*)", re.ASCII)
_UNSET = re.compile(r"# CONFIG_(\w+) is not set", re.ASCII)
# What an option can be: a tristate, a number, a string.
_VALUE = re.compile(r'[ymn]|-?\d+|0x[0-9a-fA-F]+|"[^"\\]*"', re.ASCII)


@dataclass(frozen=True, slots=True)
class Option:
    """What a fragment asks for."""

    # Without CONFIG_.
    name: str
    # As in .config; `n` for "is not set".
    value: str
    # Whether a kernel may lack it.
    optional: bool
    # The fragment's file, and the line in it, counted from 1.
    fragment: str
    line: int

    @property
    def place(self) -> str:
        """Where it stands."""
        return f"{self.fragment}:{self.line}"

    def __str__(self) -> str:
        return f"CONFIG_{self.name}={self.value}"


@dataclass(frozen=True, slots=True)
class Dropped:
    """An option that the tree did not take as it was asked for."""

    option: Option
    # What .config has; None if it does not name the option.
    found: str | None

    def __str__(self) -> str:
        if self.found is None:
            what = "not there: no such option, or something that it depends on is not set"
        else:
            what = "not set" if self.found == "n" else f"{self.found} instead"
        return f"{self.option} ({self.option.place}) is {what}"


def parse_fragment(name: str, text: str) -> tuple[Option, ...]:
    """The options of one fragment.

    :param name: of its file, for messages.
    :raises BuildError: for a line that is neither an option nor a comment; the message has its number.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if match := _UNSET.fullmatch(line):
            found.append(Option(match[1], "n", False, name, number))
        elif match := _SET.fullmatch(line):
            if not _VALUE.fullmatch(match[3]):
                raise BuildError(_STEP, f"{name}:{number}: {match[3]!r} is no value of an option", None)
            found.append(Option(match[1], match[3], bool(match[2]), name, number))
        elif line and not line.startswith("#"):
            raise BuildError(
                _STEP, f"{name}:{number}: {line!r} is neither CONFIG_X=VALUE, CONFIG_X?=VALUE nor a comment", None
            )
        elif "CONFIG_" in line:
            # `# CONFIG_X=y` looks like a request and would be none.
            raise BuildError(_STEP, f"{name}:{number}: {line!r} is a comment that looks like an option", None)
    return tuple(found)


def merge_fragments(fragments: Mapping[str, str]) -> tuple[Option, ...]:
    """The options of several fragments, each once, in the order in which they first stand there.

    An option may stand in several, with one value; it is optional only if it is so in all of them.

    :param fragments: text by name of its file.
    :raises BuildError: when two ask for different values; the message has the option, both places and both values.
    """
    merged: dict[str, Option] = {}
    for name, text in fragments.items():
        for option in parse_fragment(name, text):
            first = merged.setdefault(option.name, option)
            if first.value != option.value:
                raise BuildError(
                    _STEP,
                    f"CONFIG_{option.name} is asked for twice: {first.value} ({first.place}), "
                    f"{option.value} ({option.place})",
                    None,
                )
            if first.optional and not option.optional:
                merged[option.name] = option
    return tuple(merged.values())


def format_config(options: Iterable[Option]) -> str:
    """What `make allnoconfig` takes by KCONFIG_ALLCONFIG."""
    return "".join(f"{option}\n" for option in options)


def parse_config(text: str) -> dict[str, str]:
    """Options of a .config by name; `n` for those that are not set. Those that it does not name are not there."""
    found = {}
    for line in text.splitlines():
        if match := _UNSET.fullmatch(line):
            found[match[1]] = "n"
        elif (match := _SET.fullmatch(line)) and not match[2]:
            found[match[1]] = match[3]
    return found


def find_dropped(options: Iterable[Option], config: Mapping[str, str]) -> tuple[Dropped, ...]:
    """Every option that a .config does not have as it was asked for.

    :param config: as `parse_config` gives it. An option that is not there is as good as one that is not set.
    """
    return tuple(
        Dropped(option, config.get(option.name)) for option in options if config.get(option.name, "n") != option.value
    )


def check_dropped(dropped: Sequence[Dropped], what: str) -> tuple[Dropped, ...]:
    """Those that a kernel may lack.

    :param what: the kernel in a few words.
    :raises BuildError: when one was dropped that has to be there; the message names every one.
    """
    if any(not item.option.optional for item in dropped):
        lines = "\n".join(str(item) for item in dropped if not item.option.optional)
        raise BuildError(
            f"{_STEP} of {what}",
            lines,
            None,
            hint="CONFIG_X?=VALUE in a fragment of kernel-config/ asks for an option that some versions lack",
        )
    return tuple(dropped)
