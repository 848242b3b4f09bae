"""Embedding a pool through the Ray stage against a bare loop over the same decoding task and the same actor.

    python -m benchmarks.embedding [--clips 1280] [--cpus N] [--encoder cnn14_tiny] [--quick] [--json FILE]

The bare loop calls `decode_unit` and `_Embedder` one after the other in plain Python, without Ray and without writing:
in one process, and in as many processes as the stage has at work (its actors and its decoding tasks). All have the
stage's own number of threads and its units, of the size that a recipe has by default. The loops run before and after
the stage, each process on two units.

Start-up is left out. The loops start together after each has embedded one unit. The stage is timed by its done-records
over its second half, for while its actor starts, its tasks decode ahead, and at first the actor lives on that. `drift`
tells whether the first half was long enough: the third quarter's rate over the fourth's. Far above 1, the actor still
had a supply; take more clips.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from benchmarks.local_ray import local_ray
from benchmarks.material import quickstart_model, write_pool
from benchmarks.rows import Row, cores, finish, parser_of
from raysem import storage
from raysem.audio.load import AudioSettings
from raysem.curation.ray_decode import decode_unit
from raysem.curation.ray_stages import (
    EmbedJob,
    EmbedSettings,
    Workers,
    WorkerSettings,
    _Embedder,
    _units,
    embed_clips,
    plan_workers,
)
from raysem.models.checkpoint import save_model
from raysem.models.start import build_clap
from raysem.models.teacher import TeacherSource

CLIPS_PER_UNIT = EmbedSettings().clips_per_unit
QUICK_CLIPS_PER_UNIT = 2
MIN_UNITS = 8
UNITS_PER_LOOP = 2
START_SECONDS = 300


@dataclass(frozen=True)
class Pool:
    """The shards, of one unit each, and the job on them but for its output."""

    shards: list[str]
    job: EmbedJob
    workers: Workers


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measures, prints one line per way, and returns the rows."""
    parser = parser_of(__doc__)
    parser.add_argument("--clips", type=int, help="clips of 10 s, Ogg Opus (default: 1280)")
    parser.add_argument("--clips-per-unit", type=int, help=f"default: {CLIPS_PER_UNIT}, as in a recipe")
    parser.add_argument("--cpus", type=int, default=cores(), help="CPUs of the local Ray (default: the cores)")
    parser.add_argument("--encoder", choices=("cnn14_tiny", "cnn14"), default="cnn14_tiny")
    options = parser.parse_args(argv)
    options.clips_per_unit = options.clips_per_unit or (QUICK_CLIPS_PER_UNIT if options.quick else CLIPS_PER_UNIT)
    options.clips = options.clips or (MIN_UNITS * options.clips_per_unit if options.quick else 1280)
    if options.clips < MIN_UNITS * options.clips_per_unit:
        parser.error(f"--clips: at least {MIN_UNITS * options.clips_per_unit}, two units for each quarter")
    return finish(measure(options), options)


def measure(options: argparse.Namespace) -> list[Row]:
    """One row for the stage and for each bare loop: clips per second, and the stage's over the loop's as the ratio."""
    with tempfile.TemporaryDirectory(prefix="raysem-benchmark-") as folder:
        pool = make_pool(Path(folder), options)
        processes = min(pool.workers.count + decode_tasks(pool.workers, options.cpus), len(pool.shards))
        ways = {f"bare loop, {processes} processes": processes}
        if not options.quick:
            ways["bare loop, 1 process"] = 1
        before = {name: bare_rate(pool, count) for name, count in ways.items()}
        with local_ray(options.cpus):
            stage, drift = stage_rate(pool, str(Path(folder) / "embeddings"))
        after = {} if options.quick else {name: bare_rate(pool, count) for name, count in ways.items()}
    setting = (
        f"{options.clips} clips of 10 s (Ogg Opus) in units of {options.clips_per_unit}, {options.encoder}, "
        f"Ray with {options.cpus} CPUs: "
        f"actors {pool.workers.count}, threads {pool.workers.threads}, decoding tasks at once "
        f"{processes - pool.workers.count}; ratio: the stage over this way, in clips/s"
    )
    naming = {"benchmark": "embedding", "setting": setting}
    rows = []
    for name, rate in before.items():
        mean = (rate + after.get(name, rate)) / 2
        rows.append(naming | {"name": name, "ratio": stage / mean, "clips_per_second": mean})
    return [*rows, naming | {"name": "Ray stage", "ratio": 1.0, "clips_per_second": stage, "drift": drift}]


