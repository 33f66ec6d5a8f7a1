"""The rules of the tree that no linter knows: who may import whom, who may sleep, and what is named nowhere."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from places import PROJECT

ROOT = PROJECT
FRAMEWORK = ROOT / "framework"

# Everybody may use these: they own no resource, and import nothing above them.
BASE: Mapping[str, str] = {
    "splvm.errors": "the one tree of errors",
    "splvm.deadline": "whatever blocks is given a budget",
    "splvm.log": "steps and notes for people",
    "splvm.assets": "where the files for the guest are",
    "splvm.tomlfile": "files that a user writes",
    "splvm.plainfile": "files of others are opened one way",
    "splvm.ownpath": "names of what is the user's own",
    "splvm.treename": "names of sources of SPL",
    "splvm.clock": "what a guest's time is made of",
}

# Who may import what, besides itself, and why. A name stands for the module and all that is below it, unless a longer
# name has a row of its own; what is not here is forbidden. The order is that of the layers, lowest first.
_RECORDED = {
    "splvm.evidence": "what is recorded is judged",
    "splvm.record": "a run's files",
}

_JUDGED = {"splvm.scenarios": "a run is judged by the rule of its scenario"}

ALLOWED: Mapping[str, Mapping[str, str]] = {
    "splvm.errors": {},
    "splvm.log": {},
    "splvm.assets": {},
    "splvm.deadline": {"splvm.errors": "a budget that is used up is an error of the tree"},
    "splvm.plainfile": {},
    "splvm.tomlfile": {
        "splvm.errors": "what is wrong with a file is told by its place",
        "splvm.plainfile": "it may be any file of the host",
    },
    "splvm.ownpath": {},
    "splvm.clock": {},
    "splvm.treename": {"splvm.ownpath": "a tree may be at a path"},
    "splvm.extras": {"splvm.errors": "a package that is missing is an error with a hint"},
    "splvm.evidence.formats": {"splvm.errors": "text that cannot be read"},
    "splvm.evidence.verdict": {},
    "splvm.evidence.expectation": {"splvm.evidence.verdict": "a verdict is expected"},
    "splvm.evidence.diagnosis": {},
    "splvm.evidence.sources": {
        "splvm.errors": "text that cannot be read",
        "splvm.evidence.formats": "each source has its parser",
    },
    "splvm.evidence.standstill": {},
    "splvm.evidence.rule": {"splvm.errors": "a rule that cannot be read"},
    "splvm.evidence.loads": {"splvm.evidence.standstill": "for how long a load may do nothing"},
    "splvm.evidence.timeline": {
        "splvm.evidence.formats": "the types of values",
        "splvm.evidence.sources": "samples are made of frames",
    },
    "splvm.evidence.waiting": {
        "splvm.evidence.formats": "stacks",
        "splvm.evidence.timeline": "the lists of tasks that a run has",
    },
    "splvm.evidence.checks": {
        "splvm.errors": "evidence that cannot be read",
        "splvm.evidence.formats": "what a check looks at",
        "splvm.evidence.timeline": "and when that was",
        "splvm.evidence.verdict": "a complaint has an outcome and a reason",
        "splvm.evidence.diagnosis": "what became of a silent guest",
        "splvm.evidence.standstill": "and what stands still",
        "splvm.evidence.loads": "what a load has to do",
        "splvm.evidence.waiting": "a cycle that was seen is a reason",
    },
    "splvm.evidence": {"splvm.errors": "evidence that cannot be read; otherwise a verdict rests on text alone"},
    "splvm.record": {**BASE, "splvm.evidence": "files become typed evidence, and hold the verdict on it"},
    "splvm.paste": {
        "splvm.errors": "text that cannot be read",
        "splvm.evidence": "forms of reports and rows, and who waits for whom",
    },
    "splvm.host": BASE,
    "splvm.guest": {
        **BASE,
        "splvm.host": "QEMU is a process of the host",
        "splvm.record.names": "last evidence goes into files of the run",
        "splvm.evidence.formats": "the agent's frames and the kernel's lists of tasks come off the wire here",
        "splvm.evidence.diagnosis": "what has become of a guest is told by pure rules",
        "splvm.evidence.waiting": "those that wait are told from those that sleep",
    },
    "splvm.builds": {
        **BASE,
        "splvm.host": "artefacts, packages and commands are the host's",
        "splvm.guest.ssh": "the type of the keys that are put into an image",
        "splvm.evidence.expectation": "a variant says what is expected of it",
        "splvm.evidence.verdict": "and that is a verdict",
        "splvm.evidence.formats.sites": "a function has one name, with what a compiler adds and without",
        "splvm.evidence.formats.lcov": "what of a module was executed has a form",
    },
    "splvm.dump": {
        **BASE,
        **_RECORDED,
        "splvm.host": "drgn runs in a process of its own",
        "splvm.extras": "drgn need not be installed",
        "splvm.builds": "the kernel's symbols, and what a module was stripped of",
    },
    "splvm.run": {
        **BASE,
        **_RECORDED,
        "splvm.host": "accelerator, packages and store",
        "splvm.builds": "kernels and modules",
        "splvm.guest": "guests",
        "splvm.__version__": "a record names the program that made it",
    },
    "splvm.scenarios": {
        **BASE,
        **_RECORDED,
        "splvm.builds": "variants of SPL, of which verdicts are expected",
        "splvm.run": "what a scenario is, and what its steps wait for",
        "splvm.__version__": "what a scenario has by itself is that of this version",
    },
    "splvm.report": {
        **BASE,
        **_RECORDED,
        **_JUDGED,
        "splvm.host": "an older report is kept in the store",
        "splvm.paste": "an issue is made of what was pasted",
    },
    "splvm.history": {**BASE, **_RECORDED, **_JUDGED, "splvm.report": "paths and names of hosts are taken out"},
    "splvm.site": {
        **BASE,
        **_RECORDED,
        **_JUDGED,
        "splvm.report": "rates and their intervals",
        "splvm.history": "pages are made of it",
    },
    "splvm.campaign": {
        **BASE,
        **_RECORDED,
        "splvm.host": "memory, turns and the store",
        "splvm.builds": "revisions of a tree, and what is built of them",
        "splvm.report": "rates",
        "splvm.history": "runs become rows of it",
        "splvm.run": "many of them",
        "splvm.scenarios": "by their names",
        "splvm.__version__": "what a record lacks is a doubt if this version wrote it",
    },
    "splvm.cli": {
        **BASE,
        **_RECORDED,
        "splvm.host": "the doctor, and Ctrl-C for processes",
        "splvm.builds": "names of kernels and variants",
        "splvm.guest": "a shell in a guest",
        "splvm.dump": "a memory dump is examined",
        "splvm.paste": "what was pasted is explained",
        "splvm.report": "what is shown",
        "splvm.history": "runs are added to it, and it is asked",
        "splvm.site": "the site is written",
        "splvm.run": "one run",
        "splvm.scenarios": "by its name",
        "splvm.campaign": "many runs",
        "splvm.__version__": "--version",
        "splvm.extras": "what a missing package is needed for",
    },
    "splvm.pytest_host": {"splvm.deadline": "commands have one", "splvm.guest": "whose they are"},
    "splvm.pytest_fixtures": {
        **BASE,
        **_RECORDED,
        "splvm.host": "whether this host can run guests",
        "splvm.builds": "names of kernels and variants",
        "splvm.guest": "fixtures are guests",
        "splvm.report": "what a failed test shows",
        "splvm.history": "cells of a matrix",
        "splvm.run": "runs",
        "splvm.scenarios": "by their names",
        "splvm.campaign": "which cells a matrix has",
    },
    # All of it within functions, or as types: every suite of the user's loads this module.
    "splvm.plugin": {
        "splvm.errors": "trouble becomes pytest's",
        "splvm.log": "steps are shown while a test with guests runs",
        "splvm.pytest_host": "a fixture",
        "splvm.pytest_fixtures": "all other fixtures",
        "splvm.guest": "types of fixtures",
        "splvm.history": "and of their parameters",
        "splvm.run": "what is asked for",
    },
    "splvm.streams": {},
    "splvm.__main__": {"splvm.cli": "python -m splvm", "splvm.streams": "before anything is written"},
}

# What the package itself offers, by name.
PACKAGE: Mapping[str, str] = {
    "splvm.evidence": "parse_slab()",
    "splvm.paste": "explain()",
    "splvm.scenarios": "judge()",
}

# pytest and testinfra are an extra: no other module may need them.
TEST_LIBRARIES: Mapping[str, Sequence[str]] = {
    # Of testinfra a type.
    "splvm.plugin": ("pytest", "testinfra"),
    "splvm.pytest_fixtures": ("pytest",),
    "splvm.pytest_host": ("testinfra",),
}

MODULES = sorted(FRAMEWORK.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(FRAMEWORK).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_below(name: str, top: str) -> bool:
    return name == top or name.startswith(top + ".")


def imports(source: str, module: str, *, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that is imported, at whatever depth of the code."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".")[: None if is_package and node.level == 1 else is_package - node.level]
                base = ".".join([*package, *([node.module] if node.module else [])])
            # `from splvm import errors` imports a module, and `from splvm.errors import X` a name of one.
            yield from ((node.lineno, f"{base}.{alias.name}" if base == "splvm" else base) for alias in node.names)


def forbidden(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Imports within the project that the table does not allow to `module`."""
    layers = [layer for layer in ALLOWED if is_below(module, layer)]
    if not layers and module != "splvm":
        return [f"{module} belongs to no layer of the table"]
    allowed = [name for layer in layers for name in (layer, *ALLOWED[layer])] if layers else list(PACKAGE)
    return [
        f"{module}:{line} imports {name}"
        for line, name in imports(source, module, is_package=is_package)
        if is_below(name, "splvm") and not any(is_below(name, top) for top in allowed)
    ]


