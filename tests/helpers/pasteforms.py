"""Forms in which people paste a kernel's log: each makes a text of the kernel's own lines."""

from __future__ import annotations

import base64
import html
import json
import quopri
import re
import textwrap
from collections.abc import Callable, Sequence

Form = Callable[[Sequence[str]], str]


def _before(*prefix: str) -> Form:
    """A prefix before each line; `{n}` is a number that grows, `{us}` microseconds, `{c}` nothing."""

    def put(lines: Sequence[str]) -> str:
        made = []
        for number, line in enumerate(lines):
            made.append(
                prefix[min(number, len(prefix) - 1)].format(n=number, us=f"{number:06d}", us9=990932 + number) + line
            )
        return "\n".join(made) + "\n"

    return put


_JOURNAL = {"_TRANSPORT": "kernel", "SYSLOG_IDENTIFIER": "kernel", "PRIORITY": "3", "_HOSTNAME": "box"}


def _journal(lines: Sequence[str]) -> list[dict[str, str]]:
    """The fields of the records of a journal."""
    return [
        {
            "__REALTIME_TIMESTAMP": str(1_693_434_573_000_000 + number),
            "_SOURCE_MONOTONIC_TIMESTAMP": str(86_523_990_932 + number),
            **_JOURNAL,
            "MESSAGE": line,
        }
        for number, line in enumerate(lines)
    ]


def _json(lines: Sequence[str]) -> str:
    return "".join(json.dumps(record) + "\n" for record in _journal(lines))


def _json_bytes(lines: Sequence[str]) -> str:
    """As journalctl prints messages that are no UTF-8 or hold control characters."""
    records = [{**record, "MESSAGE": list(record["MESSAGE"].encode())} for record in _journal(lines)]
    return "".join(json.dumps(record) + "\n" for record in records)


def _json_bytes_pretty(lines: Sequence[str]) -> str:
    records = [{**record, "MESSAGE": list(record["MESSAGE"].encode())} for record in _journal(lines)]
    return "".join(json.dumps(record, indent="\t", separators=(",", " : ")) + "\n" for record in records)


def _export(lines: Sequence[str]) -> str:
    return "".join(
        "__CURSOR=s=abc;i=1\n" + "".join(f"{key}={value}\n" for key, value in record.items()) + "\n"
        for record in _journal(lines)
    )


def _verbose(lines: Sequence[str]) -> str:
    head = "Tue 2024-11-12 03:14:07.123456 CET [s=abc;i=1;b=00;m=1;t=2;x=3]\n"
    fields = (sorted(record.items(), key=lambda it: hash(it[0]) % 7) for record in _journal(lines))
    return "".join(head + "".join(f"    {key}={value}\n" for key, value in each) for each in fields)


def _records(make: Callable[[str], object], *, indent: int | None = None) -> Form:
    """A record of JSON for each line, as a shipper of logs writes it."""
    return lambda lines: "".join(json.dumps(make(line), indent=indent) + "\n" for line in lines)


def _stamped(lines: Sequence[str]) -> list[str]:
    return [f"[86523.{number:06d}] {line}" for number, line in enumerate(lines)]


def _base64(lines: Sequence[str]) -> str:
    data = base64.encodebytes("\r\n".join(lines).encode()).decode()
    head = 'Content-Type: text/plain; name="dmesg.txt"\nContent-Transfer-Encoding: base64\n\n'
    return f"{head}{data}\n--part--\n"


def _terminal(columns: int) -> Form:
    """As a terminal breaks lines, in the middle of words."""

    def put(lines: Sequence[str]) -> str:
        long = [f"Aug 30 22:29:33 box.example.org kernel: {line}" for line in _stamped(lines)]
        return "".join(line[at : at + columns] + "\n" for line in long for at in range(0, len(line), columns))

    return put


def _wrapped_behind(prefix: str, width: int) -> Form:
    return lambda lines: _wrapped(width)([prefix + line for line in lines])


def _dmesg_json(lines: Sequence[str]) -> str:
    records = [{"pri": 3, "time": 86523.99 + number / 1000, "msg": line} for number, line in enumerate(lines)]
    return json.dumps({"dmesg": records}, indent=3) + "\n"


