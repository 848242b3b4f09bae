"""`raysem plan`: what a curation of so many clips takes on so many GPUs, and which limit comes first."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from raysem.errors import UserError

if TYPE_CHECKING:
    from raysem.runs.scale_work import PlannedCluster, PlannedWork

FORMATS = ("flac", "wav", "ogg", "opus", "mp3")
CPUS_PER_GPU, GPUS_PER_NODE, CPUS_PER_NODE = 16, 8, 64

Cpus = Annotated[
    int | None, typer.Option(help=f"CPU cores of all nodes (default: {CPUS_PER_GPU} for each GPU, at least that)")
]
Nodes = Annotated[
    int | None, typer.Option(help=f"default: one for {GPUS_PER_NODE} GPUs, or for {CPUS_PER_NODE} cores without")
]
DriverGib = Annotated[float | None, typer.Option(help="memory of the driver's node (default: as the others)")]
KeepRate = Annotated[float | None, typer.Option(help="share of pairs of clip and caption above the floor, 1e-4 say")]
Rates = Annotated[
    list[str] | None,
    typer.Option(
        help="embed=400 and so on, a second: clips for each core (corpora, decode) or each GPU (embed, train), "
        "captions, pairs for each core (match, neighbours, select)"
    ),
]


def plan(
    clips: Annotated[str, typer.Option(help="clips of the pool, 2000000 or 2e6")],
    seconds: Annotated[float, typer.Option(help="length of a clip")],
    teacher: Annotated[str, typer.Option(help="htsat (LAION's), cnn14 (CLAP-2022's) or cnn14_tiny")],
    gpus: Annotated[str, typer.Option(help="kind and number of all GPUs, h200:8 (default: none)")] = "",
    cpus: Cpus = None,
    nodes: Nodes = None,
    memory_gib: Annotated[float | None, typer.Option(help="memory of a node")] = None,
    driver_gib: DriverGib = None,
    storage_mib_per_second: Annotated[float | None, typer.Option(help="what the store gives to all nodes")] = None,
    captions: Annotated[str, typer.Option(help="distinct captions that clips are matched with")] = "1e5",
    keep_rate: KeepRate = None,
    selected_share: Annotated[float | None, typer.Option(help="share of the clips that the rule keeps")] = None,
    screen: Annotated[bool, typer.Option("--screen", help="with the search for duplicates and overlap")] = False,
    clip_kib: Annotated[float | None, typer.Option(help="compressed size of a clip; the shards hold the audio")] = None,
    audio_format: Annotated[str, typer.Option("--format", help=", ".join(FORMATS))] = "flac",
    steps: Annotated[int, typer.Option(min=1, help="of the student's training")] = 1000,
    batch_size: Annotated[int, typer.Option(min=2, help="of the student's training")] = 128,
    evaluation_clips: Annotated[int, typer.Option(min=0, help="for each of teacher and student")] = 2000,
    rows_per_shard: Annotated[int, typer.Option(min=1, help="clips of an input shard")] = 2000,
    clips_per_unit: Annotated[int, typer.Option(min=1, help="clips of one decoding task and one batch")] = 32,
    price: Annotated[list[str] | None, typer.Option(help="of an hour, gpu=3.5,cpu=0.05; none is built in")] = None,
    rate: Rates = None,
    rates: Annotated[str | None, typer.Option(help="JSON: results of benchmarks/run.py, or hardware and rates")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Hours, cost, storage, memory, shards and object store of each stage, and which limit comes first.

    Rates are those given, then those of --rates, then those that benchmarks/RESULTS.md has, of one CPU machine.
    What was never measured is said to be not known; a plan is no measurement.
    """
    from raysem.runs.scale_work import TEACHERS, PlannedWork

    if teacher not in TEACHERS:
        raise UserError(f"--teacher {teacher}: no such teacher; there are {', '.join(TEACHERS)}")
    if audio_format not in FORMATS:
        raise UserError(f"--format {audio_format}: not measured; there are {', '.join(FORMATS)}")
    work = PlannedWork(
        clips=_count("--clips", clips),
        clip_seconds=_above_zero("--seconds", seconds) or 0.0,
        teacher=TEACHERS[teacher],
        captions=_count("--captions", captions),
        audio_format=audio_format,
        clip_bytes=_times(_above_zero("--clip-kib", clip_kib), 1024),
        keep_rate=_share("--keep-rate", keep_rate),
        selected_share=_share("--selected-share", selected_share),
        screens=screen,
        training_steps=steps,
        batch_size=batch_size,
        evaluation_clips=evaluation_clips,
        rows_per_shard=rows_per_shard,
        clips_per_unit=clips_per_unit,
    )
    cluster = _cluster(gpus, cpus, nodes, memory_gib, driver_gib, storage_mib_per_second, price or [])
    print(_answer(work, cluster, rate or [], rates, as_json=as_json))