def calls(source: str, module: str) -> list[str]:
    """Calls that are forbidden everywhere, or everywhere but in one module."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in ("time.sleep", "sleep", "asyncio.sleep") and module != "splvm.deadline":
            found.append(f"{module}:{node.lineno} sleeps; poll() of framework/splvm/deadline.py waits with a deadline")
        if name == "print":
            found.append(f"{module}:{node.lineno} prints")
        if name in ("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"):
            found.append(f"{module}:{node.lineno} hands a string to a shell")
        for keyword in node.keywords:
            if keyword.arg == "shell" and not (
                isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            ):
                found.append(f"{module}:{node.lineno} hands a string to a shell")
    return found


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_dependencies_point_one_way(path: Path) -> None:
    assert forbidden(path.read_text(), module_name(path), is_package=path.name == "__init__.py") == []


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_only_the_plugin_imports_pytest(path: Path) -> None:
    allowed = TEST_LIBRARIES.get(module_name(path), ())
    used = {name.split(".")[0] for _, name in imports(path.read_text(), module_name(path))}
    assert used & {"pytest", "_pytest", "testinfra"} <= {*allowed}


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_nobody_sleeps_prints_or_uses_a_shell(path: Path) -> None:
    assert calls(path.read_text(), module_name(path)) == []


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring and docstring.splitlines()[0].rstrip().endswith((".", ":", ";"))


def test_layers_only_know_lower_ones() -> None:
    """The table itself has no cycle: build knows a type of guest, and guest nothing of build."""
    order = list(ALLOWED)
    for layer, allowed in ALLOWED.items():
        lower = [*order[: order.index(layer)], "splvm.__version__"]
        assert [name for name in allowed if not any(is_below(name, top) for top in lower)] == []


def test_every_package_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = {module_name(path) for path in MODULES if path.name == "__init__.py"}
    assert packages == {module_name(path.with_name("__init__.py")) for path in MODULES}, "a package lacks __init__.py"
    assert packages <= set(settings["packages"])


# The rules can be broken.


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("splvm.host.store", "from splvm.guest.qemu import Qemu"),
        ("splvm.host.store", "from splvm.evidence import slab"),
        ("splvm.guest.ssh", "from splvm.builds.image import make_keys"),
        ("splvm.guest.agent", "from splvm.evidence.judge import judge"),
        ("splvm.builds.image", "from splvm.guest.sshx import SshKeys"),
        ("splvm.builds.image", "from splvm.guest import ssh"),
        ("splvm.builds.spl", "import splvm.run.scenarios"),
        ("splvm.evidence.judge", "from splvm.deadline import Deadline"),
        ("splvm.evidence.judge", "def f():\n    from splvm import log"),
        ("splvm.evidence.judge", "if TYPE_CHECKING:\n    import splvm.host.process as p"),
        ("splvm.evidence.judge", "from ..record.reader import read_evidence"),
        ("splvm.evidence.judge", "from .. import log"),
        ("splvm.record.writer", "from splvm.report.summary import render"),
        ("splvm.run.prepare", "from splvm.cli import main"),
        ("splvm.run.prepare", "from splvm.scenarios.table import SCENARIOS"),
        ("splvm.record.reader", "from splvm.scenarios.judged import judge_run"),
        ("splvm.run.prepare", "from splvm import plugin"),
        ("splvm.cli", "from splvm.plugin import x"),
        ("splvm.campaign.plan", "from splvm.pytest_fixtures import x"),
        ("splvm.plugin", "def f():\n    from splvm.host import store"),
        ("splvm.deadline", "from splvm.log import note"),
        ("splvm.errors", "from splvm.deadline import Deadline"),
        ("splvm.newcomer", "import os"),
    ],
)
def test_an_import_that_is_not_in_the_table(module: str, source: str) -> None:
    assert len(forbidden(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "splvm.evidence.judge",
            "import re\nfrom splvm.errors import X\nfrom splvm.evidence.formats.slab import Y",
        ),
        ("splvm.evidence.judge", "from .slab import Y\nfrom ..errors import X\nfrom .. import errors"),
        ("splvm.guest.agent", "from splvm.evidence.formats.stream import Frame"),
        ("splvm.run.prepare", "from splvm import __version__\nfrom splvms import x"),
    ],
)
def test_an_import_that_is_in_the_table(module: str, source: str) -> None:
    assert forbidden(source, module) == []


def test_relative_imports_of_a_package() -> None:
    assert [*imports("from .slab import x\nfrom ..log import y", "splvm.evidence", is_package=True)] == [
        (1, "splvm.evidence.slab"),
        (2, "splvm.log"),
    ]


@pytest.mark.parametrize(
    "source",
    [
        "time.sleep(1)",
        "sleep(0.1)",
        "print('x')",
        "run('x', shell=True)",
        "run('x', shell=flag)",
        "os.system('x')",
    ],
)
def test_a_call_that_is_forbidden(source: str) -> None:
    assert len(calls(source, "splvm.run.x")) == 1


def test_calls_that_are_not() -> None:
    assert calls("console.print(x)\nrun(x, shell=False)\nthread.join(1)\nevent.wait(1)", "splvm.run.x") == []
    assert calls("time.sleep(1)", "splvm.deadline") == []


# What is named nowhere. The patterns are put together here, so that this file does not name it either.

# Hosts of package registries and mirrors, whole or by their last labels.
REGISTRIES = tuple(
    name.replace("|", ".")
    for name in (
        "deb|debian|org",
        "ftp|debian|org",
        "security|debian|org",
        "snapshot|debian|org",
        "archive|debian|org",
        "ports|debian|org",
        "cdn-aws|deb|debian|org",
        "archive|ubuntu|com",
        "security|ubuntu|com",
        "ports|ubuntu|com",
        "launchpadcontent|net",
        "pypi|org",
        "pypi|python|org",
        "pythonhosted|org",
        "anaconda|org",
        "crates|io",
        "npmjs|org",
        "npmjs|com",
        "yarnpkg|com",
        "rubygems|org",
        "proxy|golang|org",
        "sum|golang|org",
        "goproxy|io",
        "maven|org",
        "docker|io",
        "ghcr|io",
        "quay|io",
        "gcr|io",
    )
)
# A country's mirror of the archive, as ftp.XX with the archive's domain.
_COUNTRY = r"ftp\.[a-z]{2}\." + "debian" + r"\.org"
REGISTRY = re.compile(
    rf"(?<![\w-])(?:{_COUNTRY}|(?:[\w-]+\.)*(?:{'|'.join(map(re.escape, REGISTRIES))}))(?![\w-])", re.I
)

# A path that exists on one machine only: below a home directory, or where somebody's checkout is.
PRIVATE = re.compile(r"(?<![\w.$})*\]-])/(?:" + "|".join(("work", "root", "home")) + r")/+[\w.{$-]")


def tree(*which: str) -> list[Path]:
    """Every file that is, or could be, committed; or other options of git ls-files."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", *(which or ("--cached", "--others", "--exclude-standard"))],
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        check=True,
    )
    paths = (ROOT / name for name in listed.stdout.decode().split("\0") if name)
    return [path for path in paths if path.is_file()]


