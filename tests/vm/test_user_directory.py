"""The example of docs/pytest.md, in a directory of a user's own, with the package as pip installs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.splvm_vm


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the package installed in it, not linked to the checkout."""
    target = tmp_path_factory.mktemp("site")
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def run_pytest(installed: Path, directory: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """pytest in `directory`, with the installed package found before the checkout's."""
    code = f"import sys; sys.path.insert(0, {str(installed)!r}); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    argv = [sys.executable, "-c", code, "-v", "--rootdir", str(directory), "--basetemp", str(directory / "tmp"), *args]
    return subprocess.run(argv, cwd=directory, capture_output=True, text=True, check=False, timeout=600)


def test_the_documented_example(project: Path, installed: Path, tmp_path: Path) -> None:
    blocks = re.findall(
        r"^```python\n(# test_my_spl\.py\n.*?)^```", (project / "docs" / "pytest.md").read_text(), re.M | re.S
    )
    assert len(blocks) == 1
    (tmp_path / "test_my_spl.py").write_text(blocks[0])
    done = run_pytest(installed, tmp_path, "--splvm-require-vm")
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) == blocks[0].count("def test_"), done.stdout
    where = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path.insert(0, {str(installed)!r}); import splvm; print(splvm.__file__)",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(installed))


def test_wrong_verdict_is_a_failure_with_its_evidence(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "test_wrong.py").write_text(
        "import pytest\n"
        "from splvm.evidence.verdict import Outcome\n"
        "@pytest.mark.splvm_vm\n"
        "def test_wrong(run_scenario):\n"
        "    run_scenario('held-worker', variant='no-emergency').must_be(Outcome.PROGRESS)\n"
    )
    done = run_pytest(installed, tmp_path)
    assert done.returncode == 1
    for part in ("verdict STALLED, expected PROGRESS", "got no object for the last", "evidence: ", "1 failed"):
        assert part in done.stdout, done.stdout


def test_trouble_of_the_harness_is_an_error_and_is_not_tried_again(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "test_error.py").write_text(
        "import pytest\n@pytest.mark.splvm_vm\n"
        "@pytest.mark.parametrize('n', [1, 2])\ndef test_it(guest, n):\n    pass\n"
    )
    (tmp_path / "bad.cocci").write_text("@@\n@@\n-spl_there_is_no_such_call();\n")
    done = run_pytest(installed, tmp_path, "--splvm-spl-patch", "bad.cocci")
    assert done.returncode == 1
    assert "2 errors" in done.stdout, done.stdout
    assert "matches nothing" in done.stdout
    assert "failed" not in done.stdout.splitlines()[-1]


def test_unknown_kernel_is_a_usage_error(installed: Path, tmp_path: Path) -> None:
    done = run_pytest(installed, tmp_path, "--splvm-kernel", "no-such")
    assert done.returncode == 4
    assert "debian-12" in done.stderr