def _quoted_printable(lines: Sequence[str]) -> str:
    head = "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n"
    return head + quopri.encodestring("\n".join(lines).encode()).decode() + "\n"


def _html(lines: Sequence[str]) -> str:
    body = "".join(f"<span class='line'>{html.escape(line)}</span><br/>\n" for line in lines)
    return f"<html><body><pre><code>{body}</code></pre></body></html>\n"


def _one_line_html(lines: Sequence[str]) -> str:
    return "<p>" + "<br>".join(map(html.escape, lines)) + "</p>\n"


def _wrapped(width: int) -> Form:
    """As a mailer breaks lines at blanks."""

    def put(lines: Sequence[str]) -> str:
        made = []
        for line in lines:
            while len(line) > width and " " in line[20:width]:
                cut = line.rindex(" ", 20, width)
                made.append(line[:cut])
                line = line[cut + 1 :]
            made.append(line)
        return "\n".join(made) + "\n"

    return put


# Any text.
PLAIN: dict[str, Form] = {
    "as it is": _before(""),
    "indented": _before("    "),
    "indented by a tab": _before("\t"),
    "quoted": _before("> "),
    "quoted twice": _before(">> "),
    "quoted of a quote": _before("> > "),
    "CR LF": lambda lines: "\r\n".join(lines) + "\r\n",
    "CR CR LF": lambda lines: "\r\r\n".join(lines) + "\r\r\n",
    "no last line end": lambda lines: "\n".join(lines),
    "blank lines between": lambda lines: "\n\n".join(lines) + "\n",
    "Markdown": lambda lines: "Here it is:\n\n```\n" + "\n".join(lines) + "\n```\n",
    "HTML": _html,
    "HTML on one line": _one_line_html,
    "quoted-printable": _quoted_printable,
    "byte order mark": lambda lines: "\ufeff" + "\n".join(lines) + "\n",
    "HTML with nbsp": lambda lines: (
        "<pre>" + "<br/>\n".join(html.escape(line).replace(" ", "&nbsp;") for line in lines) + "</pre>\n"
    ),
    "base64": _base64,
    "base64 in a quoted mail": lambda lines: "".join(f"> {line}\n" for line in _base64(lines).split("\n")),
    "nbsp": lambda lines: "\n".join(lines).replace(" ", "\u00a0") + "\n",
    "zero width": lambda lines: "\u200b\n".join(lines) + "\n",
    "curly": lambda lines: "\n".join(lines).replace("0x", "0\u00d7").replace('"', "\u201d") + "\n",
    "CR": lambda lines: "\r".join(lines) + "\r",
    "vertical tabs": lambda lines: "\x0b".join(lines),
    "line separators": lambda lines: "\u2028".join(lines),
    "cat -v": lambda lines: "".join(f"^[[31m{line}^[[0m^M\n" for line in lines),
    "chat": lambda lines: "Jane  10:29 PM\n```" + "\n".join(lines) + "```\n",
    "tracker": lambda lines: "{code:title=dmesg|borderStyle=solid}\n" + "\n".join(lines) + "{code}\n",
    "colours of a terminal": lambda lines: "".join(f"\x1b[0m\x1b[31m{line}\x1b[0m\r\n" for line in lines),
    "RTF": lambda lines: (
        "{\\rtf1\\ansi\\deff0{\\fonttbl{\\f0 Courier;}}\\f0\\fs20\n"
        + "".join(re.sub(r"([\\{}])", r"\\\1", line).replace("\t", "\\tab ") + "\\par\n" for line in lines)
        + "}\n"
    ),
    "prose around": lambda lines: "Hello,\n\nmy pool hangs:\n\n" + "\n".join(lines) + "\n\nThanks, Jane\n",
}
# What puts something before a kernel's messages: dmesg(1), journalctl(1), rsyslog, consoles, and combinations.
KERNEL: dict[str, Form] = {
    "dmesg": _before("[86523.{us}] "),
    "dmesg soon after boot": _before("[    3.{us}] "),
    "rsyslog with a facility": _before("2024-11-12T03:14:07.{us} kern.info box kernel: [86523.{us}] "),
    "dmesg with callers": _before("[86523.{us}][  T790] "),
    "dmesg -T": _before("[Thu Jul 28 04:20:23 2016] "),
    "dmesg -T in French": _before("[jeu. juil. 28 04:20:23 2016] "),
    "dmesg -T in Japanese": _before("[木  7月 28 04:20:23 2016] "),
    "dmesg -T in German": _before("[Do Mär 28 04:20:23 2016] "),
    "dmesg -H": _before("[Jul28 04:20] ", "[  +0.000001] "),
    "dmesg -H of an old one": _before("[Jul 8 04:20] ", "[  +0.000001] "),
    "dmesg -d": _before("[86523.{us} <    0.000001>] "),
    "dmesg -T -d": _before("[Thu Jul 28 04:20:23 2016 <    0.000001>] "),
    "dmesg -t -d": _before("[<    0.000001>] "),
    "dmesg -H with a decimal comma, from its middle": _before("[  +0,000001] "),
    "dmesg -d with a decimal comma": _before("[86523.{us} <    0,000001>] "),
    "dmesg -x": _before("kern  :err   : [86523.{us}] "),
    "dmesg -r": _before("<3>[86523.{us}] "),
    "dmesg -t -r": _before("<3>"),
    "dmesg iso": _before("2025-08-30T22:29:33,{us}-04:00 "),
    "dmesg --json": _dmesg_json,
    "/dev/kmsg": _before("3,{n},86523{us9},-;"),
    "/dev/kmsg with callers": _before("3,{n},86523{us9},-,caller=T790;"),
    "journalctl": _before("Apr  5 05:53:22 box kernel: "),
    "journalctl in German": _before("Mär 05 05:53:22 box kernel: "),
    "journalctl in French": _before("juil. 05 05:53:22 box kernel: "),
    "journalctl in Japanese": _before("7月 05 05:53:22 box kernel: "),
    "journalctl without a host": _before("Apr 27 03:53:42 kernel: "),
    "journalctl short-precise": _before("Apr 05 05:53:22.{us} box kernel: "),
    "journalctl short-iso": _before("2025-08-30T22:29:33-04:00 box kernel: "),
    "journalctl short-iso-precise": _before("2025-08-30T22:29:33.{us}+0200 box kernel: "),
    "journalctl short-full": _before("Sat 2025-08-30 22:29:33 CEST box kernel: "),
    "journalctl short-monotonic": _before("[86523.{us}] box kernel: "),
    "journalctl short-unix": _before("1756585773.{us} box kernel: "),
    "journalctl json": _json,
    "journalctl json, bytes": _json_bytes,
    "journalctl json, array": lambda lines: json.dumps(_journal(lines), indent=1) + "\n",
    "journalctl json-pretty": lambda lines: "".join(json.dumps(it, indent="\t") + "\n" for it in _journal(lines)),
    "journalctl json-pretty, bytes": _json_bytes_pretty,
    "journalctl export": _export,
    "journalctl export, messages alone": _before("MESSAGE="),
    "journalctl verbose": _verbose,
    "journalctl verbose, messages alone": _before("    MESSAGE="),
    "journalctl with units": _before("Sat 2025-08-30 22:29:33 CEST box init.scope/kernel[]: "),
    "RFC 5424": _before("<3>1 2025-08-30T22:29:33.123Z box kernel - - - "),
    "RFC 3164": _before("<3>Apr  5 05:53:22 box kernel: "),
    "netconsole with a release": _before("6.1.0-18-amd64,3,{n},86523{us9},-;"),
    "Docker": _records(lambda line: {"log": line + "\n", "stream": "stderr", "time": "2025-08-30T22:29:33.12Z"}),
    "shipper": _records(lambda line: {"@timestamp": "2025", "message": line, "host": {"name": "box"}}),
    "cloud logging": _records(lambda line: {"insertId": "x", "jsonPayload": {"message": line}}),
    "logfmt": lambda lines: "".join(f"ts=2025 level=err msg={json.dumps(line)} host=box\n" for line in lines),
    "quotes that nobody escaped": lambda lines: "".join(
        f'2025-08-30 22:29:33.1\t{{"host":"box","msg":"{line}"}}\n' for line in lines
    ),
    "rsyslog": _before("Apr  5 05:53:22 box kernel: [86523.{us}] "),
    "rsyslog with a number": _before("Apr  5 05:53:22 box kernel[0]: "),
    "rsyslog iso": _before("2025-08-30T22:29:33.{us}+02:00 box kernel: [86523.{us}] "),
    "rsyslog, day first": _before("5. Apr 05:53:22 box kernel: "),
    "syslog without kernel": _before("Apr  5 05:53:22 box [86523.{us}] "),
    "netconsole": _before("3,{n},86523{us9},-;"),
    "netconsole in syslog": _before("Apr  5 05:53:22 192.0.2.7 [86523.{us}] "),
    "time and kernel": _before("09:08:30 kernel: "),
    "kernel": _before("kernel: "),
    "kernel with a number": _before("kernel[0]: "),
    "host and kernel": _before("box kernel: "),
    "grep": _before("kern.log:Apr  5 05:53:22 box kernel: [86523.{us}] "),
    "grep with a path": _before("/var/log/kern.log.1:Apr  5 05:53:22 box kernel: [86523.{us}] "),
    "grep -n": _before("{n}:[86523.{us}] "),
    "numbered": _before("{n}\t[86523.{us}] "),
    "quoted journal": _before("> Apr  5 05:53:22 box kernel: "),
    "indented dmesg": _before("        [86523.{us}] "),
    "table": _before("| [86523.{us}] "),
}
# The same of records and programs that are rarer: for some texts, since each costs time.
RARE: dict[str, Form] = {
    "a page of search results": lambda lines: json.dumps(
        {"hits": {"hits": [{"_source": {"message": line, "host": {"name": "box"}}} for line in lines]}}
    ),
    "search results, pretty": lambda lines: json.dumps(
        {"hits": {"hits": [{"_source": {"message": line}} for line in lines]}}, indent=2
    ),
    "kubectl": lambda lines: "".join(
        f"2025-08-30T22:29:33.12Z {json.dumps({'level': 'err', 'msg': line})}\n" for line in lines
    ),
    "GELF": _records(lambda line: {"version": "1.1", "host": "box", "short_message": line, "timestamp": 1.5e9}),
    "raw event": _records(lambda line: {"preview": False, "result": {"_raw": f"Aug 30 22:29:33 h kernel: {line}"}}),
    "events": lambda lines: json.dumps({"events": [{"timestamp": 1, "message": line} for line in lines]}, indent=4),
    "escapes within JSON": lambda lines: "".join(
        json.dumps({"message": f"\x1b[32m{line}\x1b[0m"}) + "\n" for line in _stamped(lines)
    ),
    "a list of strings": lambda lines: (
        '  "stdout_lines": [\n' + ",\n".join(f"    {json.dumps(line)}" for line in _stamped(lines)) + "\n  ]\n"
    ),
    "a result": lambda lines: (
        "ok: [box] => " + json.dumps({"changed": False, "stdout": "\n".join(_stamped(lines)), "rc": 0}) + "\n"
    ),
    "a list of Python's": lambda lines: repr(_stamped(lines)) + "\n",
    "bytes of Python's": lambda lines: repr(("\n".join(_stamped(lines)) + "\n").encode()) + "\n",
    "YAML": lambda lines: "log:\n" + "".join(f"  - {json.dumps(line)}\n" for line in _stamped(lines)),
    "CRI": _before("2025-08-30T22:29:33.123456789+02:00 stderr F [86523.{us}] "),
    "logread": _before("Sat Aug 30 22:29:33 2025 kern.err kernel: [86523.{us}] "),
    "busybox": _before("Aug 30 22:29:33 box kern.err kernel: [86523.{us}] "),
    "phone, one maker": _before("<3>[86523.{us}] (3)[790:txg_sync]"),
    "phone, another maker": _before("[86523.{us}] I[3:       txg_sync:  790] "),
    "a CPU within the stamp": _before("<3>[86523.{us},0] "),
    "TAI64N": _before("@4000000068b36f5d0eb5a9f4 [86523.{us}] "),
    "a builder's time": _before("2025-08-30T22:29:33.123456Z 01O "),
    "another builder's time": _before("\x1b_bk;t=1693434573123\x07[86523.{us}] "),
    "a terminal program's time": _before("[2025-08-30 22:29:33] "),
    "serial over LAN": lambda lines: (
        "[SOL Session operational.  Use ~? for help]\r\n" + "".join(f"\x00\r{it}\r\n" for it in _stamped(lines))
    ),
    "pstore": lambda lines: "Panic#2 Part1\n" + "".join(f"<3>{line}\n" for line in _stamped(lines)),
    "a virtual machine's console": _before("2025-08-30 22:29:33.123+0000: [86523.{us}] "),
    "a hypervisor's log": _before("Aug 30 22:29:33 pve1 QEMU[1234]: [86523.{us}] "),
    "twelve hours": _before("8/30/2025 10:29:33 PM [86523.{us}] "),
    "pdsh": _before("node17: [86523.{us}] "),
    "chat with names": _before("22:29 < jane> [86523.{us}] "),
    "comments": _before("# [86523.{us}] "),
    "less -N": lambda lines: "".join(f"{at + 5:7d} {line}\n" for at, line in enumerate(_stamped(lines))),
    "tabs of a table": _before("2025-08-30\t22:29:33\terr\tkern\t[86523.{us}]\t"),
    "cells of HTML": lambda lines: (
        "<table>" + "".join(f"<tr><td>1</td><td>{html.escape(it)}</td></tr>" for it in _stamped(lines)) + "</table>"
    ),
    "an address": lambda lines: "%0A".join(lines),
    "one line": lambda lines: " ".join(_stamped(lines)) + "\n",
    "one line of a journal": lambda lines: " ".join(f"Apr  5 05:53:22 box kernel: {it}" for it in _stamped(lines)),
    "one line without times": lambda lines: " ".join(lines) + "\n",
    "a paragraph": lambda lines: textwrap.fill("\n".join(_stamped(lines)), 72),
    "backwards": lambda lines: "".join(f"Apr  5 05:53:22 box kernel: {line}\n" for line in reversed(lines)),
    "backwards, with times": lambda lines: "".join(f"{line}\n" for line in reversed(_stamped(lines))),
    "a terminal of 80 columns": _terminal(80),
    "a terminal of 60 columns": _terminal(60),
    "a mailer, behind a prefix": _wrapped_behind("Nov 12 03:14:07 box.example.org kernel: [6042.123456] ", 72),
}
# In no table: the prefix is learned from the first complaint behind it, so logs that begin otherwise lose their start.
LEARNED: dict[str, Form] = {
    "docker compose": _before("zfs-1  | [86523.{us}] "),
    "kubernetes": _before("2025-08-30T22:29:33.{us}789Z stdout F [86523.{us}] "),
    "a date in brackets": _before("[2025-08-30 22:29:33] [86523.{us}] "),
    "bullets": _before("* [86523.{us}] "),
    "a diff": _before("+[86523.{us}] "),
    "syslog of an appliance": _before("2025-08-30 22:29:33 Kernel.Error 192.0.2.3 [86523.{us}] "),
    "tabs": _before("Apr  5 05:53:22\tbox\tkernel:\t"),
    "logcat": _before("08-30 22:29:33.123  0  0 E kernel : "),
    "a cell of a table": lambda lines: "".join(f'"2025-08-30 22:29:33","{line}"\n' for line in lines),
    "code spans": lambda lines: "".join(f"`[86523.1] {line}`\n" for line in lines),
    "cat -A": lambda lines: "".join(f"[86523.{number:06d}] {line}$\n" for number, line in enumerate(lines)),
    "a string of JSON": lambda lines: '"' + "\\n".join(lines).replace('"', '\\"') + '"\n',
}
# These lose what the kernel says over several lines, or the blanks by which it is told: only for logs of hung tasks.
WRAPPED: dict[str, Form] = {"a mailer at 64": _wrapped(64), "a mailer at 72": _wrapped(72)}
