"""Which lines of SPL a run in virtual time executed, by a plugin of QEMU: of modules as they are, built as ever.

The guest sees nothing of it. An instruction counts as executed when QEMU translated it, which it does when a CPU is
about to enter its block for the first time. What ran before the template was frozen, while modules were loaded, does
not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from splvm.builds.lines import cover, find_lines, read_lines
from splvm.builds.plugin import build_plugin
from splvm.builds.root import BuildRoot
from splvm.deadline import Deadline
from splvm.errors import EvidenceError
from splvm.evidence.formats.lcov import Coverage, FileCoverage, merge, parse_lcov, to_lcov
from splvm.guest.cover import open_coverer
from splvm.guest.debugger import text_addresses
from splvm.guest.guestplan import GuestPlan
from splvm.guest.template import Templates
from splvm.host.store import Store
from splvm.log import note
from splvm.plainfile import MIB, read_plain
from splvm.record.names import RUN_FILE
from splvm.run.closedrun import Witness

COVERAGE_FILE = "coverage.info"
_MOST_BYTES = 64 * MIB


@dataclass(frozen=True, slots=True)
class Cover:
    """What it takes to say which lines were executed."""

    plugin: Path
    # Files of `read_lines`, by name of a module.
    lines: tuple[tuple[str, Path], ...]


def prepare_cover(store: Store, root: BuildRoot, modules: Sequence[Path], deadline: Deadline) -> Cover:
    """For these modules.

    :raises SetupError: when there is no debug information of one.
    """
    lines = tuple((module.stem, find_lines(store, root, module, deadline)) for module in modules)
    return Cover(build_plugin(store, root, "cover", deadline), lines)


@contextmanager
def covering(
    cover_of: Cover, plan: GuestPlan, test: str, out: Path, witness: Witness | None, deadline: Deadline
) -> Iterator[Witness]:
    """A witness that notes what is executed; `coverage.info` is in `out` afterwards, if the run came to its end.

    :param test: the name of the scenario.
    :param witness: who looks on besides.
    :raises EvidenceError: when the guest did not say where the text of a module is.
    """
    with Templates.default().using(plan, deadline) as template:
        console = template.console.read_text(errors="replace")
    bases, modules = text_addresses(console), {name: read_lines(path) for name, path in cover_of.lines}
    if missing := sorted(modules.keys() - bases.keys()):
        raise EvidenceError(f"the guest did not say where the text of {', '.join(missing)} is")
    lengths = {name: lines[-1].address + 1 for name, lines in modules.items()}
    start = min(bases[name] for name in modules)
    length = max(bases[name] + lengths[name] for name in modules) - start
    with open_coverer(cover_of.plugin, start, length) as coverer:
        yield replace(witness or Witness(), coverer=coverer)
        try:
            parts = [cover(lines, coverer.marks(bases[name], lengths[name])) for name, lines in modules.items()]
            write_coverage(out, {test: merge(parts)})
        except (EvidenceError, OSError) as error:
            # The verdict on the run stays what it is.
            note(f"there is no coverage: {error}")


def write_coverage(directory: Path, tests: Mapping[str, Coverage]) -> None:
    """`coverage.info` in a directory. The names of tests in it have no hyphens."""
    text = to_lcov({test.replace("-", "_"): coverage for test, coverage in tests.items()})
    (directory / COVERAGE_FILE).write_text(text)


def read_coverage(places: Iterable[Path]) -> dict[str, dict[str, FileCoverage]]:
    """Coverage by scenario, of tracefiles, and of all tracefiles of runs below directories.

    :raises EvidenceError: when one cannot be read.
    """
    tests: dict[str, dict[str, FileCoverage]] = {}
    for path in (file for place in places for file in _tracefiles(place)):
        try:
            told = parse_lcov(read_plain(path, _MOST_BYTES).decode(errors="replace"))
        except OSError as error:
            raise EvidenceError(f"{path}: {error.strerror or error}") from error
        for test, coverage in told.items():
            name = test.replace("_", "-")
            tests[name] = merge([tests.get(name, {}), coverage])
    return tests


def gather_coverage(base: Path) -> dict[str, dict[str, FileCoverage]]:
    """That of a run, or the sum of all runs below a directory, which is put into it.

    :raises EvidenceError: when one cannot be read.
    """
    if (base / RUN_FILE).exists():
        return read_coverage([base])
    # That of a part of them.
    (base / COVERAGE_FILE).unlink(missing_ok=True)
    tests = read_coverage([base])
    write_coverage(base, tests)
    return tests


def add_coverage(base: Path, run: Path) -> None:
    """Add what a run has executed to the file of a directory, before its record goes.

    :raises EvidenceError: when one cannot be read.
    """
    if (run / COVERAGE_FILE).exists():
        places = [base / COVERAGE_FILE] if (base / COVERAGE_FILE).exists() else []
        write_coverage(base, read_coverage([*places, run]))


def _tracefiles(place: Path) -> list[Path]:
    """That of a directory, which is the sum of those below it; or those below."""
    if not place.is_dir():
        return [place]
    if (place / COVERAGE_FILE).exists():
        return [place / COVERAGE_FILE]
    return sorted(place.rglob(COVERAGE_FILE))
