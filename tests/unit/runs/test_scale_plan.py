from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raysem.corpora.shards import shard_name
from raysem.curation import matching
from raysem.curation.neighbours import NeighbourSettings
from raysem.curation.ray_stages import EmbedSettings, WorkerSettings
from raysem.errors import UserError
from raysem.models.clap import ClapSettings
from raysem.runs import resource_facts, roles
from raysem.runs.curation_recipe import CurationSettings
from raysem.runs.part_settings import PartSettings
from raysem.runs.resource_estimate import MATRIX_PEAK, WORKER_BYTES
from raysem.runs.scale_limits import MAX_SHARD_PAIRS, MAX_SHARDS, UNIT_BYTES, driver_bytes
from raysem.runs.scale_plan import CPUS_PER_DECODE_TASK, PAIR_BYTES, UNIT_BLOCKS, ScalePlan, StagePlan, plan
from raysem.runs.scale_rates import MEASURED, Rate, find_rate, given_rate, rates_of_results, read_rates
from raysem.runs.scale_text import describe
from raysem.runs.scale_work import GIB, MIB, TEACHERS, PlannedCluster, PlannedWork
from raysem.training.settings import TrainingSettings

ROOT = Path(__file__).parents[3]
WORK = PlannedWork(clips=2_000_000, clip_seconds=10, teacher=TEACHERS["htsat"], captions=100_000)
CLUSTER = PlannedCluster(cpus=128, gpus=8, gpu_kind="h200", node_bytes=512.0 * GIB)


def given(**rates: float) -> list[Rate]:
    return [given_rate(f"{name}={value}") for name, value in rates.items()]


def stage(found: ScalePlan, name: str) -> StagePlan:
    return next(stage for stage in found.stages if stage.name == name)


def test_hours_are_work_over_rate_shared_among_cores_and_gpus():
    found = plan(WORK, CLUSTER, given(decode=50, embed=1000, match=1e8, train=200))
    decode, embed = stage(found, "decode"), stage(found, "embed")
    assert decode.cpu_hours == pytest.approx(2e6 / 50 / 3600)
    assert decode.hours == pytest.approx(2e6 / 50 / 3600 / 128)
    assert (decode.gpu_hours, embed.cpu_hours) == (0, 0)
    assert embed.gpu_hours == pytest.approx(2e6 / 1000 / 3600)
    assert embed.hours == pytest.approx(2e6 / 1000 / 3600 / 8)
    assert stage(found, "student").gpu_hours == pytest.approx(1000 * 128 / 200 / 3600)
    # 128 cores, of which matching by shard uses 64 at most
    assert stage(found, "match").hours == pytest.approx(2e6 * 1e5 / 1e8 / 3600 / 64)


def test_the_slower_of_decoding_and_embedding_is_named_and_the_other_waits():
    slow = plan(WORK, CLUSTER, given(decode=50, embed=1000)).pipeline  # 6400 clips/s decoded, 8000 embedded
    assert slow.bottleneck.startswith("decoding")
    assert slow.cpus_per_gpu == pytest.approx(20)
    assert slow.hours == pytest.approx(2e6 / 6400 / 3600)
    assert slow.idle_gpu_hours == pytest.approx(8 * 2e6 / 6400 / 3600 - 2e6 / 1000 / 3600)
    fed = plan(WORK, replace(CLUSTER, cpus=8 * 21), given(decode=50, embed=1000)).pipeline
    assert fed.bottleneck.startswith("embedding")
    assert fed.idle_gpu_hours == pytest.approx(0)


def test_what_is_read_from_the_store_follows_the_hours():
    work = replace(WORK, clip_bytes=400e3)
    found = plan(work, CLUSTER, given(decode=50, embed=1000))
    assert found.pipeline.read_bytes_per_second == pytest.approx(6400 * 400e3)
    # one after the other, five for each shard
    assert found.pipeline.request_seconds == pytest.approx(2e6 / 6400 / 5 / work.shards)
    limited = plan(work, replace(CLUSTER, storage_bytes_per_second=6400 * 200e3), given(decode=50, embed=1000))
    assert (limited.limits[0].what, limited.limits[0].use) == ("storage bandwidth", pytest.approx(2))


