"""Counting where there is no Ray; what a worker counts is in tests/ray."""

from __future__ import annotations

import subprocess
import sys

CODE = """
from raysem.curation import ray_metrics
ray_metrics.count_decoded("embed/wild", 3, {"silent": 1}, audio_seconds=30.0, seconds=0.1)
ray_metrics.count_embedded("embed/wild", 3, seconds=0.1)
ray_metrics.count_captions("embed/captions", 3, seconds=0.1)
ray_metrics.count_scored("match", 9, seconds=0.1)
import ray
assert not ray.is_initialized()
assert ray_metrics._counter.cache_info().currsize == 0
"""


def test_counting_without_ray_does_nothing_and_starts_nothing():
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", CODE], check=True)
