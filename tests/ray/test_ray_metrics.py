"""What a worker counts arrives, with its tags, where Prometheus would read it: at the node's own port."""

from __future__ import annotations

import re
import time
import urllib.request
from typing import Any

import ray

from raysem.curation import ray_metrics
from raysem.curation.ray_metrics import DECLARED, count_captions, count_decoded, count_embedded, count_scored

STAGE, CAPTIONS, MATCH = 'embed/a "part"', "embed/counted_captions", "counted_match"  # no other test's
SECONDS_TO_WAIT = 60  # a process reports every ten


@ray.remote(num_cpus=0.1)
class Worker:
    """One process for all calls, as the actors of a stage are."""

    def count(self) -> None:
        rejects = {"silent": 2, "too_long": 1, "empty": 0}
        count_decoded(STAGE, 29, rejects, audio_seconds=290.5, seconds=0.2)
        count_decoded(STAGE, 0, {"silent": 3}, audio_seconds=0.0, seconds=0.02)
        count_embedded(STAGE, 29, seconds=2.0)
        count_captions(CAPTIONS, 256, seconds=0.5)
        count_scored(MATCH, 3_000_000_000, seconds=1000.0)

    def objects(self) -> tuple[int, int]:
        return ray_metrics._counter.cache_info().misses, ray_metrics._histogram.cache_info().misses


def exported() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """(name, the tags that are ours) -> value, summed over processes."""
    node = ray.nodes()[0]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=10) as answer:
        text = answer.read().decode()
    found: dict[Any, float] = {}
    for name, tags, value in re.findall(r"^(ray_raysem_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        pairs = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', tags))
        ours = tuple(
            (key, pairs[key].replace('\\"', '"')) for key in ("stage", "outcome", "step", "le") if key in pairs
        )
        found[name, ours] = found.get((name, ours), 0.0) + float(value)
    return found


def test_what_a_worker_counts_is_exported_with_its_tags():
    worker = Worker.remote()
    ray.get([worker.count.remote() for _ in range(2)])
    stage = ("stage", STAGE)
    expected = {
        ("ray_raysem_clips_decoded_total", (stage,)): 58,
        ("ray_raysem_audio_seconds_total", (stage,)): 581,
        ("ray_raysem_clips_rejected_total", (stage, ("outcome", "silent"))): 10,
        ("ray_raysem_clips_rejected_total", (stage, ("outcome", "too_long"))): 2,
        ("ray_raysem_clips_embedded_total", (stage,)): 58,
        ("ray_raysem_captions_embedded_total", (("stage", CAPTIONS),)): 512,
        ("ray_raysem_pairs_scored_total", (("stage", MATCH),)): 6_000_000_000,
        ("ray_raysem_unit_seconds_count", (stage, ("step", "decode"))): 4,
        ("ray_raysem_unit_seconds_sum", (stage, ("step", "embed"))): 4,
        ("ray_raysem_unit_seconds_bucket", (stage, ("step", "decode"), ("le", "0.1"))): 2,
        ("ray_raysem_unit_seconds_bucket", (("stage", MATCH), ("step", "match"), ("le", "+Inf"))): 2,
    }
    for _ in range(SECONDS_TO_WAIT):
        found = exported()
        if all(found.get(key) == value for key, value in expected.items()):
            break
        time.sleep(1)
    assert {key: found.get(key) for key in expected} == expected
    assert (("ray_raysem_clips_rejected_total", (stage, ("outcome", "empty")))) not in found  # none: no series
    ours = {name for declared in DECLARED for name in declared.exported}
    assert {name for name, _ in found} == ours
    assert ray.get(worker.objects.remote()) == (6, 1)


def test_every_metric_carries_the_prefix_and_a_name_of_its_own():
    names = [declared.name for declared in DECLARED]
    assert len(set(names)) == len(names)
    assert all(name.startswith("raysem_") for name in names)
