"""The packages that a bare install leaves out, and the extra of the wheel that brings each."""

from __future__ import annotations

from collections.abc import Mapping

from splvm.errors import SetupError

# The name that is imported, and the extra; pyproject.toml has the same, which a test compares.
EXTRAS: Mapping[str, tuple[str, str]] = {
    "numpy": ("stats", "what is computed from many runs"),
    "scipy": ("stats", "what is computed from many runs"),
    "distributed": ("cluster", "a cluster"),
    "drgn": ("dump", "a memory dump"),
    "jinja2": ("site", "the HTML report"),
    "plotly": ("site", "the HTML report"),
}


def missing_package(error: ImportError) -> SetupError | None:
    """What to tell the user of a failed import; None if it has nothing to do with an extra."""
    name = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or name not in EXTRAS:
        return None
    return lacking(name)


def lacking(package: str) -> SetupError:
    """The error for a package of EXTRAS that is not installed."""
    extra, purpose = EXTRAS[package]
    return SetupError(
        f"the package {package} is not installed; {purpose} needs the extra `{extra}`",
        hint=f"pip install 'splvm[{extra}]'",
    )
