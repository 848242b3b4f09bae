"""A Ray of its own for the length of a measurement, as a job starts one on a single machine."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

# read when ray is first imported
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # it lives for a minute, and nobody else shall use it

import ray
import ray.data

OBJECT_STORE_MIB = 512  # the default of a recipe's cluster.object_store_mib


@contextmanager
def local_ray(num_cpus: int) -> Iterator[None]:
    """Within: Ray with `num_cpus`, without a dashboard; its folder goes afterwards."""
    folder = tempfile.mkdtemp(prefix="rb-", dir="/tmp")  # short: the path of a socket may have 107 characters
    ray.init(
        address="local",
        num_cpus=num_cpus,
        object_store_memory=OBJECT_STORE_MIB * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=folder,
    )
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
