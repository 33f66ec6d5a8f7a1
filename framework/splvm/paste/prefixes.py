"""What stands before a kernel's message when somebody pastes it: times, hosts, levels, callers, quotes.

One table of forms. A line may have several of them, one before the other, as rsyslog's and dmesg's times.
Sources: dmesg(1) of util-linux 2.41, journalctl(1) of systemd 257, Documentation/ABI/testing/dev-kmsg and
Documentation/networking/netconsole.rst of Linux.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Prefixes that one line may have.
MAX_LAYERS = 12
_CONTROL = dict.fromkeys((*range(9), *range(11, 32), 127, 0xFEFF))

_TIME = r"\d{1,2}:\d\d(?::\d\d(?:[.,]\d{1,9})?)?"
# Names of days and months in any language, and those of East Asia.
_WORD = r"(?:[^\W\d_]{1,10}\.?|\d{1,2}(?:月|월))"
_ZONE = r"(?:Z|[ ]?[+-]\d\d:?\d\d|[ ][A-Z]{3,5}(?=[ ]))"
_LAG = r"(?:[ ]{1,4}<[ ]{0,12}[\d.,]{1,24}>)?"
_LEVEL = "emerg|alert|crit|err|warn|notice|info|debug"

# Programs that hand on what the kernel said.
RELAYS = re.compile(
    r"kernel|vmunix|klogd|k?msg|dmesg|netconsole|console|logger|printk|serial|pstore|systemd-pstore|crash|kdump\S*|-|tty\w+"
    r"|ipmi\S*|conserver|conman|qemu\S*|libvirt\S*|containerd?|docker\S*|cat|root|sudo|bash|sh|vmcore-dmesg",
    re.IGNORECASE,
)

# Each form with a pattern; groups that are called alike mean the same. The first that fits counts.
FORMS: tuple[tuple[str, str], ...] = (
    ("blanks", r"[ \t\u00a0]{1,400}"),
    ("quote", r"(?:>[ \t]?){1,20}"),
    ("table", r"\|[ \t]{1,8}"),
    ("fence", r"`{3,10}(?:[a-z]{1,10}(?=\s{0,8}$))?"),
    ("boot", rf"\[[ ]{{0,12}}(?P<boot_s>\d{{1,10}}\.\d{{1,9}}){_LAG}\][ ]?"),
    # Differences have the decimal point of whoever asked for them, and that may be a comma.
    ("delta", r"\[[ ]{0,12}\+(?P<delta_s>\d{1,8}[.,]\d{1,9})\][ ]?"),
    ("lag", r"\[<[ ]{0,12}(?P<lag_s>\d{1,8}[.,]\d{1,9})>\][ ]?"),
    ("human", rf"\[(?P<human>{_WORD}[^\[\]<>]{{0,28}}?{_TIME}(?:[ ]\d{{4}})?){_LAG}\][ ]?"),
    ("caller", r"\[[ ]{0,12}(?P<caller>[TC]\d{1,10})\][ ]?"),
    ("level", r"<\d{1,3}>"),
    ("decoded", rf"(?:kern|user|mail|daemon|auth|syslog|local\d)[ ]{{0,6}}:(?:{_LEVEL})[ ]{{0,6}}:[ ]?"),
    ("facility", rf"(?:kern|user|mail|daemon|auth|syslog|local\d)\.(?:{_LEVEL})[ ]{{1,8}}(?=\S)"),
    (
        "kmsg",
        r"(?:\d[\w.+~-]{2,63},)?\d{1,6},\d{1,20},(?P<kmsg_us>\d{1,20}),[-c+](?:,caller=(?P<kcaller>[TC]\d{1,10}))?[^;\n]{0,80};",
    ),
    ("weekday", r"[^\W\d_]{2,10}\.?[ ](?=\d{4}-\d\d-\d\d[ T])"),
    (
        "rfc5424",
        rf"1[ ](?P<when>\d{{4}}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{{1,9}})?{_ZONE}?|-)[ ](?P<origin>\S{{1,255}})"
        r"[ ](?P<app>\S{1,48})[ ]\S{1,128}[ ]\S{1,32}[ ](?:-|(?:\[[^\]\n]{0,400}\]){1,8})[ ]?",
    ),
    ("iso", rf"(?P<iso>\d{{4}}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{{1,9}})?{_ZONE}?)[ ]{{0,2}}"),
    ("syslog", rf"(?P<syslog>{_WORD}[ ]{{1,2}}\d{{1,2}}日?(?:[ ]\d{{4}})?,?[ ]\d\d:\d\d:\d\d(?:[.,]\d{{1,9}})?)[ ]"),
    ("day first", rf"(?P<day_first>\d{{1,2}}\.?[ ]{_WORD}(?:[ ]\d{{4}})?,?[ ]\d\d:\d\d:\d\d(?:[.,]\d{{1,9}})?)[ ]"),
    ("clock", r"(?P<clock>\d\d:\d\d:\d\d(?:[.,]\d{1,9})?)[ ]"),
    ("unix", r"(?P<unix_s>\d{10}\.\d{3,9})[ ]"),
    ("kernel", r"(?:(?P<host>[\w.:-]{1,64})[ ])?(?:\S{1,40}/)?kernel(?:\[\d{0,7}\])?:(?:[ ]|$|(?=[A-Za-z]))"),
    ("host", r"(?P<bare_host>[\w.:-]{1,64})[ ](?=\[[ ]{0,12}\d{1,10}\.\d{6}\])"),
    (
        "unit",
        r"(?P<unit_host>[\w.:-]{1,64})[ ](?:(?=(?:BUG|WARNING|INFO|PANIC|watchdog|rcu|Oops|SPL|ZFS|usb [\d.-]+): )"
        r"|(?P<program>[\w.@/()-]{1,60})(?:\[\d{0,7}\])?:[ ])",
    ),
    ("number", r"\d{1,6}(?:[:|)]|\t)[ \t]{0,4}(?=\[|<|INFO: |Call |task:|[A-Z][a-z]{2}[ ])"),
    ("file", r"[\w./-]{0,120}(?:log|messages|dmesg|kmsg)[\w.-]{0,40}[:-](?:\d{1,8}[:-])?(?=\S)"),
)
_FORMS = {name: re.compile(pattern) for name, pattern in FORMS}
_BOOT = _FORMS["boot"]
# Which forms a line may begin with, by its first character: most lines have a few only.
_ONLY_AFTER_TIME = frozenset(("host", "unit"))
_UNSTAMPED = frozenset(("blanks", "quote", "table", "fence", "number", "file"))
_BRACKET = ("boot", "delta", "human", "caller", "lag")
_BY_FIRST: dict[str, tuple[str, ...]] = {
    "[": _BRACKET,
    "<": ("level",),
    ">": ("quote",),
    "|": ("table",),
    "`": ("fence",),
    " ": ("blanks",),
    "\t": ("blanks",),
    "\u00a0": ("blanks",),
}
_DIGIT = ("kmsg", "rfc5424", "iso", "syslog", "day first", "clock", "unix", "number", "kernel", "host", "unit", "file")
_WITHOUT_COLON = ("host",)
_OTHER = ("facility", "kernel", "syslog", "decoded", "weekday", "host", "unit", "file")
# What most messages begin with is none of those; to ask once is cheaper than to try each.
_ANY_OTHER = re.compile(
    "|".join(re.sub(r"\?P<\w+>", "?:", dict(FORMS)[name]) for name in _OTHER if name not in _ONLY_AFTER_TIME)
)
# What quotes, `cat -A` and tags leave behind a frame or a mark.
_TAILS = frozenset("`\"$>',}")
_LIST_ENDS = ("']", '"]')
_TAIL = re.compile(r"(?<=[\w\]):>.])(?:</[a-z]\w{0,12}>|[`\"',][`\"', \]]{0,6}|\{(?:code|noformat|quote)\})\s*$|\$$")

# What a complaint begins with, wherever in a line it stands.
_CORE = re.compile(
    r"INFO: task [^\s:]\S{0,40}:\d{1,10} blocked|BUG: (?:kernel|unable|KASAN|soft|KFENCE|workqueue)|Kernel panic - not"
    r"|Call [Tt]race:|(?:sysrq|SysRq ?): Show|PANIC at |VERIFY\d?\(|WARNING: CPU: |task:\S{1,40}\s{1,20}state:[A-Z]"
)
# A frame behind a word that says nothing, and words that say that it is none.
_FRAME = re.compile(
    r"(?P<junk>[\w|<>*/.-]{1,40}\s{1,4})(?P<frame>(?:\(?\[<?[0-9a-f]{1,18}>?\] {1,2}){0,2}"
    r"(?:\? )?[A-Za-z_][\w.]{1,80}\+0x[0-9a-f]{1,8}/0x)"
)
_NO_JUNK = frozenset(
    ("at", "lr", "pc", "in", "from", "by", "LR", "NIP", "PC", "is", "of", "to", "->", "=>", "on", "and")
)
_END_OF_HUNG = re.compile(r"blocked (?:in I/O wait )?for more than \d{1,9} seconds\.")
# Words before it are a sentence, and no prefix.
_SENTENCE = re.compile(r"(?:[A-Za-z',]{1,16} ){2,}$")
MAX_LEARNED = 160


class Learned:
    """A prefix that is in no table, learned from the first complaint behind it: each line that has it loses it."""

    def __init__(self) -> None:
        self.prefix: re.Pattern[str] | None = None
        self.suffix = ""

    def learn(self, line: str, message: str, *, weak: bool = False) -> bool:
        """Whether a complaint or a frame stands in the middle of the line, so that what is before it is a prefix.

        :param message: the line without the prefixes that are known.
        :param weak: what stands in the middle of it may be part of a report: only a frame counts.
        """
        core = None if weak else _CORE.search(line[: MAX_LEARNED + 200])
        if core is None and (frame := _FRAME.match(message)) and frame["junk"].strip() not in _NO_JUNK:
            core = re.compile(re.escape(frame["frame"])).search(line)
        if core is None or not 0 < core.start() <= MAX_LEARNED:
            return False
        before = line[: core.start()]
        words = before.rstrip("\"'`*(")
        if _SENTENCE.search(words) or not before.strip() or before.count("(") > before.count(")"):
            return False
        parts = re.split(r"(\d{1,20}|\s{1,20})", before.rstrip(" "))
        self.prefix = re.compile(
            "".join(r"\d{1,20}" if it.isdigit() else r"\s{0,20}" if it.isspace() else re.escape(it) for it in parts)
        )
        end = _END_OF_HUNG.search(line)
        self.suffix = line[end.end() :].rstrip() if end and len(line) - end.end() < 20 else self.suffix
        return True

    def strip(self, line: str) -> str | None:
        """The rest of a line that has the prefix; None for another one."""
        match = self.prefix.match(line) if self.prefix is not None else None
        if match is None:
            return None
        rest = line[match.end() :]
        return rest.rstrip().removesuffix(self.suffix) if self.suffix else rest


@dataclass(slots=True)
class Line:
    """A message, and what stood before it."""

    message: str
    # As it is written; empty if there is no time.
    time: str = ""
    # Seconds since boot.
    time_s: float | None = None
    host: str = ""
    # Which thread or CPU printed it, if the log says so.
    caller: str | None = None
    # Who wrote it, where the log says that it was not the kernel.
    program: str = ""
    # Of the line of the text, counted from 1.
    number: int = 0
    # Whether a log put something before it, and not only whoever indented or quoted it.
    stamped: bool = False
    # Whether it begins or ends a block of a page.
    fenced: bool = False
    # Seconds since some line before, where the log has only differences.
    elapsed_s: float | None = None

    @property
    def clock_s(self) -> float | None:
        """Seconds on a clock of the text's own: only differences mean something."""
        if self.time_s is not None:
            return self.time_s
        return self.elapsed_s if self.elapsed_s is not None else clock_of(self.time)