def _cluster(
    gpus: str,
    cpus: int | None,
    nodes: int | None,
    memory_gib: float | None,
    driver_gib: float | None,
    storage_mib_per_second: float | None,
    price: list[str],
) -> PlannedCluster:
    """The cluster of the options, with what was not said filled in by what is usual for so many GPUs."""
    from raysem.runs.scale_work import GIB, MIB, PlannedCluster

    kind, num_gpus = _gpus(gpus)
    cores = _at_least_one("--cpus", cpus) or CPUS_PER_GPU * max(num_gpus, 1)
    in_nodes = -(-num_gpus // GPUS_PER_NODE) if num_gpus else -(-cores // CPUS_PER_NODE)
    prices = dict(_prices(price))
    return PlannedCluster(
        cpus=cores,
        gpus=num_gpus,
        gpu_kind=kind,
        nodes=_at_least_one("--nodes", nodes) or in_nodes,
        node_bytes=_times(_above_zero("--memory-gib", memory_gib), GIB),
        driver_bytes=_times(_above_zero("--driver-gib", driver_gib), GIB),
        storage_bytes_per_second=_times(_above_zero("--storage-mib-per-second", storage_mib_per_second), MIB),
        gpu_price=prices.get("gpu"),
        cpu_price=prices.get("cpu"),
    )


def _answer(work: PlannedWork, cluster: PlannedCluster, rate: list[str], rates: str | None, *, as_json: bool) -> str:
    """The plan for a person, or as JSON, by the rates given, those of a file and those measured, in this order."""
    from raysem.runs.scale_plan import plan as plan_scale
    from raysem.runs.scale_rates import MEASURED, given_rate, read_rates
    from raysem.runs.scale_text import describe, to_json

    given = [given_rate(text) for word in rate for text in word.split(",")]
    found = plan_scale(work, cluster, [*given, *(read_rates(rates) if rates else ()), *MEASURED])
    return json.dumps(to_json(found, work, cluster), indent=2) if as_json else describe(found, work, cluster)


def _gpus(text: str) -> tuple[str, int]:
    """`h200:8` as (kind, count); empty is none."""
    if not text:
        return "", 0
    parts = re.fullmatch(r"([A-Za-z][\w.-]*):([0-9]+)", text)
    if parts is None or int(parts[2]) < 1:
        raise UserError(f"--gpus {text}: expected kind:count, such as h200:8")
    return parts[1], int(parts[2])


def _count(option: str, text: str) -> int:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 1 or number != int(number):
        raise UserError(f"{option} {text}: expected a whole number from 1, such as 2000000 or 2e6")
    return int(number)


def _at_least_one(option: str, number: int | None) -> int | None:
    if number is not None and number < 1:
        raise UserError(f"{option} {number}: expected at least 1")
    return number


def _above_zero(option: str, number: float | None) -> float | None:
    if number is not None and not (math.isfinite(number) and number > 0):
        raise UserError(f"{option} {number:g}: expected a number above 0")
    return number


def _share(option: str, number: float | None) -> float | None:
    if number is not None and not 0 <= number <= 1:
        raise UserError(f"{option} {number:g}: expected a share from 0 to 1")
    return number


def _times(number: float | None, factor: int) -> float | None:
    return None if number is None else number * factor


def _prices(texts: list[str]) -> Iterator[tuple[str, float]]:
    for text in (part for word in texts for part in word.split(",")):
        name, _, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if name.strip() not in ("gpu", "cpu") or not (math.isfinite(value) and value >= 0):
            raise UserError(f"--price {text}: expected gpu=NUMBER or cpu=NUMBER, of an hour")
        yield name.strip(), value
