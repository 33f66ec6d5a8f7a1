"""Forms in which people paste a kernel's log: each makes a text of the kernel's own lines."""

from __future__ import annotations

import html
import json
import quopri
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


def _json(lines: Sequence[str]) -> str:
    return "".join(
        json.dumps(
            {
                "_TRANSPORT": "kernel",
                "__REALTIME_TIMESTAMP": str(1_693_434_573_000_000 + number),
                "_SOURCE_MONOTONIC_TIMESTAMP": str(86_523_990_932 + number),
                "_HOSTNAME": "box",
                "MESSAGE": line,
            }
        )
        + "\n"
        for number, line in enumerate(lines)
    )


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
    "colours of a terminal": lambda lines: "".join(f"\x1b[0m\x1b[31m{line}\x1b[0m\r\n" for line in lines),
    "prose around": lambda lines: "Hello,\n\nmy pool hangs:\n\n" + "\n".join(lines) + "\n\nThanks, Jane\n",
}
# What puts something before a kernel's messages: dmesg(1), journalctl(1), rsyslog, consoles, and combinations.
KERNEL: dict[str, Form] = {
    "dmesg": _before("[86523.{us}] "),
    "dmesg soon after boot": _before("[    3.{us}] "),
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
    "journalctl export": _before("MESSAGE="),
    "journalctl verbose": _before("    MESSAGE="),
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
# In no table: the prefix is learned from the first complaint behind it, so logs that begin otherwise lose their start.
LEARNED: dict[str, Form] = {
    "RFC 5424": _before("<3>1 2025-08-30T22:29:33.123Z box kernel - - - "),
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
