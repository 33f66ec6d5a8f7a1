"""Slab files as they are pasted: broken rows, machines, times, and inputs that are pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from splvm.cli.inputs import open_input
from splvm.errors import EvidenceError, UsageError
from splvm.paste.answer import answer_lines
from splvm.paste.explanation import explain, explain_streams
from splvm.paste.slabs import label_of, parse_slabs, series

HEAD = (
    "name                                    flags      size     alloc slabsize  objsize  "
    "total alloc   max  total alloc   max  dlock alloc   max"
)
ROW = (
    "zio_buf_20480                         0x00042    602112    389120   200704    20480      "
    "3     3    54     24    19   432      0     0     {max}"
)


def reading(most: int) -> str:
    return f"{HEAD}\n{ROW.format(max=most)}\n"


def run(*args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "splvm", "parse-slab", *args]
    return subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("above", "label"),
    [
        ("root@db1:~# cat /proc/spl/kmem/slab", "db1"),
        ("[root@web2 ~]# cat /proc/spl/kmem/slab", "web2"),
        ("db1:", "db1"),
        ("=== db1.example.org ===", "db1.example.org"),
        ("Host: db1", "db1"),
        ("==> /tmp/web2.txt <==", "web2"),
        ("before:", ""),
        ("slab:", ""),
        ("$ cat /proc/spl/kmem/slab", ""),
        ("Tue Aug 30 22:29:33 CEST 2025", ""),
        ("==> slab.2 <==", ""),
        ("and then this is what I see", ""),
    ],
)
def test_what_names_a_machine(above: str, label: str) -> None:
    assert label_of(above) == label


def test_readings_of_two_machines_are_no_series() -> None:
    """What one machine counts less of than another did is no contradiction."""
    text = f"db1:\n{reading(5)}\nweb2:\n{reading(2)}"
    found = explain(text)
    assert [it.label for it in found.slab] == ["db1", "web2"]
    assert not found.contradictions and not list(series(found.slab))
    assert run("-", stdin=text).returncode == 0
    again = explain(text + f"\ndb1:\n{reading(3)}")
    assert len(again.contradictions) == 1 and [(one.line, two.line) for one, two in series(again.slab)] == [(3, 11)]


def test_readings_of_one_machine_are_a_series() -> None:
    for above in ("root@db1:~# cat /proc/spl/kmem/slab", "later:", "", "==> slab.2 <=="):
        assert len(explain(f"{above}\n{reading(5)}\n{above}\n{reading(2)}").contradictions) == 1, above
    prefixed = "".join(
        f"Apr  5 05:53:22 {host} app: {it}\n" for host in "ab" for it in reading(5 - (host == "b")).split("\n")
    )
    assert not explain(prefixed).contradictions


def test_files_of_two_machines(tmp_path: Path) -> None:
    for name, most in (("db1.txt", 5), ("web2.txt", 2), ("slab.1", 5), ("slab.2", 2)):
        (tmp_path / name).write_text(reading(most))
    argv = [sys.executable, "-m", "splvm", "explain"]
    machines = subprocess.run([*argv, tmp_path / "db1.txt", tmp_path / "web2.txt"], capture_output=True, timeout=60)
    moments = subprocess.run([*argv, tmp_path / "slab.1", tmp_path / "slab.2"], capture_output=True, timeout=60)
    assert (machines.returncode, moments.returncode) == (0, 1)


@pytest.mark.parametrize("width", [60, 72, 100])
def test_rows_that_a_mailer_broke(width: int) -> None:
    lines = []
    for line in reading(0).splitlines():
        while len(line) > width:
            cut = line.rindex(" ", 0, width)
            lines.append(line[:cut])
            line = line[cut + 1 :]
        lines.append(line)
    (found,) = parse_slabs("\n".join(lines) + "\n")
    assert found.slab.to_json() == parse_slabs(reading(0))[0].slab.to_json()


def test_a_row_whose_rest_does_not_come_is_an_error() -> None:
    text = reading(0) + "zio_buf_24576                         0x00042    466944    245760\nand then it hung\n"
    with pytest.raises(EvidenceError, match="cut") as caught:
        parse_slabs(text)
    assert caught.value.line == 3


@pytest.mark.parametrize(
    "form",
    [
        lambda text: text.replace(" ", "\u00a0"),
        lambda text: "<pre>" + text.replace(" ", "&nbsp;").replace("\n", "<br>\n") + "</pre>",
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "".join(f"> {line}\n" for line in text.splitlines()),
        lambda text: "".join(f"[ 12.000001] {line}\n" for line in text.splitlines()),
        lambda text: (
            "Here:\n```\n" + text + "[...]\n" + text.splitlines()[1].replace("20480", "24576", 1) + "\n```\nThanks\n"
        ),
    ],
    ids=["nbsp", "HTML", "CR LF", "quoted", "stamped", "snipped"],
)
def test_forms_of_pastes(form: object) -> None:
    found = parse_slabs(form(reading(0)))  # type: ignore[operator]
    assert found[0].slab.caches[0].name == "zio_buf_20480"


def test_rates() -> None:
    one, two = reading(0), reading(0).replace("389120", "409600").replace("    19 ", "    20 ")
    said = list(answer_lines(explain(f"2025-08-30 22:29:33\n{one}2025-08-30 22:29:43\n{two}")))
    assert "  zio_buf_20480: alloc 389120 -> 409600, +2048.0 a second" in said
    assert "  zio_buf_20480: in use 19 -> 20, +0.1 a second" in said


def test_json_of_one_and_of_several() -> None:
    one = json.loads(run("--json", "-", stdin=reading(0)).stdout)
    several = json.loads(run("--json", "-", stdin=f"db1:\n{reading(0)}web2:\n{reading(0)}").stdout)
    assert set(one) == {"layout", "caches"}
    assert several["schema_version"] == 1 and [it["label"] for it in several["readings"]] == ["db1", "web2"]
    assert all(it["caches"] == one["caches"] for it in several["readings"])


# Inputs


def test_a_pipe_with_a_name(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_text, args=(reading(0) * 40_000,))
    writer.start()
    with open_input(str(fifo), 30.0) as stream:
        assert stream.read().decode() == reading(0) * 40_000
    writer.join(30)


def test_a_pipe_that_says_nothing(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with open_input(str(fifo), 0.05) as stream, pytest.raises(TimeoutError):
        stream.read(1)
    with open_input(str(fifo), 0.05) as stream:
        found = explain_streams([("fifo", stream)])
    assert found.unread[0].why == "nothing came from it within 0 s"


def test_a_substitution_of_the_shell() -> None:
    command = f"'{sys.executable}' -m splvm parse-slab --json <(cat)"
    done = subprocess.run(["bash", "-c", command], input=reading(0), capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["layout"] == "2012-11"


def test_what_is_no_file(tmp_path: Path) -> None:
    for name in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError):
            open_input(str(name))
    assert run(str(tmp_path)).returncode == 2
