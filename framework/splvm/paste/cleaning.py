"""What a mail, a page, a chat or a terminal did to the lines of a text, undone; one line may become several.

Owns encodings of mail and HTML, marks of terminals, and blanks and quotes that programs put in place of plain ones.
Lines that were broken or put together are for wrapping.py, what stands before a message for prefixes.py.
"""

from __future__ import annotations

import base64
import binascii
import html
import re

# Characters that are looked at of one line.
MAX_LINE = 1 << 14
# Lines of a mail's headers that may stand between the one that says base64 and the data.
_MAX_HEADERS = 20

_TAGS = re.compile(
    r"</?(?:a|b|i|u|p|tt|br|li|ol|ul|td|th|tr|em|hr|h[1-6]|div|pre|code|span|font|html|body|head|table|tbody|thead"
    r"|strong|samp|kbd|meta|title|style|script|blockquote)(?:\s[^<>]{0,400})?/?>",
    re.IGNORECASE | re.ASCII,
)
_BREAKING = re.compile(r"</?(?:br|p|li|tr|div|pre|hr|blockquote)\b[^<>]{0,400}>", re.IGNORECASE | re.ASCII)
_ENTITY = re.compile(r"&(?:lt|gt|amp|quot|nbsp|#\d{1,5}|#x[0-9a-fA-F]{1,5});")
_ESCAPED = re.compile(r"=([0-9A-F]{2})")
_TERMINAL = re.compile(r"\x1b(?:\[[0-?]{0,32}[ -/]{0,4}[@-~]?|[]_P^X][^\x07\x1b]{0,256}(?:\x07|\x1b\\)?|[ -~])?")
_SHOWN = re.compile(r"\^\[\[[0-9;]{0,16}[mK]|\^M$")
# Most lines have nothing of all that.
_DIRTY = re.compile(r"[=<&\x1b^\r\x0b\x0c]|[^\x00-\x7f]")
_BREAK = re.compile(r"[\r\x0b\x0c]")
# Blanks of typography, quotes that are curly, marks that nobody sees.
_PLAIN = {
    **dict.fromkeys((0xA0, 0x2002, 0x2003, 0x2007, 0x2009, 0x202F, 0x3000), " "),
    **dict.fromkeys((0x201C, 0x201D, 0x201E, 0xAB, 0xBB), '"'),
    **dict.fromkeys((0x2018, 0x2019, 0x201A), "'"),
    **dict.fromkeys((0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0x2060, 0xAD, 0xFEFF), None),
    0x2028: "\r",
    0x2029: "\r",
}
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4}){1,256}(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$|[A-Za-z0-9+/]{2,3}={1,2}$")
_PACKED = (b"\x1f\x8b", b"\xfd7zXZ\0", b"BZh", b"PK\x03\x04")


# Rich text: breaks of lines, characters by number, characters that are escaped, other words, and groups.
_RICH = re.compile(
    r"\\(?:(?P<break>par|line)\b ?|(?P<tab>tab)\b ?|'(?P<byte>[0-9a-fA-F]{2})|u(?P<code>-?\d{1,5}) ?\??"
    r"|(?P<plain>[\\{}])|[a-zA-Z]{1,32}-?\d{0,10} ?|[~*_-])|[{}]|\\$"
)


def _rich(match: re.Match[str]) -> str:
    """What a mark of rich text stands for."""
    if match["byte"]:
        return chr(int(match["byte"], 16))
    if match["code"]:
        return chr(int(match["code"]) % 0x10000)
    return "\n" if match["break"] else "\t" if match["tab"] else match["plain"] or ""


class Cleaner:
    """Gives the lines of which a line consists."""

    def __init__(self) -> None:
        # Whether the text is quoted-printable, and the beginning of a line that goes on in the next one.
        self.quoted = False
        self.begun = ""
        # Whether the text is rich text.
        self.rich = False
        # Lines of headers that may still come before base64 does; None outside of such a part.
        self.headers: int | None = None
        self.decoding = False
        self.decoded = b""
        # What cannot be read, for the reader to say.
        self.trouble = ""

    @property
    def waits(self) -> bool:
        """Whether the next line belongs to the last one."""
        return bool(self.begun) or self.headers is not None

    def clean(self, line: str) -> list[str]:
        if self.headers is not None or "base64" in line:
            decoded = self.decode(line.rstrip("\r"))
            if decoded is not None:
                return [part for each in decoded for part in self.clean_text(each)]
        return self.clean_text(line)

    def clean_text(self, line: str) -> list[str]:
        """The same of what is no part in base64."""
        if self.rich or line.startswith("{\\rtf"):
            self.rich = True
            return [part for part in _RICH.sub(_rich, line[:MAX_LINE]).split("\n") if part]
        if not self.begun and not _DIRTY.search(line):
            return [line] if line else []
        if "=" in line or self.begun:
            joined = self.unquote(line[:MAX_LINE])
            if joined is None:
                return []
            line = joined
        if "\x1b" in line:
            line = _TERMINAL.sub("", line)
        if "^" in line:
            # As `cat -v` and `less` show them.
            line = _SHOWN.sub("", line)
        parts = [line]
        if "<" in line and ("</" in line or "<br" in line or "<pre" in line or "<p>" in line or "<div" in line):
            parts = [_TAGS.sub("", part) for part in _BREAKING.sub("\n", line).split("\n")]
        if "&" in line:
            # Some pages escape what is escaped.
            parts = [html.unescape(html.unescape(part)) if _ENTITY.search(part) else part for part in parts]
        if not all(map(str.isascii, parts)):
            parts = [part.translate(_PLAIN).replace("0\u00d7", "0x") for part in parts]
        if any(_BREAK.search(part) for part in parts):
            parts = [piece for part in parts for piece in _BREAK.split(part)]
        return [part for part in parts if part]

    def unquote(self, line: str) -> str | None:
        """A line of quoted-printable (RFC 2045) as it was; None if it goes on."""
        bare = line.rstrip("\r")
        if not self.quoted and ("quoted-printable" in bare or "=3D" in bare or _soft(bare)):
            self.quoted = True
        if not self.quoted:
            return line
        if bare.endswith("=") and not bare.endswith("=="):
            self.begun = (self.begun + bare[:-1])[:MAX_LINE]
            return None
        line, self.begun = (self.begun + bare)[:MAX_LINE], ""
        if "=" not in line:
            return line
        code = line.encode("utf-8", "replace")
        return re.sub(rb"=([0-9A-F]{2})", lambda it: bytes([int(it[1], 16)]), code).decode(errors="replace")

    def decode(self, line: str) -> list[str] | None:
        """The lines that a line of a part in base64 (RFC 2045) ends; None if it is no line of such a part."""
        line = line.lstrip("> ")
        if self.headers is None:
            if "ransfer-" not in line or "ncoding: base64" not in line:
                return None
            self.headers, self.decoding, self.decoded = _MAX_HEADERS, False, b""
            return []
        if _BASE64.match(line) and (self.decoding or len(line) > 20):
            return self.decode_line(line)
        if self.decoding:
            # Padding and a blank line, or the next part's mark, end it.
            rest, self.headers, self.decoded = self.decoded, None, b""
            return [rest.decode(errors="replace"), *([line] if line else [])]
        self.headers -= 1
        if self.headers < 0:
            self.headers = None
        return None

    def decode_line(self, line: str) -> list[str]:
        try:
            data = base64.b64decode(line + "=" * (-len(line) % 4))
        except (binascii.Error, ValueError):
            return []
        if not self.decoding and data.startswith(_PACKED):
            self.trouble = "an attachment that is packed: save it, and give it as a file of its own"
            self.headers = None
            return []
        self.decoding = True
        *lines, rest = (self.decoded + data).split(b"\n")
        self.decoded = rest[-MAX_LINE:]
        return [it.decode(errors="replace").rstrip("\r") for it in lines]


def _soft(line: str) -> bool:
    """Whether the line ends in the middle, as quoted-printable lets lines of 76 characters do."""
    return 72 <= len(line) <= 76 and line.endswith("=") and not line.endswith("==")