def test_without_a_rate_on_gpus_the_hours_are_not_known_and_the_benchmark_is_named():
    found = plan(WORK, CLUSTER, MEASURED)
    embed = stage(found, "embed")
    assert (embed.hours, embed.gpu_hours, embed.cost) == (None, None, None)
    assert "benchmarks/embedding.py" in " ".join(embed.notes)
    assert {"embed", "student", "evaluate"} <= set(found.unknown)
    assert found.pipeline.hours is None
    assert "not known without a rate of embed" in describe(found, WORK, CLUSTER)
    # 43.4 clips/s a core (flac) on 128 cores for 8 GPUs
    assert "694.7 clips/s" in found.pipeline.bottleneck


def test_a_rate_measured_on_a_cpu_holds_for_its_encoder_on_cpus_only():
    on_cpus = PlannedCluster(cpus=2)
    tiny = replace(WORK, teacher=TEACHERS["cnn14_tiny"])
    found = plan(tiny, on_cpus, MEASURED)
    assert stage(found, "embed").hours == pytest.approx(2e6 / 43.229224249035724 / 3600)
    assert stage(found, "decode").hours == 0  # in the rate of embedding, and not counted again
    assert found.pipeline.hours == stage(found, "embed").hours
    assert stage(plan(replace(WORK, teacher=TEACHERS["cnn14"]), on_cpus, MEASURED), "embed").hours is None
    assert stage(plan(tiny, CLUSTER, MEASURED), "embed").hours is None


def test_a_measured_rate_is_one_of_seconds_of_audio_and_a_given_one_of_the_clips_themselves():
    short = replace(WORK, clip_seconds=5)
    measured = [stage(plan(work, CLUSTER, MEASURED), "decode").cpu_hours for work in (WORK, short)]
    assert measured[0] == pytest.approx(2 * (measured[1] or 0))
    alike = [stage(plan(work, CLUSTER, given(decode=50)), "decode").cpu_hours for work in (WORK, short)]
    assert alike[0] == alike[1]


def test_a_cost_needs_prices_and_hours():
    rates = given(decode=50, embed=1000)
    priced = plan(replace(WORK, evaluation_clips=0), replace(CLUSTER, gpu_price=3.0, cpu_price=0.05), rates)
    assert stage(priced, "embed").cost == pytest.approx(3 * 2e6 / 1000 / 3600)
    assert stage(priced, "decode").cost == pytest.approx(0.05 * 2e6 / 50 / 3600)
    assert stage(priced, "student").cost is None
    assert priced.totals["cost"] == pytest.approx(3 * 2e6 / 1000 / 3600 + 0.05 * 2e6 / 50 / 3600)
    assert all(stage.cost in (None, 0) for stage in plan(WORK, CLUSTER, rates).stages)


def test_bytes_of_embeddings_and_pairs():
    found = plan(replace(WORK, keep_rate=1e-4), CLUSTER, ())
    assert stage(found, "embed").stored_bytes == 2e6 * (4 * 512 + 40)
    assert stage(found, "match").stored_bytes == pytest.approx(2 * PAIR_BYTES * 1e-4 * 2e6 * 1e5)
    assert stage(plan(WORK, CLUSTER, ()), "match").stored_bytes is None
    assert stage(found, "screen").node_bytes is None
    screened = stage(plan(replace(WORK, screens=True), CLUSTER, ()), "screen").node_bytes
    assert screened == MATRIX_PEAK * 2e6 * 4 * 512 + WORKER_BYTES


def test_shards_are_cut_by_rows_or_by_their_audio():
    assert (WORK.shards, WORK.units) == (1000, 1000 * 63)  # 2000 rows, the last unit of a shard is half full
    packed = replace(WORK, clip_bytes=1024 * 1024)
    assert (packed.clips_per_shard, packed.shards) == (256, 7813)
    assert replace(WORK, clip_bytes=1024).clips_per_shard == 2000


def test_the_object_store_holds_a_block_for_each_decoding_task():
    few = replace(WORK, clips=10_000, rows_per_shard=1000)
    tasks = int((128 - 0.1) / CPUS_PER_DECODE_TASK)
    assert stage(plan(few, CLUSTER, ()), "embed").store_bytes == tasks * 32 * 480_000 * 4
    # 63,000 units in 20,000 blocks: a task has several, and lets go of them at Ray's block size
    assert WORK.units > UNIT_BLOCKS
    assert stage(plan(WORK, CLUSTER, ()), "embed").store_bytes == tasks * 128 * MIB
    assert stage(plan(replace(few, clips=320), CLUSTER, ()), "embed").store_bytes == 10 * 32 * 480_000 * 4


