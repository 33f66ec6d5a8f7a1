"""Messages within records of programs that keep logs: journals, JSON of any shipper, logfmt.

Owns where in a record its message, time, host and program stand; a record may take several lines. What stands before
the kernel's own words within a message is for prefixes.py. Sources: systemd.journal-fields(7), Journal Export Formats
of systemd, dmesg(1) of util-linux, Docker's json-file driver, the LogEntry of cloud logging, ECS and GELF.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

# The same thing under the names that different programs give it; the first that is there counts.
_MESSAGES = ("MESSAGE", "message", "msg", "log", "textPayload", "short_message", "@message", "_raw", "line", "content")
_OUTPUTS = ("stdout", "stderr", "body")
_HOSTS = ("_HOSTNAME", "hostname", "host", "node")
_PROGRAMS = ("SYSLOG_IDENTIFIER", "_COMM", "program", "appname", "ident")
_BOOT_US = ("_SOURCE_BOOTTIME_TIMESTAMP", "_SOURCE_MONOTONIC_TIMESTAMP", "__MONOTONIC_TIMESTAMP")
_TIMES = ("@timestamp", "timestamp", "time", "ts")
# What holds the fields of a record, or several records.
_WITHIN = ("_source", "fields", "jsonPayload", "result", "event", "data", "dmesg", "hits", "message")
MAX_DEPTH = 4
# Lines within one message, records on one line, and bytes of a message that is an array of bytes.
MAX_PIECES = 2000
MAX_BYTES = 1 << 14

_KEY = re.compile(rf'\\?"(?:{"|".join(map(re.escape, _MESSAGES))})\\?"\s{{0,40}}:\s{{0,40}}(?=\\?["\[])')
# A line of an object that is spread over many, how it ends, and a message of bytes within it.
_MEMBER = re.compile(
    r'\s{0,40}(?:[}\]],\s{0,4})?(?:\{\s{0,4})?"(?P<name>[\w@.-]{1,64})"\s{0,40}:\s{0,40}'
    r'(?P<value>"(?:[^"\\]|\\.){0,16000}"|[\d.+-]{1,30}|\w{1,8}|\[|\{)\s{0,4},?\s*$'
)
_BRACKETS = re.compile(r"\s{0,40}[{}\[\],][\s{}\[\],]{0,40}$")
_BYTES = re.compile(r"\s{0,40}(?:\d{1,3},?\s{0,4}){1,400}$")
_FIELD = re.compile(r"\s{0,8}(?P<name>_{0,2}[A-Z][A-Z0-9_]{1,63})=(?P<value>.*)$")
# The head of a record of `journalctl -o verbose`.
_VERBOSE = re.compile(r"(?P<time>[^\[\]]{10,60}?) \[s=[0-9a-f]{1,32};i=[0-9a-f]{1,16};")
_LOGFMT = re.compile(r'(?:^|(?<=\s))(?:msg|message|MESSAGE)=(?:"(?P<quoted>(?:[^"\\]|\\.){0,16000})"|(?P<bare>\S+))')
_PAIR = re.compile(r"(?:^|\s)([A-Za-z_][\w.]{0,30})=\"?([^\s\"]{1,64})")


@dataclass(slots=True)
class Record:
    """What a record says."""

    message: str
    # As it is written; empty if there is none.
    time: str = ""
    # Seconds since boot, and seconds on a clock of the text's own.
    time_s: float | None = None
    elapsed_s: float | None = None
    host: str = ""
    # Who wrote it, where that was not the kernel.
    program: str = ""
    # What stood on the line before it.
    before: str = ""


@dataclass(slots=True)
class RecordReader:
    """Takes the lines of a text that are records, or parts of them."""

    # Of the record that was begun.
    fields: dict[str, object] = field(default_factory=dict)
    # Bytes of its message that come line by line.
    numbers: list[int] | None = None

    @property
    def waits(self) -> bool:
        """Whether a record goes on in the next line."""
        return bool(self.fields)

    def take(self, text: str) -> list[Record] | None:
        """The records that end with this line; None if it is no part of any."""
        if self.numbers is not None:
            return self.take_bytes(text)
        if "[s=" in text and (head := _VERBOSE.match(text)):
            return self.begin("timestamp", head["time"], again=True)
        if "=" in text and (pair := _FIELD.match(text)):
            return self.begin(pair["name"], pair["value"], again=pair["name"] == "__CURSOR")
        if '"' in text and ":" in text and (found := self.take_json(text)) is not None:
            return found
        if text[-1:] in "{}[]," and _BRACKETS.match(text):
            return self.finish()
        return _logfmt(text) if "msg=" in text or "essage=" in text else None

    def begin(self, name: str, value: object, *, again: bool = False) -> list[Record]:
        """Note a field; a second one of its name begins another record."""
        done = self.finish() if again or name in self.fields else []
        self.fields[name] = value
        return done

    def take_json(self, text: str) -> list[Record] | None:
        if "{" in text and "}" in text and (records := _objects(text)) is not None:
            return [*self.finish(), *records]
        if member := _MEMBER.match(text):
            return self.take_member(member["name"], member["value"])
        if (key := _KEY.search(text)) is not None:
            # Cut, or with quotes that nobody escaped.
            return [_record({"message": _loose_string(text, key.end())}, text[: key.start()].partition("{")[0])]
        return None

    def take_member(self, name: str, value: str) -> list[Record]:
        if value == "[" and name in _MESSAGES:
            self.numbers = []
            return self.begin(name, "")
        if value in ("[", "{"):
            return []
        try:
            return self.begin(name, json.loads(value))
        except ValueError:
            return self.begin(name, value.strip('"'))

    def take_bytes(self, text: str) -> list[Record]:
        if self.numbers is not None and _BYTES.match(text) and len(self.numbers) < MAX_BYTES:
            self.numbers += [int(it) for it in text.replace(",", " ").split()]
        else:
            name = next(it for it in reversed(self.fields) if it in _MESSAGES)
            self.fields[name], self.numbers = self.numbers, None
        return []

    def finish(self) -> list[Record]:
        """The record that was begun, if it has a message."""
        fields, self.fields, self.numbers = self.fields, {}, None
        return list(_records(fields, "")) if fields else []


def _objects(text: str) -> list[Record] | None:
    """Whole objects on one line; None if there are none."""
    begin, end = text.find("{"), text.rfind("}") + 1
    if begin and text[begin - 1] == "[":
        begin, end = begin - 1, text.rfind("]") + 1
    try:
        value = json.loads(text[begin:end])
    except (ValueError, RecursionError):
        return None
    return list(_records(value, text[:begin]))


def _records(value: object, before: str, depth: int = 0) -> Iterator[Record]:
    """What is within a value of JSON, a line of a message at a time."""
    if depth > MAX_DEPTH:
        return
    if isinstance(value, list):
        for each in value[:MAX_PIECES]:
            yield from _records(each, before, depth + 1)
    if not isinstance(value, dict):
        return
    message = next((value[name] for name in (*_MESSAGES, *_OUTPUTS) if name in value), None)
    if isinstance(message, list) and message and isinstance(message[0], int):
        message = _text_of(message)
    if isinstance(message, str):
        for line in message.rstrip("\n").split("\n")[:MAX_PIECES]:
            yield _record({**value, "message": line}, before)
        return
    known = {key: value[key] for key in (*_HOSTS, *_TIMES) if key in value}
    for name in _WITHIN:
        inner = value.get(name)
        yield from _records({**known, **inner} if isinstance(inner, dict) else inner, before, depth + 1)


def _text_of(numbers: list[object]) -> str:
    return bytes(it for it in numbers[:MAX_BYTES] if isinstance(it, int) and 0 <= it < 256).decode(errors="replace")


def _record(fields: Mapping[str, object], before: str) -> Record:
    record = Record(str(fields["message"]), before=before, program=_program(fields))
    host = next((fields[name] for name in _HOSTS if name in fields), "")
    record.host = str(host.get("name", "") if isinstance(host, dict) else host)[:64]
    for name in (*_BOOT_US, "__REALTIME_TIMESTAMP"):
        value = str(fields.get(name, ""))
        if value.isdecimal() and len(value) < 20:
            record.time, seconds = value, int(value) / 1e6
            record.time_s, record.elapsed_s = (None, seconds) if name.startswith("__R") else (seconds, None)
            return record
    value_of = next((fields[name] for name in _TIMES if name in fields), None)
    if isinstance(value_of, (str, int, float)):
        record.time = str(value_of)[:64]
        # `dmesg --json` has seconds since boot; what counts from 1970 is larger.
        record.time_s = value_of if isinstance(value_of, float) and value_of < 1e9 else None
    return record


def _program(fields: Mapping[str, object]) -> str:
    """Who wrote a record; empty if that was the kernel, or nothing says it."""
    transport = str(fields.get("_TRANSPORT", ""))
    names = [str(fields[name]) for name in _PROGRAMS if name in fields]
    return "" if transport == "kernel" or "kernel" in names else (names or [transport])[0]


def _loose_string(text: str, at: int) -> str:
    """A string or an array of bytes that begins at `at` in what is no whole JSON."""
    if text[at] == "[":
        return _text_of([int(it) for it in re.findall(r"\d{1,3}", text[at : at + 8 * MAX_BYTES])])
    inner = text[at + 1 + (text[at] == "\\") :]
    end = re.search(r'(?<!\\)\\?"\s{0,4}(?:,|[}\]]|$)', inner)
    body = inner[: end.start()] if end else inner
    try:
        return str(json.loads(f'"{body}"'))
    except ValueError:
        return body.replace('\\"', '"').replace("\\t", "\t")


def _logfmt(text: str) -> list[Record] | None:
    """A line of `key=value` pairs, one of which is a message."""
    match = _LOGFMT.search(text)
    pairs = dict(_PAIR.findall(text[: match.start()] + text[match.end() :])) if match else {}
    if match is None or not pairs:
        return None
    said = match["quoted"] if match["quoted"] is not None else match["bare"]
    try:
        said = json.loads(f'"{said}"') if "\\" in said else said
    except ValueError:
        said = said.replace('\\"', '"')
    known = {key: pairs[key] for key in (*_HOSTS, *_TIMES) if key in pairs}
    return [_record({**known, "message": said}, "")]
