"""Archives of recorded runs, unpacked."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any


def unpack(archive: tarfile.TarFile, target: Path) -> None:
    """Unpack an archive of ours."""
    # The Python of Debian 12, 3.11.2, knows no filters yet; later ones ask for one.
    options: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    archive.extractall(target, **options)
