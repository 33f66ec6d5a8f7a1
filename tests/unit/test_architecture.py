"""The rules of the tree that no linter knows: who may import whom, who may sleep, and what is named nowhere."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FRAMEWORK = ROOT / "framework"

# Everybody may use these: they own no resource, and import nothing above them.
BASE: Mapping[str, str] = {
    "framework.errors": "the one tree of errors",
    "framework.deadline": "whatever blocks is given a budget",
    "framework.log": "steps and notes for people",
    "framework.assets": "where the files for the guest are",
    "framework.tomlfile": "files that a user writes",
}

# Who may import what, besides itself, and why. A name stands for the module and all that is below it; what is not
# here is forbidden. The order is that of the layers, lowest first.
ALLOWED: Mapping[str, Mapping[str, str]] = {
    "framework.errors": {},
    "framework.log": {},
    "framework.assets": {},
    "framework.deadline": {"framework.errors": "a budget that is used up is an error of the tree"},
    "framework.tomlfile": {"framework.errors": "what is wrong with a file is told by its place"},
    "framework.evidence": {"framework.errors": "evidence that cannot be read; otherwise a verdict rests on text alone"},
    "framework.host": BASE,
    "framework.guest": {
        **BASE,
        "framework.host": "QEMU is a process of the host",
        "framework.evidence.stream": "the agent's frames come off the wire here",
        "framework.evidence.merge": "and are made one stream of the two that bring them",
        "framework.evidence.diagnosis": "what has become of a guest is told by pure rules",
        "framework.evidence.sysrq": "the kernel's own list of blocked tasks is a sign",
        "framework.evidence.waitgraph": "and tells those that wait from those that sleep",
    },
    "framework.build": {
        **BASE,
        "framework.host": "artefacts, packages and commands are the host's",
        "framework.guest.ssh": "the type of the keys that are put into an image",
    },
    "framework.report": {
        **BASE,
        "framework.host": "an older report is kept in the store",
        "framework.evidence": "a report shows evidence and verdicts",
    },
    "framework.history": {
        **BASE,
        "framework.evidence": "it keeps verdicts, and the fingerprint of what the kernel complained of",
    },
    "framework.site": {
        **BASE,
        "framework.evidence": "pages show verdicts, timelines and logs",
        "framework.report": "rates and their intervals",
        "framework.history": "pages are made of it",
    },
    "framework.lab": {
        **BASE,
        "framework.host": "accelerator, packages and store",
        "framework.evidence": "what is recorded is judged",
        "framework.build": "kernels and modules",
        "framework.guest": "guests",
        "framework.report": "a run leaves its report",
        "framework.history": "and becomes a row of the history",
        "framework.__version__": "a record names the program that made it",
    },
    "framework.cli": {
        **BASE,
        "framework.host": "the doctor, and Ctrl-C for processes",
        "framework.evidence": "files that a user hands in are parsed",
        "framework.build": "names of kernels and variants",
        "framework.guest": "a shell in a guest",
        "framework.report": "what is shown",
        "framework.history": "runs are added to it, and it is asked",
        "framework.site": "the site is written",
        "framework.lab": "runs",
        "framework.__version__": "--version",
    },
    "framework.plugin": {
        **BASE,
        "framework.host": "whether this host can run guests",
        "framework.evidence": "verdicts that tests ask for",
        "framework.build": "names of kernels and variants",
        "framework.guest": "fixtures are guests",
        "framework.report": "what a failed test shows",
        "framework.history": "cells of a matrix",
        "framework.lab": "runs",
    },
    "framework.__main__": {"framework.cli": "python -m framework"},
}

MODULES = sorted(FRAMEWORK.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
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
            # `from framework import errors` imports a module, and `from framework.errors import X` a name of one.
            yield from ((node.lineno, f"{base}.{alias.name}" if base == "framework" else base) for alias in node.names)


def forbidden(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Imports within the project that the table does not allow to `module`."""
    layers = [layer for layer in ALLOWED if is_below(module, layer)]
    if not layers and module != "framework":
        return [f"{module} belongs to no layer of the table"]
    allowed = [name for layer in layers for name in (layer, *ALLOWED[layer])]
    return [
        f"{module}:{line} imports {name}"
        for line, name in imports(source, module, is_package=is_package)
        if is_below(name, "framework") and not any(is_below(name, top) for top in allowed)
    ]


