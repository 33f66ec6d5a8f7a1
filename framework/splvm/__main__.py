"""`python -m splvm` is `splvm`."""

from __future__ import annotations

from splvm.cli import main

main()