def sightings(pattern: re.Pattern[str]) -> list[str]:
    found = []
    for path in tree():
        for number, line in enumerate(path.read_bytes().decode(errors="replace").splitlines(), 1):
            found += [f"{path.relative_to(ROOT)}:{number}: {match[0]}" for match in pattern.finditer(line)]
    return found


needs_checkout = pytest.mark.skipif(
    not (ROOT / ".git").exists() or shutil.which("git") is None, reason="this is no git checkout, or there is no git"
)


@needs_checkout
def test_no_registry_is_named() -> None:
    assert sightings(REGISTRY) == []


@needs_checkout
def test_no_path_of_one_machine_is_named() -> None:
    assert sightings(PRIVATE) == []


# All that stands at the top.
TOP = {
    *(".ci", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "conftest.py", "docs"),
    *("framework", "images", "kernel-config", "pyproject.toml", "splvm", "tests"),
}


@needs_checkout
def test_no_stray_file_stands_at_the_top() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in tree("--cached")} - TOP == set()


@needs_checkout
def test_the_tree_is_read() -> None:
    names = {str(path.relative_to(ROOT)) for path in tree()}
    assert {"framework/splvm/errors.py", "pyproject.toml", "images/guest/init"} <= names
    assert not [name for name in names if name.startswith((".venv/", ".git/"))]


