"""Names of people, machines and data taken out of a text before it is published; kernel addresses stay."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from splvm.paste.names import COMMON

_OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_HEX = r"[0-9a-fA-F]{1,4}"
# What is taken out, by what it is called; the first that fits counts. `keep` is what stays before it.
_PATTERNS: tuple[tuple[str, str], ...] = (
    ("e-mail address", r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,6}\b"),
    ("MAC address", r"\b[0-9a-fA-F]{2}(?:[:-][0-9a-fA-F]{2}){5}(?![\w:-])"),
    ("UUID", r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b"),
    ("IP address", rf"(?<![\w.:-])(?:{_OCTET}\.){{3}}{_OCTET}(?![\w.-]|:\d{{6}})(?::\d{{1,5}})?"),
    ("IP address", rf"(?<![\w:.])(?:{_HEX}:){{7}}{_HEX}(?![\w:.])"),
    ("IP address", rf"(?<![\w:.]){_HEX}(?::{_HEX}){{0,5}}::(?:{_HEX}(?::{_HEX}){{0,5}})?(?:%\w{{1,15}})?(?![\w:.])"),
    ("WWN", r"\b(?:wwn-|naa\.|eui\.|nvme-eui\.|nvme-uuid\.)(?:0x)?[0-9a-fA-F.-]{8,40}\b|\b(?:0x)?500[0-9a-f]{13}\b"),
    ("serial number", r"\b(?:ata|scsi|nvme|usb|virtio|sas|dm-name|dm-uuid)-[\w.:+-]{4,120}"),
    ("serial number", r"(?P<keep>\b(?:[Ss]erial ?(?:[Nn]umber|[Nn]o\.?)?|S/?N) ?[:=#] ?)[\w-]{4,64}"),
    ("GUID", r"(?P<keep>\b(?:pool_|vdev_)?guid[=:] ?)\d{6,20}"),
    ("pool or dataset", r"(?P<keep>\b[Pp]ool '|\b(?:pool|zpool|spa|dataset|zvol|volume)=['\"]?)[^\s',\"]{1,256}"),
    ("pool or dataset", r"(?P<keep>\bpool I/O is currently suspended:? )(?!for\b)\S{1,256}"),
    ("pool or dataset", r"(?P<keep>\broot=(?:ZFS=|zfs:))\S{1,256}"),
    ("pool or dataset", r"(?<![\w/.@])[A-Za-z][\w.:-]{0,63}(?:/[\w.:-]{1,64}){0,10}@[\w:-]{1,64}(?![\w.])"),
    ("user", r"(?P<keep>\b(?:user|USER|LOGNAME|login|ruser|logname)[=:] ?)[A-Za-z_][\w.-]{0,31}"),
    ("host", r"(?P<keep>\b(?:nfs: )?server )(?!not\b|is\b|OK\b)[\w.-]{2,80}(?= (?:not responding|OK|timed out))"),
    ("device", r"(?P<keep>\bvdev=)(?!(?:/dev/)?(?:sd|vd|nvme|xvd|hd|loop)[a-z0-9]{1,12}\b)[^\s,]{1,256}"),
    (
        "path",
        r"(?<![\w/.<])/(?!proc/|sys/|dev/(?:shm|zd\d|sd[a-z]|nvme\d|vd[a-z]|kmsg|zfs\b|null)|usr/src/|build/|root/rpmbuild)"
        r"(?:[\w.@+~:-]{1,64}/){1,20}[\w.@+~:-]{0,120}",
    ),
)
_ALL = re.compile("|".join(f"(?P<r{at}>{p.replace('<keep>', f'<k{at}>')})" for at, (_, p) in enumerate(_PATTERNS)))
_WHAT = tuple(what for what, _ in _PATTERNS)
# Names of threads that many machines have although they consist of two words.
_KNOWN_COMM = re.compile(
    r"(?:kworker|ksoftirqd|migration|cpuhp|kswapd|jbd2|xfs\w*|irq|scsi\w*|nvme\w*|md\d*|dm\w*|kdmflush|ext4|btrfs|mount"
    r"|umount|fsck|systemd|\(?sd|qemu|dpkg|apt|rs:main|php|containerd|tokio|rcu\w*|watchdog|z\w*|txg\w*|spl\w*|dp\w*|arc\w*"
    r"|dbuf\w*|l2arc\w*|nfs\w*|rpc\w*|pool|gdbus|python\d?|node|java|postgres|mysqld|CPU \d+|bash|sh|update|unattended"
    r"|kthreadd|khugepaged|kcompactd\d*|writeback|loop\d*|usb|ipmi|vhost|kvm|iou|io_wqe\w*|cron|run)\b",
    re.IGNORECASE,
)
_PARTS = re.compile(r"(?P<first>[A-Za-z]{2,15})(?P<mark>[-:@.+])(?P<rest>[\w.@+-]{2,})$")


def redact(text: str, names: Mapping[str, str], comms: Iterable[str] = ()) -> tuple[str, Counter[str]]:
    """The text without what could name somebody, and how often what was taken out.

    :param names: names of machines, people and pools that the text is known to have, and what each is.
    :param comms: names of threads; of one that many machines do not have, the part behind a mark may name somebody.
    """
    taken: Counter[str] = Counter()

    def replace(match: re.Match[str]) -> str:
        at = int((match.lastgroup or "r0")[1:])
        taken[_WHAT[at]] += 1
        return f"{match.groupdict().get(f'k{at}') or ''}<{_WHAT[at]}>"

    text = _ALL.sub(replace, text)
    for name in sorted(_spelled(names), key=len, reverse=True):
        what = names.get(name, "host")
        below = r"(?:/[\w.:@%+-]{1,256})?" if what == "pool or dataset" else ""
        text, count = re.subn(rf"(?<![\w.<]){re.escape(name)}{below}(?![\w>])", f"<{what}>", text)
        taken[what] += count
    for comm in sorted(set(comms), key=len, reverse=True):
        if (kept := public_comm(comm)) != comm:
            count = text.count(comm)
            text = text.replace(comm, kept)
            taken["part of a thread's name"] += count
    return text, +taken


def public_comm(comm: str) -> str:
    """The name of a thread without what may be the name of somebody."""
    match = _PARTS.match(comm)
    if match is None or _KNOWN_COMM.match(comm) or match["rest"].isdigit():
        return comm
    return f"{match['first']}{match['mark']}<name>"


def _spelled(names: Mapping[str, str]) -> set[str]:
    """The names, and those of machines without their domain."""
    short = {name.split(".")[0] for name, what in names.items() if what == "host" and not name[:1].isdigit()}
    return {name for name in {*names, *short} if len(name) > 1 and name.lower() not in COMMON}
