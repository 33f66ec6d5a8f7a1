"""The command that makes this machine a worker of a cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from splvm.cli.options import JobsOption, count_jobs
from splvm.log import note


def worker(
    cluster: Annotated[str, typer.Argument(help="Its scheduler, as dask://HOST:PORT.", metavar="CLUSTER")],
    jobs: JobsOption = "auto",
) -> None:
    """Run what `matrix --on CLUSTER` hands out, until the cluster's scheduler ends or Ctrl-C.

    The scheduler is Dask's own: `.venv/bin/dask scheduler`. Whoever can reach it can run programs on its workers, so it
    belongs on a network of its own, or behind TLS. Only machines with the same splvm, Python and QEMU work together.
    """
    # Dask takes as long as all the rest.
    from splvm.campaign.cluster import parse_address, work

    address = parse_address(cluster)
    work(address, count_jobs(jobs, 512), lambda own: note(f"worker {own} of {address} is ready"))
