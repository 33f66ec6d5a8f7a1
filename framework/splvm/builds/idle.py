"""Patches that change nothing, by their text alone. Pure.

Whether a patch applies, and whether it changes what is built, only a build shows.
"""

from __future__ import annotations

import re

# Bytes that a compiler and spatch skip, and that a file may have without saying anything.
_EMPTY = b"\0 \t\r\n\v\f"
_MARK = b"\xef\xbb\xbf"

# A comment of C or a literal of it, in which there is none; a line that goes on after a backslash is one.
_C = re.compile(
    rb"""/\*.*?(?:\*/|\Z) | //(?:\\\r?\n|[^\n])* | ("(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*')""",
    re.DOTALL | re.VERBOSE,
)
# A line of a difference, in the forms that GNU patch reads: unified and of contexts, normal, a script for ed; or what
# git says of a file that has no such lines. A line of a hunk may look like the head of a file.
_CHANGE = re.compile(
    rb"""^(?:[-+!<>](?!(?:--|\+\+)[ ]) | @@[ ]-.*\n(?:(?:[ \\].*)?\n)*[-+] | \d+(?:,\d+)?[acd]
        | (?:old[ ]mode|new[ ]mode|new[ ]file|deleted[ ]file|rename|copy)[ ])""",
    re.MULTILINE | re.VERBOSE,
)


def is_idle(suffix: str, content: bytes) -> bool:
    """Whether a patch of `--spl-patch` has nothing in it that could change anything.

    :param suffix: of its name: `.h`, `.cocci`, or of a plain patch.
    :param content: all of it.
    """
    text = content.removeprefix(_MARK)
    if suffix in (".h", ".cocci"):
        text = _C.sub(lambda found: found[1] or b" ", text)
    if suffix == ".cocci":
        # A rule has its name, or none, between two of these.
        return text.count(b"@") < 2
    if suffix == ".h":
        return not text.strip(_EMPTY)
    return _CHANGE.search(text) is None
