"""What is known of each kernel without a network: which version a row came to last, and whether that is in the store.

Owns ``host/kernel-ID.json`` in the store, written whenever a row is resolved, and ``host/traits-KEY.json``, when the
kernel with this key is measured.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from splvm.builds.kernels import KERNELS, Kernel, KernelSpec
from splvm.builds.source import BUILT, make_built_kernel
from splvm.builds.spl import SplSource
from splvm.host.store import Store


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a row of `KERNELS` came to, once."""

    # When that was, in UTC.
    time: str
    # As in `uname -r`.
    release: str
    # Version of its packages.
    version: str
    # Version of its suite's zfs-dkms; None until that was asked for.
    spl: str | None
    # Keys of its artefacts.
    image: str
    root: str


@dataclass(frozen=True, slots=True)
class KnownKernel:
    """A row, and what is known of it here."""

    spec: KernelSpec
    # None before it was used for the first time.
    resolved: Resolved | None
    # Whether kernel and build root are in the store, so that they need not be fetched.
    stored: bool
    # Whether its vmalloc allocates page tables with the caller's GFP_NOIO; None where that was not measured.
    honours: bool | None

    def to_json(self) -> dict[str, object]:
        """As `splvm kernels --json` has it."""
        resolved = self.resolved
        shown = None
        if resolved is not None:
            shown = {name: getattr(resolved, name) for name in ("time", "release", "version", "spl")}
        return {
            "id": self.spec.id,
            "suite": self.spec.suite,
            "metapackage": self.spec.metapackage,
            "note": self.spec.note,
            "resolved": shown,
            "stored": self.stored,
            "honours_noio": self.honours,
        }


def remember_kernel(store: Store, kernel: Kernel, source: SplSource) -> None:
    """Note what a row came to; a store that cannot be written only knows less."""
    before = _read(store, kernel.spec)
    resolved = Resolved(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        release=kernel.release,
        version=kernel.version,
        # A tree of the user's says nothing about the suite.
        spl=(before.spl if before else None) if source.is_own else source.version,
        image=kernel.image.key,
        root=kernel.root.artefact.key,
    )
    _write(store, f"kernel-{kernel.spec.id}.json", asdict(resolved))


def remember_traits(store: Store, kernel: Kernel, honours: bool | None) -> None:
    """Note whether its vmalloc was seen to allocate page tables with the caller's GFP_NOIO."""
    _write(store, f"traits-{kernel.image.key}.json", {"honours_noio": honours})


def _write(store: Store, name: str, facts: Mapping[str, object]) -> None:
    path = store.root / "host" / name
    fresh = path.with_name(f"{name}.{uuid.uuid4().hex}")
    with suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        fresh.write_text(json.dumps(facts), encoding="utf-8")
        os.replace(fresh, path)


def known_kernels(store: Store) -> list[KnownKernel]:
    """Every row of `KERNELS` and `BUILT` with what is known of it; no network, and nothing is fetched or built."""
    specs = (*KERNELS.values(), *(make_built_kernel(row).spec for row in BUILT.values()))
    return [_look_up(store, spec) for spec in specs]


def _look_up(store: Store, spec: KernelSpec) -> KnownKernel:
    resolved = _read(store, spec)
    if resolved is None:
        return KnownKernel(spec, None, False, None)
    return KnownKernel(spec, resolved, _is_stored(store, resolved), _read_honours(store, resolved.image))


def _is_stored(store: Store, resolved: Resolved) -> bool:
    # Both are looked through before they are used; here it is enough that they are there.
    with suppress(ValueError):
        return all(
            store.kept(kind, key, verify="named") is not None
            for kind, key in (("kernel", resolved.image), ("build-root", resolved.root))
        )
    return False


def _read(store: Store, spec: KernelSpec) -> Resolved | None:
    # One that cannot be read is as good as none.
    with suppress(OSError, ValueError, TypeError):
        resolved = Resolved(**json.loads((store.root / "host" / f"kernel-{spec.id}.json").read_text(encoding="utf-8")))
        if all(isinstance(value, str) or (name == "spl" and value is None) for name, value in asdict(resolved).items()):
            return resolved
    return None


def _read_honours(store: Store, key: str) -> bool | None:
    with suppress(OSError, ValueError, AttributeError):
        said = json.loads((store.root / "host" / f"traits-{Path(key).name}.json").read_text(encoding="utf-8"))
        honours = said.get("honours_noio")
        return honours if isinstance(honours, bool) else None
    return None
