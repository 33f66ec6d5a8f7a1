"""Names of people, machines and data taken out of a text before it is published; kernel addresses stay."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

# What is taken out, by what it is called; the first that fits counts. Each has one group for what stays before it.
_PATTERNS: tuple[tuple[str, str], ...] = (
    ("e-mail address", r"()\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,6}\b"),
    ("MAC address", r"()\b[0-9a-fA-F]{2}(?:[:-][0-9a-fA-F]{2}){5}\b"),
    ("IP address", r"()(?<![\w.:])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])(?::\d{1,5})?"),
    ("IP address", r"()(?<![\w:.])(?:[0-9a-fA-F]{1,4}:){3,7}(?::?[0-9a-fA-F]{1,4}|:)(?![\w:.])"),
    (
        "IP address",
        r"()(?<![\w:.])[0-9a-fA-F]{1,4}(?::[0-9a-fA-F]{1,4}){0,5}::(?:[0-9a-fA-F]{1,4}(?::[0-9a-fA-F]{1,4}){0,5})?(?![\w:.])",
    ),
    ("WWN", r"()\b(?:wwn-|naa\.|eui\.|nvme-eui\.|nvme-uuid\.)(?:0x)?[0-9a-fA-F.-]{8,40}\b|\b0x5[0-9a-f]{15}\b"),
    ("serial number", r"()\b(?:ata|scsi|nvme|usb|virtio|sas)-[\w.:+-]{3,120}"),
    ("serial number", r"((?<!<)\b[Ss]erial(?: [Nn]umber| [Nn]o\.?)?\s?[:=#]?\s{1,8})[\w-]{4,64}"),
    ("pool or dataset", r"(\b[Pp]ool '|\b(?:pool|vdev|dataset|zvol|volume)=)[^\s',]{1,256}"),
    ("pool or dataset", r"(\bpool I/O is currently suspended:? )\S{1,256}"),
    ("user", r"(\b(?:user|USER|LOGNAME|login)[=: ]{1,2})[\w.-]{1,32}"),
    (
        "path",
        r"()(?<![\w/.])/(?!proc/|sys/|dev/(?:shm|zd\d|sd[a-z]|nvme\d|vd[a-z]|kmsg)|usr/src/|build/|root/rpmbuild)"
        r"(?:[\w.@+~-]{1,64}/){1,20}[\w.@+~-]{0,120}",
    ),
)
_COMPILED = [(what, re.compile(pattern)) for what, pattern in _PATTERNS]


def redact(text: str, names: Iterable[str] = ()) -> tuple[str, Counter[str]]:
    """The text without what could name somebody, and how often what was taken out.

    :param names: hosts that the text is known to name.
    """
    taken: Counter[str] = Counter()
    for what, pattern in _COMPILED:
        text, count = pattern.subn(lambda match, what=what: f"{match[1] or ''}<{what}>", text)  # type: ignore[misc]
        taken[what] += count
    for name in sorted({it for it in names if len(it) > 2}, key=len, reverse=True):
        text, count = re.subn(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", "<host>", text)
        taken["host"] += count
    return text, +taken
