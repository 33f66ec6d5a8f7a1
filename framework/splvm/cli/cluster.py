"""The commands that make this machine a worker of a cluster, and make the keys of a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from splvm.cli.options import JobsOption, KeysOption, TrustOption, count_jobs
from splvm.log import note
from splvm.report.summary import plain

app = typer.Typer(help="Keys for a cluster of machines.", no_args_is_help=True, rich_markup_mode=None)


def worker(
    cluster: Annotated[
        str, typer.Argument(help="The cluster's scheduler: dask://HOST:PORT or tls://HOST:PORT.", metavar="CLUSTER")
    ],
    jobs: JobsOption = "auto",
    keys: KeysOption = None,
    trust_network: TrustOption = False,
) -> None:
    """Run the jobs of `matrix --on CLUSTER`, until the cluster's scheduler ends or Ctrl-C.

    `.venv/bin/dask scheduler` starts the scheduler. Whoever can reach a dask:// cluster can run programs on all of its
    machines. So a cluster of several machines needs tls:// or --trust-network. A worker listens on the one address from
    which it reaches the scheduler. Machines work together only if their versions of splvm, Python and QEMU are equal.
    """
    # Dask takes as long as all the rest.
    from splvm.campaign.cluster import parse_address, work

    address = parse_address(cluster, trust_network=trust_network)
    work(address, count_jobs(jobs, 512), lambda own: note(f"worker {own} of {address} is ready"), keys)


@app.command("keys")
def keys(
    directory: Annotated[Path, typer.Argument(help="A new or empty directory.", metavar="DIR")],
) -> None:
    """Make the keys of a tls:// cluster: an authority, and one pair each for the scheduler, the workers and `matrix`.

    Whoever has a pair can run programs on all machines of the cluster. `ca.key` signs further pairs; keep it on this
    machine, because no other machine needs it.
    """
    from splvm.campaign.clusterkeys import make_keys

    make_keys(directory)
    typer.echo(plain(f"keys: {directory}"))
