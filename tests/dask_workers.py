"""A Dask cluster of two processes."""

from contextlib import contextmanager

import dask
from distributed import Client, LocalCluster


@contextmanager
def two_workers():
    """Yield the client of a cluster, whose trainings do not wait for lost workers for long."""
    with (
        dask.config.set({"distributed.scheduler.no-workers-timeout": "5s"}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        yield client
