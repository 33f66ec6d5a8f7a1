"""The commands that make this machine a worker of a cluster, and the keys of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from splvm.cli.options import JobsOption, KeysOption, TrustOption, count_jobs
from splvm.log import note

app = typer.Typer(help="Keys for a cluster of machines.", no_args_is_help=True, rich_markup_mode=None)


def worker(
    cluster: Annotated[
        str, typer.Argument(help="Its scheduler, as dask://HOST:PORT or tls://HOST:PORT.", metavar="CLUSTER")
    ],
    jobs: JobsOption = "auto",
    keys: KeysOption = None,
    trust_network: TrustOption = False,
) -> None:
    """Run what `matrix --on CLUSTER` hands out, until the cluster's scheduler ends or Ctrl-C.

    The scheduler is Dask's own: `.venv/bin/dask scheduler`. Whoever can reach a cluster of dask:// can run programs on
    all of its machines, so beyond this machine it takes tls://, or --trust-network. A worker listens on the one address
    from which it reaches the scheduler. Only machines with the same splvm, Python and QEMU work together.
    """
    # Dask takes as long as all the rest.
    from splvm.campaign.cluster import parse_address, work

    address = parse_address(cluster, trust_network=trust_network)
    work(address, count_jobs(jobs, 512), lambda own: note(f"worker {own} of {address} is ready"), keys)


@app.command("keys")
def keys(
    directory: Annotated[Path, typer.Argument(help="A directory that is new or empty.", metavar="DIR")],
) -> None:
    """Make the keys of a cluster for tls://: an authority, and a pair each for scheduler, workers and `matrix`.

    Whoever has a pair and its authority may run programs on all machines of the cluster. `ca.key` is needed to sign
    further pairs alone, and no other machine needs it.
    """
    from splvm.campaign.clusterkeys import make_keys

    make_keys(directory)
    typer.echo(f"keys: {directory}")
