"""The command line as a user meets it: statuses, messages, JSON. Nothing here needs a guest."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from commandline import CommandLine
from places import PROJECT
from splvm import __version__
from splvm.builds.kernels import KERNELS
from splvm.builds.source import BUILT
from splvm.builds.variants import VARIANTS
from splvm.cli.guests import run
from splvm.cli.watch import watch
from splvm.evidence.verdict import Outcome
from splvm.scenarios.table import EXPECTED, SCENARIOS
from unpacking import unpack

COMMANDS = (
    *("doctor", "build", "kernels", "variants", "probe-kernel", "run", "watch", "matrix", "repro", "bisect", "judge"),
    *("history", "report", "worker", "bundle", "examine", "demo", "shell", "parse-slab", "sites", "storm", "test"),
)


def splvm(
    *args: str, cwd: Path | None = None, stdin: bytes = b"", store: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    argv = [sys.executable, "-m", "splvm", *args]
    env = {**os.environ, **({"SPLVM_CACHE": str(store)} if store else {})}
    done = subprocess.run(argv, cwd=cwd, env=env, input=stdin, capture_output=True, check=False, timeout=60)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done


def test_help_lists_every_command() -> None:
    done = splvm("--help")
    assert done.returncode == 0
    for command in COMMANDS:
        assert command in done.stdout.decode()


@pytest.mark.parametrize("command", COMMANDS[:-1])
def test_help_of_a_command(commandline: CommandLine, command: str) -> None:
    done = commandline(command, "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout


def test_version() -> None:
    told = splvm("--version").stdout.decode().strip()
    assert re.fullmatch(rf"splvm {re.escape(__version__)}( \([0-9a-f]{{12}}(, edited)?\))?", told)
    assert ("(" in told) == (PROJECT / ".git").exists()


@pytest.mark.parametrize(
    ("args", "names"),
    [
        (("run", "no-such"), ("nominal", "held-worker")),
        (("run", "nominal", "--kernel", "no-such"), ("debian-12",)),
        (("run", "nominal", "--variant", "no-such"), ("stock", "no-emergency")),
        (("run", "nominal", "--expect", "no-such"), ("PROGRESS", "STALLED")),
        (("run", "nominal", "--kernel", "path:/"), ("path:VMLINUZ,HEADERS",)),
        (("run", "nominal", "--kernel", "path:/dev/null,/"), ("no bzImage",)),
        (("run", "nominal", "--kernel", "built:no-such"), ("plain", "lockdep", "faults", "kasan")),
        (("run", "nominal", "--kernel", "built:plain,no-such"), ("bookworm", "trixie")),
        (("build", "--kernel", "no-such"), ("debian-12",)),
        (("demo", "--kernel", "no-such"), ("debian-12",)),
        (("probe-kernel", "--kernel", "no-such"), ("debian-11", "debian-12")),
        (("probe-kernel", "--accel", "no-such"), ("auto", "kvm", "tcg")),
        (("shell", "--variant", "no-such"), ("stock",)),
        (("run", "nominal", "--accel", "no-such"), ("auto", "kvm", "tcg")),
        (("run", "nominal", "--spl", "no-such"), ("debian", "path:DIR")),
        (("run", "nominal", "--spl", "path:/"), ("not the top of an OpenZFS tree",)),
        (("run", "nominal", "--spl-patch", "no-such.cocci"), (".cocci, .patch, .diff or .h",)),
        (("repro", "no-such"), ("nominal", "held-worker")),
        (("run", "held-workr"), ("there are: ", "did you mean held-worker")),
        (("run", "nominal", "--variant", "stok"), ("did you mean stock?",)),
        (("run", "nominal", "--kernel", "debian-1"), ("did you mean debian-",)),
        (("run", "nominal", "--load", "writebak"), ("did you mean writeback?",)),
        (("repro", "nominal", "--until", "20"), ("--until 20", "hits=N", "runs=N", "minutes=N")),
        (("repro", "nominal", "--hit", "no-such"), ("--hit no-such", "STALLED")),
        (("repro", "nominal", "--kernel", "no-such"), ("debian-12",)),
        (("watch", "no-such"), ("nominal", "held-worker")),
        (("watch", "nominal"), ("nothing to watch", "path:DIR", "--spl-patch")),
        (("watch", "nominal", "--spl", "path:/"), ("not the top of an OpenZFS tree",)),
        (("no-such",), ("No such command",)),
        (("run",), ("SCENARIO",)),
        (("run", "nominal", "--memory", "1"), ("256",)),
    ],
)
def test_unknown_names_are_answered_with_the_valid_ones(
    commandline: CommandLine, tmp_path: Path, args: tuple[str, ...], names: tuple[str, ...]
) -> None:
    # With a store that is empty: what is wrong is said before anything is fetched or built.
    done = commandline(*args, cwd=tmp_path, store=tmp_path / "store")
    assert done.returncode == 2, done.stderr
    for name in names:
        assert name in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.rglob("run.json"))
    assert not list(tmp_path.glob("store/apt/*/lists/*_Packages"))


def test_variants_and_what_is_expected_of_them() -> None:
    said = json.loads(splvm("variants", "--json").stdout)
    assert [row["name"] for row in said["variants"]] == list(VARIANTS)
    for row in said["variants"]:
        assert all(Path(patch).is_file() for patch in row["patches"])
    assert {(row["scenario"], row["variant"]) for row in said["expected"]} == set(EXPECTED)
    shown = splvm("variants").stdout.decode()
    assert "STALLED where NOIO is ignored, else IMMUNE" in shown
    for name, variant in VARIANTS.items():
        assert name in shown and variant.control_for.split()[0] in shown


def test_kernels_without_a_store_or_a_network(tmp_path: Path) -> None:
    done = splvm("kernels", "--json", store=tmp_path / "store")
    assert done.returncode == 0
    said = json.loads(done.stdout)
    assert said["schema_version"] == 1
    assert [row["id"] for row in said["kernels"]] == [*KERNELS, *(f"built:{name}" for name in BUILT)]
    for row in said["kernels"]:
        assert set(row) == {"id", "suite", "metapackage", "note", "resolved", "stored", "honours_noio"}
        assert (row["resolved"], row["stored"]) == (None, False)
    shown = splvm("kernels", store=tmp_path / "store")
    assert shown.returncode == 0
    assert shown.stdout.count(b"when first used") == len(said["kernels"])
    assert not (tmp_path / "store" / "apt").exists()


def test_out_that_is_in_use(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    done = splvm("run", "nominal", "--out", str(tmp_path))
    assert done.returncode == 2
    assert b"not an empty directory" in done.stderr


@pytest.mark.parametrize("name", ["slab-2012-08.txt", "slab-2012-11.txt", "slab-pasted.txt"])
def test_parse_slab_json_keeps_its_contract(data: Path, name: str) -> None:
    done = splvm("parse-slab", str(data / name), "--json")
    assert done.returncode == 0
    slab = json.loads(done.stdout)
    assert set(slab) == {"layout", "caches"}
    assert slab["layout"] in ("2012-08", "2012-11")
    assert slab["caches"]
    for cache in slab["caches"]:
        groups = {"slab", "object", "emergency"}
        assert set(cache) == {"name", "flags", "size", "alloc", "slabsize", "objsize"} | groups
        assert set(cache["slab"]) == set(cache["object"]) == {"total", "alloc", "max"}
        assert set(cache["emergency"]) == {"dlock", "alloc", "max"}


def test_parse_slab_from_stdin_and_for_people(data: Path) -> None:
    done = splvm("parse-slab", "-", stdin=(data / "slab-2012-11.txt").read_bytes())
    assert done.returncode == 0
    assert b"emergency" in done.stdout


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.97])
def test_truncated_slab_file_names_its_line(data: Path, tmp_path: Path, keep: float) -> None:
    whole = (data / "slab-2012-11.txt").read_bytes()
    cut = whole[: int(len(whole) * keep)]
    (tmp_path / "cut").write_bytes(cut)
    done = splvm("parse-slab", str(tmp_path / "cut"))
    assert done.returncode == 1
    assert f"line {len(cut.splitlines())}" in done.stderr.decode()
    assert done.stdout == b""


def test_foreign_slab_file(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    done = splvm("parse-slab", str(tmp_path / "passwd"))
    assert done.returncode == 1
    assert b"line 1" in done.stderr


def test_slab_file_that_is_not_there(tmp_path: Path) -> None:
    done = splvm("parse-slab", str(tmp_path / "none"))
    assert done.returncode == 2
    assert b"No such file" in done.stderr


def test_judge_of_what_is_no_run(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "none"):
        done = splvm("judge", str(directory))
        assert done.returncode == 1
        assert done.stderr.startswith(b"error: ")


def test_the_suite_is_found_from_anywhere(tmp_path: Path) -> None:
    done = splvm("test", "--collect-only", "-q", "-n0", "tests/vm/test_probe.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert b"tests/vm/test_probe.py::test_guest_host_is_the_guest" in done.stdout


def test_doctor_json() -> None:
    done = splvm("doctor", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["ok"] else 3)
    assert {"python", "programs", "qemu", "kvm", "disk"} <= {check["name"] for check in report["checks"]}


def test_reader_that_goes_away(data: Path) -> None:
    """`splvm parse-slab FILE | head -0`."""
    argv = f"{sys.executable} -m splvm parse-slab {data / 'slab-2012-11.txt'} | true"
    done = subprocess.run(["sh", "-c", argv], capture_output=True, check=False, timeout=60)
    assert b"Traceback" not in done.stderr


def test_the_reference_names_everything_that_can_be_asked_for(project: Path) -> None:
    reference = (project / "docs" / "reference.md").read_text()
    for name in (*SCENARIOS, *KERNELS, *Outcome, *(f"splvm {command}" for command in COMMANDS)):
        assert re.search(rf"[`/ ]{re.escape(name)}\b", reference), f"{name} is not in docs/reference.md"


def test_the_first_page_is_read_in_two_minutes(project: Path) -> None:
    assert (project / "README.md").stat().st_size <= 7000


def test_history_of_recorded_runs(commandline: CommandLine, data: Path, tmp_path: Path) -> None:
    store, runs = tmp_path / "store", tmp_path / "runs"
    for name in ("stalled", "progress"):
        with tarfile.open(data / "runs" / f"{name}.tar.xz") as archive:
            unpack(archive, runs)
    assert "2 added, 0 there already" in commandline("history", "import", str(runs), store=store).stdout
    (runs / "broken").mkdir()
    (runs / "broken" / "run.json").write_text("{")
    again = commandline("history", "import", str(runs), "--json", store=store)
    said = json.loads(again.stdout)
    assert (again.returncode, said["added"], said["known"]) == (1, 0, 2)
    assert [Path(each["directory"]).name for each in said["damaged"]] == ["broken"]
    cells = json.loads(commandline("history", "list", "--json", store=store).stdout)["cells"]
    assert {cell["verdict"] for cell in cells} == {"STALLED", "PROGRESS"}
    # Their window is not the scenario's own, so they are no runs of the nightly cell.
    cell, short = "held-worker,debian-12,no-emergency", ("--parameter", "window=2")
    assert (
        "held-worker debian-12 no-emergency: the history has no run"
        in commandline("history", "show", cell, store=store).stderr
    )
    hint = "splvm history show held-worker,debian-12,no-emergency --parameter window=2"
    assert hint in commandline("history", "show", cell, store=store).stderr
    (run,) = json.loads(commandline("history", "show", cell, *short, "--json", store=store).stdout)["runs"]
    assert run["verdict"] == "STALLED" and run["duration_s"] > 1 and len(run["fingerprint"]) == 12
    shown = commandline("history", "show", cell, *short, "--figure", "longest_gap_ms", store=store).stdout
    assert "2387.2" in shown and run["fingerprint"] in shown
    judged = commandline("history", "judge", "--json", store=store)
    assert judged.returncode == 0, "a single bad run is no regression, and it was expected"
    assert {remark["kind"] for remark in json.loads(judged.stdout)["remarks"]} <= {"new fingerprint"}
    assert commandline("history", "show", "a,b,c", store=store).returncode == 1
    assert commandline("history", "show", "a,b", store=store).returncode == 2
    assert commandline("history", "show", "a,b,c", "--parameter", "window", store=store).returncode == 2
    assert commandline("history", "import", str(tmp_path / "none"), store=store).returncode == 1


def test_watch_takes_what_run_takes() -> None:
    of_run, of_watch = (inspect.signature(command).parameters for command in (run, watch))
    assert [*of_watch] == [*of_run]
    assert {name: it.default for name, it in of_watch.items()} == {name: it.default for name, it in of_run.items()}