def test_limits_come_nearest_first_and_grow_with_the_clips():
    large = replace(WORK, clips=300_000_000, screens=True, keep_rate=1e-4)
    limits = plan(large, CLUSTER, ()).limits
    assert [limit.use for limit in limits] == sorted((limit.use for limit in limits), reverse=True)
    uses = {limit.what: limit.use for limit in limits}
    assert uses["number of shards"] == pytest.approx(1.5)
    assert uses["memory of a node, screen"] > 2
    small = {limit.what: limit.use for limit in plan(replace(large, clips=2_000_000), CLUSTER, ()).limits}
    assert small["number of shards"] == pytest.approx(0.01)
    assert small["memory of the driver"] < uses["memory of the driver"]
    assert small["object store of a node"] == uses["object store of a node"]
    assert "limits first: speed, see below" in describe(plan(WORK, CLUSTER, ()), WORK, CLUSTER)
    assert "times what there is" in describe(plan(large, CLUSTER, ()), large, CLUSTER)


def test_what_is_not_given_is_not_judged_and_said():
    found = plan(WORK, replace(CLUSTER, node_bytes=None), ())
    assert [limit.what for limit in found.limits] == ["number of shards"]
    said = " ".join(found.unlimited)
    assert all(option in said for option in ("--keep-rate", "--memory-gib", "--driver-gib", "--storage-mib-per-second"))


def test_memory_of_a_node_falls_with_more_nodes():
    one, two = (stage(plan(WORK, replace(CLUSTER, nodes=nodes), ()), "embed").node_bytes for nodes in (1, 2))
    assert one is not None
    assert two is not None
    assert one / 2 <= two < 0.51 * one


def test_the_numbers_are_those_of_the_code_they_speak_of():
    unit, worker, training = EmbedSettings(), WorkerSettings(), TrainingSettings()
    assert (WORK.clips_per_unit, WORK.num_crops) == (unit.clips_per_unit, unit.num_crops)
    assert worker.cpus_per_decode_task == CPUS_PER_DECODE_TASK
    assert (WORK.training_steps, WORK.batch_size) == (training.steps, training.batch_size)
    assert (training.cache_mib, training.table_memory_mib, training.text_cache_mib) == (1024, 512, 256)
    assert PartSettings.model_fields["rows_per_shard"].default == WORK.rows_per_shard
    assert CurationSettings.model_fields["neighbours"].default == WORK.neighbours
    assert NeighbourSettings().exact_up_to == WORK.exact_neighbours_up_to
    assert roles.CAPTIONS_PER_SHARD == 20_000
    assert matching.MAX_PAIRS == MAX_SHARD_PAIRS
    # the first name that does not sort after the one before
    assert shard_name(MAX_SHARDS) < shard_name(MAX_SHARDS - 1)
    assert shard_name(MAX_SHARDS - 1) > shard_name(MAX_SHARDS - 2)
    hts, clap = TEACHERS["htsat"], ClapSettings()
    assert {"embedding_width": hts.embedding_width, "crop_samples": hts.crop_samples} == resource_facts.HF_CLAP
    cnn = TEACHERS["cnn14"]
    assert (cnn.encoder, cnn.sample_rate) == (clap.audio_encoder, clap.log_mel.sample_rate)
    assert (cnn.crop_samples, cnn.embedding_width) == (clap.crop_samples, clap.embedding_width)


def test_the_measured_rates_are_those_of_the_benchmarks():
    results = ROOT / "benchmarks" / "results.json"
    found = list(rates_of_results(json.loads(results.read_text()), "benchmarks/results.json"))
    assert {rate.name for rate in MEASURED} == {"decode", "embed", "match", "train"}
    for rate in MEASURED:
        (same,) = [other for other in found if (other.name, other.what, other.device) == (rate.name, rate.what, "cpu")]
        assert same == replace(rate, value=pytest.approx(rate.value))


