"""A scale plan for people and for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from raysem.runs.resource_estimate import size
from raysem.runs.scale_limits import Limit
from raysem.runs.scale_plan import Pipeline, ScalePlan, StagePlan
from raysem.runs.scale_work import PlannedCluster, PlannedWork

UNKNOWN = "not known"
_HEADS = ("stage", "work", "hours", "CPU-hours", "GPU-hours", "cost", "stored", "memory/node", "store", "shards")


def to_json(found: ScalePlan, work: PlannedWork, cluster: PlannedCluster) -> dict[str, Any]:
    """Every number of the plan and what it was made from; null: not known."""
    return {
        "work": asdict(work),
        "cluster": asdict(cluster),
        "stages": [asdict(stage) for stage in found.stages],
        "pipeline": asdict(found.pipeline),
        "totals": found.totals,
        "limits": [asdict(limit) | {"use": limit.use} for limit in found.limits],
        "not_judged": list(found.unlimited),
        "unknown_hours": list(found.unknown),
    }


def describe(found: ScalePlan, work: PlannedWork, cluster: PlannedCluster) -> str:
    """A table of the stages, their rates and notes, the pipeline, and the limits with the nearest first."""
    lines = [_assumed(work, cluster), "", *_table([_HEADS, *(_cells(stage) for stage in found.stages)])]
    lines += [f"total of what is known: {_total(found, cluster)}", "", "rates"]
    for stage in found.stages:
        if stage.rate is not None:
            rate = stage.rate
            lines.append(f"  {stage.name}: {rate.value:.4g} {_per(rate.device)} ({rate.hardware}; {rate.source})")
    if found.unknown:
        lines.append(f"  {UNKNOWN}: {', '.join(found.unknown)}; measure them, or give --rate or --rates")
    lines += ["", "notes", *(f"  {stage.name}: {note}" for stage in found.stages for note in stage.notes)]
    lines += ["", f"limits first: {_first(found)}"]
    lines += [f"  {_limit(limit)}" for limit in found.limits]
    lines += [f"  not judged: {what}" for what in found.unlimited]
    lines += ["", f"speed: {found.pipeline.bottleneck}", *_pipeline(found.pipeline)]
    return "\n".join(lines)


def _first(found: ScalePlan) -> str:
    """What does not fit; else what the hours hang on."""
    nearest = found.limits[0]
    if nearest.use > 1:
        return f"{nearest.what}, {nearest.use:.3g} times what there is"
    return f"speed, see below; of all else there is enough, most is used of {nearest.what}"


def _total(found: ScalePlan, cluster: PlannedCluster) -> str:
    totals = found.totals
    parts = [f"{_hours(totals['cpu_hours'])} CPU-hours", f"{_hours(totals['gpu_hours'])} GPU-hours"]
    if cluster.gpu_price is not None or cluster.cpu_price is not None:
        parts.append(f"cost {totals['cost']:,.2f}, of hours at work")
    without = f"; without the hours of {', '.join(found.unknown)}" if found.unknown else ""
    return ", ".join(parts) + f", {size(totals['stored_bytes'])} stored{without}"


def _assumed(work: PlannedWork, cluster: PlannedCluster) -> str:
    teacher = work.teacher
    seconds = teacher.crop_samples / teacher.sample_rate
    gpus = f"GPUs: {cluster.gpus} {cluster.gpu_kind}, " if cluster.gpus else "no GPU, "
    return (
        f"{work.clips:,} clips of {work.clip_seconds:g} s ({work.audio_format}), {work.captions:,} captions, teacher "
        f"{teacher.encoder} (crops of {seconds:g} s at {teacher.sample_rate} Hz, D = {teacher.embedding_width}), "
        f"{gpus}CPU cores: {cluster.cpus}, nodes: {cluster.nodes}; {work.clips_per_shard:,} clips a shard"
    )


def _cells(stage: StagePlan) -> tuple[str, ...]:
    cost = "-" if stage.cost is None else f"{stage.cost:,.2f}"
    amount = UNKNOWN if stage.work is None else f"{_short(stage.work)} {stage.unit}"
    return (
        stage.name,
        amount,
        _hours(stage.hours),
        _hours(stage.cpu_hours),
        _hours(stage.gpu_hours),
        cost,
        UNKNOWN if stage.stored_bytes is None else _size(stage.stored_bytes),
        _size(stage.node_bytes),
        _size(stage.store_bytes),
        f"{stage.shards:,}" if stage.shards else "-",
    )


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
    lines = []
    for row in rows:
        words = [
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(words).rstrip())
    return lines


def _pipeline(pipeline: Pipeline) -> list[str]:
    lines = []
    if pipeline.cpus_per_gpu is not None:
        lines.append(f"  {pipeline.cpus_per_gpu:.3g} CPU cores feed one GPU")
    if pipeline.hours is not None:
        idle = f", {_hours(pipeline.idle_gpu_hours)} GPU-hours idle" if pipeline.idle_gpu_hours is not None else ""
        lines.append(f"  decoding and embedding together take {_hours(pipeline.hours)} hours{idle}")
    if pipeline.read_bytes_per_second is not None:
        lines.append(f"  they read {size(pipeline.read_bytes_per_second)}/s")
    if pipeline.request_seconds is not None:
        milliseconds = 1000 * pipeline.request_seconds
        lines.append(f"  the one collector keeps up if a request to the store takes {milliseconds:,.3g} ms or less")
    return lines


def _limit(limit: Limit) -> str:
    if limit.unit == "bytes":
        about = f"{size(limit.needed)} of {size(limit.available)}"
    elif limit.unit == "bytes/s":
        about = f"{size(limit.needed)}/s of {size(limit.available)}/s"
    else:
        about = f"{limit.needed:,.0f} of {limit.available:,.0f} {limit.unit}"
    return f"{limit.use:8.1%}  {limit.what}: {about}" + (f"; {limit.remedy}" if limit.use > 0.5 else "")


def _hours(hours: float | None) -> str:
    if hours is None:
        return UNKNOWN
    return "0" if not hours else f"{hours:,.3g}" if hours < 1000 else f"{hours:,.0f}"


def _size(num_bytes: float | None) -> str:
    return "-" if not num_bytes else size(num_bytes)


def _short(count: float) -> str:
    return f"{count:,.0f}" if count < 1e9 else f"{count:.3g}"


def _per(device: str | None) -> str:
    return {"cpu": "per second and core", "gpu": "per second and GPU", None: "per second"}[device]