def calls(source: str, module: str) -> list[str]:
    """Calls that are forbidden everywhere, or everywhere but in one module."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in ("time.sleep", "sleep", "asyncio.sleep") and module != "framework.deadline":
            found.append(f"{module}:{node.lineno} sleeps; poll() of framework/deadline.py waits with a deadline")
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
    if module_name(path) == "framework.plugin":
        return
    used = [name for _, name in imports(path.read_text(), module_name(path))]
    assert [name for name in used if name.split(".")[0] in ("pytest", "_pytest", "testinfra")] == []


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
        lower = [*order[: order.index(layer)], "framework.__version__"]
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
        ("framework.host.store", "from framework.guest.qemu import Qemu"),
        ("framework.host.store", "from framework.evidence import slab"),
        ("framework.guest.ssh", "from framework.build.image import make_keys"),
        ("framework.guest.agent", "from framework.evidence.judge import judge"),
        ("framework.build.image", "from framework.guest.sshx import SshKeys"),
        ("framework.build.image", "from framework.guest import ssh"),
        ("framework.build.spl", "import framework.lab.scenarios"),
        ("framework.evidence.judge", "from framework.deadline import Deadline"),
        ("framework.evidence.judge", "def f():\n    from framework import log"),
        ("framework.evidence.judge", "if TYPE_CHECKING:\n    import framework.host.process as p"),
        ("framework.evidence.judge", "from ..lab.rundir import read_evidence"),
        ("framework.evidence.judge", "from .. import log"),
        ("framework.report.summary", "from framework.lab.rundir import RunDirectory"),
        ("framework.lab.prepare", "from framework.cli import main"),
        ("framework.lab.prepare", "from framework import plugin"),
        ("framework.cli", "from framework.plugin import x"),
        ("framework.deadline", "from framework.log import note"),
        ("framework.errors", "from framework.deadline import Deadline"),
        ("framework.newcomer", "import os"),
    ],
)
def test_an_import_that_is_not_in_the_table(module: str, source: str) -> None:
    assert len(forbidden(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "framework.evidence.judge",
            "import re\nfrom framework.errors import X\nfrom framework.evidence.slab import Y",
        ),
        ("framework.evidence.judge", "from .slab import Y\nfrom ..errors import X\nfrom .. import errors"),
        ("framework.guest.agent", "from framework.evidence.stream import Frame"),
        ("framework.lab.prepare", "from framework import __version__\nfrom frameworks import x"),
    ],
)
def test_an_import_that_is_in_the_table(module: str, source: str) -> None:
    assert forbidden(source, module) == []


def test_relative_imports_of_a_package() -> None:
    assert [*imports("from .slab import x\nfrom ..log import y", "framework.evidence", is_package=True)] == [
        (1, "framework.evidence.slab"),
        (2, "framework.log"),
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
    assert len(calls(source, "framework.lab.x")) == 1


def test_calls_that_are_not() -> None:
    assert calls("console.print(x)\nrun(x, shell=False)\nthread.join(1)\nevent.wait(1)", "framework.lab.x") == []
    assert calls("time.sleep(1)", "framework.deadline") == []


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


def tree() -> list[Path]:
    """Every file that is, or could be, committed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
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


@needs_checkout
def test_the_tree_is_read() -> None:
    names = {str(path.relative_to(ROOT)) for path in tree()}
    assert {"framework/errors.py", "pyproject.toml", "images/guest/init"} <= names
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