def test_a_training_rate_on_a_gpu_is_read_from_the_encoders_and_holds_for_that_encoder(tmp_path: Path):
    setting = "with 527 classes; ratio: parameters over the published ones; forward and backward of 32 clips on GPU 9"
    row = {"benchmark": "encoders", "setting": setting, "name": "hts_at", "ratio": 1.0, "clips_per_second": 300.0}
    content: dict[str, Any] = {
        "machine": {"cpu": "C", "cores": 4},
        "quick": False,
        "benchmarks": {"encoders": {"rows": [row | {"peak_memory_gib": 5.0}]}},
    }
    file = tmp_path / "results.json"
    file.write_text(json.dumps(content))
    (rate,) = read_rates(str(file))
    assert (rate.name, rate.value, rate.hardware, rate.device) == ("train", 300.0, "GPU 9", "gpu")
    assert stage(plan(WORK, CLUSTER, [rate]), "student").gpu_hours == pytest.approx(128_000 / 300 / 3600)
    assert find_rate([rate], "train", device="gpu", what="cnn14") is None
    assert find_rate([rate], "train", device="cpu", what="hts_at") is None
    content["benchmarks"]["encoders"]["rows"] = [row]  # of a CPU: its hardware is not said there
    file.write_text(json.dumps(content))
    assert read_rates(str(file)) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ("[]", "neither rates nor results"),
        ('{"rates": {"sing": 3}}', "no rate 'sing'; there are corpora, decode"),
        ('{"rates": {"decode": 0}}', "decode is a number above 0"),
        ('{"rates": {"decode": true}}', "decode is a number above 0"),
        ('{"rates": {"decode": null}}', "decode is a number above 0"),
        ('{"machine": {"cpu": "C", "cores": 1}, "quick": true, "benchmarks": {}}', "of a quick run"),
    ],
)
def test_a_file_of_rates_that_is_none_is_named(tmp_path: Path, content: str, said: str):
    file = tmp_path / "rates.json"
    file.write_text(content)
    with pytest.raises(UserError, match=f"rates.json: {said}"):
        read_rates(str(file))
    with pytest.raises(UserError, match="no such file"):
        read_rates(str(tmp_path / "absent.json"))


def test_rates_of_ones_own_keep_their_hardware(tmp_path: Path):
    file = tmp_path / "rates.json"
    file.write_text('{"hardware": "8 x H", "rates": {"embed": 900, "decode": 50.5}}')
    embed, decode = read_rates(str(file))
    assert (embed.hardware, embed.value, decode.value) == ("8 x H", 900, 50.5)
    found = describe(plan(WORK, CLUSTER, [embed, decode]), WORK, CLUSTER)
    assert "embed: 900 per second (8 x H; " in found


def drive(*arguments: str) -> dict[str, Any]:
    ended = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("scale_driver.py")), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.slow
def test_a_driver_of_two_million_clips_stays_small_and_plans_exactly_the_half_that_is_left(tmp_path: Path):
    """16 CPU-seconds. The bounds: sorting holds two buffers of 64 MiB and each row's id; planning holds no row."""
    rows, folder = 2_000_000, tmp_path / "clips"
    written = drive("write", str(folder), str(rows), "64")
    assert (written["rows"], written["shards"]) == (rows, 1000)
    assert written["grown_mib"] < 600
    left = [f"shard_{number:05d}" for number in range(1, 1000, 2)]
    resumed = drive("resume", str(folder))
    print(f"\nwritten: {written}\nresumed: { ({**resumed, 'pending': len(left), 'covered': len(left)}) }")
    assert resumed["pending"] == left
    assert resumed["covered"] == dict.fromkeys(left, 2000)
    assert (resumed["rows"], resumed["units"]) == (rows // 2, 500 * 63)
    assert resumed["outcomes"] == {"kept": rows // 2}
    assert (resumed["done"]["shards"], resumed["done"]["rows"]) == (500, rows // 2)
    # 31,500 units; the ids alone of a million rows would be 60 MiB of Python texts
    assert resumed["grown_mib"] < 48

    damaged = folder / "embed" / "shards" / "shard_00500.parquet"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    (folder / "embed" / "done" / "shard_00002.json").write_text("half of")
    assert drive("resume", str(folder))["pending"] == sorted([*left, "shard_00500", "shard_00002"])


def test_a_driver_grows_by_its_units():
    assert driver_bytes(63_000) - driver_bytes(0) == 63_000 * UNIT_BYTES