def make_pool(folder: Path, options: argparse.Namespace) -> Pool:
    """The clips, a model with random weights, and the job."""
    settings = quickstart_model(folder / "text", audio_encoder=options.encoder)
    save_model(str(folder / "model"), build_clap(settings, seed=0))
    shards = write_pool(
        folder / "clips",
        options.clips,
        clips_per_shard=options.clips_per_unit,
        format="opus",
        seconds=10.0,
        sample_rate=48_000,
        channels=2,
    )
    worker_settings = WorkerSettings()
    job = EmbedJob(
        model=TeacherSource(location=str(folder / "model")),
        output=str(folder),
        workers=worker_settings,
        audio=AudioSettings(sample_rate=settings.log_mel.sample_rate),
        crop_samples=settings.crop_samples,
        embed=EmbedSettings(clips_per_unit=options.clips_per_unit),
    )
    gpus = float(torch.cuda.device_count())
    return Pool(shards, job, plan_workers(worker_settings, {"CPU": float(options.cpus), "GPU": gpus}))


def decode_tasks(workers: Workers, cpus: int) -> int:
    """How many decoding tasks find room beside the actors and the collector."""
    room = cpus - workers.count * workers.num_cpus - 0.1
    return max(1, min(int(room / workers.decode_cpus), workers.max_decode_tasks or cpus))


def stage_rate(pool: Pool, output: str) -> tuple[float, float]:
    """Clips per second of the second half of the shards, and the third quarter's rate over the fourth's."""
    job = replace(pool.job, output=output)
    embed_clips(pool.shards, job)
    records = [
        (path.stat().st_mtime, json.loads(path.read_text())["rows"]) for path in Path(output).glob("done/*.json")
    ]
    records.sort()

    def rate(first: int, last: int) -> float:
        clips = sum(rows for _, rows in records[first + 1 : last + 1])
        return clips / (records[last][0] - records[first][0])

    half, quarter, last = len(records) // 2 - 1, len(records) * 3 // 4 - 1, len(records) - 1
    return rate(half, last), rate(half, quarter) / rate(quarter, last)


def bare_rate(pool: Pool, processes: int) -> float:
    """Clips per second of `processes` plain loops, each with its own model and as many units as the others."""
    shards = pool.shards[: min(len(pool.shards) // processes, UNITS_PER_LOOP) * processes]
    units, num_clips = _units({storage.name_of(shard): shard for shard in shards}, pool.job.embed.clips_per_unit)
    context = multiprocessing.get_context("spawn")  # fork would copy Ray's and torch's threads
    ready, answers = context.Barrier(processes), context.Queue()
    started = [
        context.Process(
            target=_loop,
            args=(units[number::processes], pool.job, pool.workers.threads, ready, answers),
            daemon=True,  # none outlives a failure of another
        )
        for number in range(processes)
    ]
    for process in started:
        process.start()
    spans = [answers.get(timeout=START_SECONDS) for _ in started]
    for process in started:
        process.join()
    return num_clips / (max(end for _, end in spans) - min(begin for begin, _ in spans))


def _loop(units: list[dict[str, Any]], job: EmbedJob, threads: int, ready: Barrier, answers: Any) -> None:
    embedder = _Embedder(source=job.model, texts=False, threads=threads)
    decode = partial(decode_unit, audio=job.audio, crop_samples=job.crop_samples, num_crops=job.embed.num_crops)

    def embed(unit: dict[str, Any]) -> pa.Table:
        decoded = decode(pa.Table.from_pylist([unit]))  # it sets one thread, for a process of its own
        torch.set_num_threads(threads)
        return embedder(decoded)

    embed(units[0])
    ready.wait(START_SECONDS)
    began = time.time()  # one clock for all processes
    for unit in units:
        embed(unit)
    answers.put((began, time.time()))


if __name__ == "__main__":
    main(sys.argv[1:])