class Stripper:
    """Takes the prefixes off lines of one text; a time that is a difference is counted from its first line."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0
        # The last whole time, from which differences count.
        self.human = ""

    def strip(self, text: str) -> Line:
        """The message of a line without what stands before it."""
        line = Line("")
        at, layers, timed = 0, 0, False
        if text[:1] == "[" and (match := _BOOT.match(text)):
            # Most logs have that alone.
            line.time, line.time_s, line.stamped = match[0].strip(" []"), float(match["boot_s"]), True
            at, layers = match.end(), 1
        while layers < MAX_LAYERS and at < len(text):
            first = text[at]
            names = _BY_FIRST.get(first) or (_DIGIT if first.isdigit() else _OTHER)
            if names is _OTHER and not timed and _ANY_OTHER.match(text, at) is None:
                break
            if names is _OTHER and text.find(":", at) < 0:
                # No other form does without.
                names = _WITHOUT_COLON
            for name in names:
                if name in _ONLY_AFTER_TIME and not timed:
                    continue
                if match := _FORMS[name].match(text, at):
                    break
            else:
                break
            self.take(line, name, match)
            # A host stands after a time of the day, and dmesg's own (with a comma) has none.
            if name != "facility":
                timed = name in ("syslog", "day first") or (name == "iso" and "," not in match[0])
            at = match.end()
            layers += 1
            line.stamped = line.stamped or name not in _UNSTAMPED
            if line.program:
                break
        message = text[at:]
        if (message[-1:] in _TAILS or message[-2:] in _LIST_ENDS) and (tail := _TAIL.search(message)):
            message = message[: tail.start()]
        line.message = message if message.isprintable() else message.translate(_CONTROL)
        return line

    def take(self, line: Line, name: str, match: re.Match[str]) -> None:
        """Note what a prefix says."""
        match name:
            case "boot":
                line.time = match[0].strip(" []")
                line.time_s = float(match["boot_s"])
            case "kmsg":
                line.time_s = int(match["kmsg_us"]) / 1e6
                line.time, line.caller = match["kmsg_us"], match["kcaller"]
            case "delta" | "lag":
                if self.human:
                    self.elapsed_s, self.human = clock_of(self.human) or 0.0, ""
                self.elapsed_s += float(match[match.lastgroup or 0].replace(",", "."))
                line.time, line.elapsed_s = line.time or match[0].strip(" []"), self.elapsed_s
            case "unix":
                line.time = match["unix_s"]
            case "human" | "iso" | "syslog" | "day first" | "clock":
                line.time = (match[match.lastgroup or 0] or match[0]).strip()
                if name == "human":
                    self.human = line.time
            case "fence":
                line.fenced = True
            case "caller":
                line.caller = match["caller"]
            case "kernel":
                line.host = match["host"] or line.host
            case "host":
                line.host = match[1]
            case "unit" | "rfc5424":
                line.time = line.time or match["when"] if name == "rfc5424" else line.time
                line.host = match["origin" if name == "rfc5424" else "unit_host"]
                program = match["app" if name == "rfc5424" else "program"] or ""
                # What a program passes on has the kernel's own time before it.
                passed_on = RELAYS.fullmatch(program) or _FORMS["boot"].match(match.string, match.end())
                line.program = "" if passed_on else program


def clock_of(text: str) -> float | None:
    """Seconds of a day and a time; the month counts 31 days, since only differences are asked for."""
    if re.fullmatch(r"\d{1,10}\.\d{1,9}", text):
        return float(text)
    time = re.search(r"(\d{1,2}):(\d\d)(?::(\d\d(?:\.\d{1,9})?))?", text.replace(",", "."))
    if time is None:
        return None
    rest = text[: time.start()]
    if date := re.search(r"(\d{4})-(\d\d)-(\d\d)", rest):
        days = int(date[1]) * 372 + int(date[2]) * 31 + int(date[3])
    else:
        numbers = re.findall(r"\d{1,2}(?!\d|月|월)", rest)
        days = int(numbers[-1]) if numbers else 0
    return days * 86400.0 + int(time[1]) * 3600 + int(time[2]) * 60 + float(time[3] or 0)