@pytest.mark.parametrize("host", ["deb.{}.org", "http://ftp.de.{}.org/x", "snapshot.{}.org", "a.b.deb.{}.org:80"])
def test_a_registry_would_be_seen(host: str) -> None:
    assert REGISTRY.search(f"mirror = '{host.format('deb' + 'ian')}/'")


@pytest.mark.parametrize("name", ["pypi" + ".org", "files.python" + "hosted.org", "index.crates" + ".io"])
def test_other_registries_would_be_seen(name: str) -> None:
    assert REGISTRY.search(f"https://{name}/simple")


@pytest.mark.parametrize("text", ["bugs.{}.org", "wiki.{}.org", "{}-kernel@lists.{}.org", "my" + "pypi" + ".org"])
def test_other_hosts_are_no_registries(text: str) -> None:
    assert not REGISTRY.search(text.format(*["deb" + "ian"] * 2))


@pytest.mark.parametrize("top", ["work", "root", "home"])
def test_a_path_of_one_machine_would_be_seen(top: str) -> None:
    for before in ("", '"', "=", " ", "file://", "(", ":"):
        assert PRIVATE.search(f"{before}/{top}/someone/file")
    for text in (
        f"root:x:0:0:root:/{top}:/bin/sh",
        f"usr/{top}/x",
        f"{{tree}}/{top}/x",
        f"$x/{top}/y",
        f"/build/{top}/x",
    ):
        assert not PRIVATE.search(text)
