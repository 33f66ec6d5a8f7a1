"""Where images/ and kernel-config/ are: beside the package in a checkout, inside it once installed."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def find_images() -> Path:
    """The directory with the guest's files, the test module and SPL's semantic patches.

    :raises FileNotFoundError: when the installation is incomplete.
    """
    for candidate in (_PACKAGE.parent.parent / "images", _PACKAGE / "_images"):
        if (candidate / "guest" / "init").is_file():
            return candidate
    raise FileNotFoundError(f"images/ is neither two above nor inside {_PACKAGE}")


def find_kernel_config() -> Path:
    """The directory with the fragments of kernels' configurations.

    :raises FileNotFoundError: when the installation is incomplete.
    """
    for candidate in (_PACKAGE.parent.parent / "kernel-config", _PACKAGE / "_kernel_config"):
        if (candidate / "guest.config").is_file():
            return candidate
    raise FileNotFoundError(f"kernel-config/ is neither two above nor inside {_PACKAGE}")


# The header of `--debug`, as run.json names it among the patches.
DEBUG_HEADER = "openzfs-debug.h"


def find_debug_header() -> Path:
    """What `--debug` adds to zfs_config.h."""
    return find_images() / "spl" / DEBUG_HEADER
