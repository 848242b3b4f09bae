"""The training loop: one for all objectives, in one process or in the ranks of a process group, with or without Ray."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raysem import storage
from raysem.audio.load import AudioSettings
from raysem.config import differences
from raysem.errors import ConfigError
from raysem.logs import duration
from raysem.losses.gather import in_group
from raysem.storage import Location
from raysem.training.batch_norm import normalise_over_ranks
from raysem.training.checkpoints import CheckpointFolder, load_trained_state
from raysem.training.context import TrainContext, TrainingError, available_cores, process_settings
from raysem.training.draws import draw_seed
from raysem.training.held_out import HeldOutPairs
from raysem.training.loader import BatchLoader, ClipLoader, PairBatch
from raysem.training.metrics_log import MetricsLog
from raysem.training.objective import AudioTextNetwork, Objective, TextInputs
from raysem.training.pairs import PairTable
from raysem.training.plan import BatchPlan, StepPlan
from raysem.training.schedule import Schedule
from raysem.training.settings import TrainingSettings

log = logging.getLogger(__name__)

RESULT, MODEL, CHECKPOINTS = "result.json", "model", "checkpoints"
MIN_CLIPS_FOR_A_SHARE = 50
HALF_PRECISION = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

WriteModel = Callable[[Location, nn.Module, dict[str, Any]], object]


@dataclass(frozen=True)
class TrainingSources:
    """The tables of a run. Each step's batch comes whole from `main`, or with `replay_probability` from `replay`."""

    main: PairTable
    held_out: PairTable | None
    replay: PairTable | None = None
    replay_probability: float = 0.0


@dataclass(frozen=True)
class TrainingResult:
    """What a finished run leaves. `history` holds the held-out metrics of each evaluation, the first at step 0."""

    model: Location
    steps: int
    best_step: int | None
    best_metrics: dict[str, float]
    selection_metric: str
    history: list[dict[str, Any]]
    clips_loaded: int
    clips_unusable: int
    train_seconds: float

    def to_json(self) -> dict[str, Any]:
        """The same as JSON types."""
        return asdict(self)


def train(
    model: nn.Module,
    objective: Objective,
    *,
    sources: TrainingSources,
    audio: AudioSettings,
    settings: TrainingSettings,
    context: TrainContext,
    output: Location,
    seed: int,
    write_model: WriteModel,
    identity: Mapping[str, Any] | None = None,
) -> TrainingResult:
    """Train `model`, which lies on the context's device, and write the chosen step to `<output>/model`.

    Called on every rank. A run that was cut short goes on from its last checkpoint below `output`, on a CPU to the
    bit as if it had not been; a finished one returns its result at once. `model` ends as what was written.

    Args:
        objective: built on `model`.
        identity: whatever else the weights depend on (initial model, objective); a run below `output` with another
            one is refused.
        write_model: called on rank 0 with the folder, the model and a summary.
    """
    network = cast(AudioTextNetwork, model)
    audio = audio.model_copy(update={"sample_rate": network.sample_rate})
    known = json.loads(json.dumps(_identity(sources, audio, settings, seed) | dict(identity or {})))
    finished = _finished(output, known)
    if finished is not None:
        return finished
    _check(settings, sources, context)
    threads = settings.torch_threads or max(1, available_cores() // context.local_world_size)
    with process_settings(threads, context.device):
        return _Run(model, objective, sources, audio, settings, context, output, seed, write_model, known).run()


class _Run:
    """One attempt at a training run."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        sources: TrainingSources,
        audio: AudioSettings,
        settings: TrainingSettings,
        context: TrainContext,
        output: Location,
        seed: int,
        write_model: WriteModel,
        identity: dict[str, Any],
    ):
        self._settings, self._context, self._output, self._seed = settings, context, output, seed
        self._write_model, self._identity = write_model, identity
        self._model, self._objective = model, objective
        network = cast(AudioTextNetwork, model)
        tables = [table for table in (sources.main, sources.replay, sources.held_out) if table is not None]
        clips = ClipLoader(tables, audio=audio, cache_mib=settings.cache_mib)
        plan = StepPlan(
            self._batch_plan(sources.main, 0),
            self._batch_plan(sources.replay, 1) if sources.replay else None,
            seed=seed,
            num_steps=settings.steps,
            replay_probability=sources.replay_probability,
        )
        self._loader = BatchLoader(
            plan,
            clips,
            crop_samples=network.crop_samples,
            seed=seed,
            rank=context.rank,
            world_size=context.world_size,
            parts=settings.accumulation,
            num_threads=settings.loader_threads,
            prefetch_batches=settings.prefetch_batches,
            pin_memory=context.device.type == "cuda",
        )
        self._held_out: HeldOutPairs | None = None
        if sources.held_out is not None:
            self._held_out = HeldOutPairs(
                clips,
                len(tables) - 1,
                num_pairs=settings.held_out_pairs,
                batch_size=max(1, min(64, settings.batch_size // context.world_size)),
                num_threads=settings.loader_threads,
                seed=seed,
            )
        self._text_inputs: TextInputs | None = getattr(objective, "text_inputs", None)
        self._freeze_unused()
        if settings.sync_batch_norm and context.world_size > 1:
            normalise_over_ranks(model, context.device)
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer = build_optimizer(model, settings)
        self._schedule = Schedule(settings.schedule, settings.steps)
        self._scaler = torch.amp.GradScaler(context.device.type, enabled=settings.precision == "fp16")
        self._folder = CheckpointFolder(storage.join(output, CHECKPOINTS), keep_last=settings.keep_checkpoints)
        self._done = 0
        self._best_step: int | None = None
        self._best_metrics: dict[str, float] = {}
        self._parallel: DistributedDataParallel | None = None
        self._window: dict[str, float] = {}
        self._window_steps = 0
        self._loaded = self._unusable = 0
        self._new_loaded, self._new_unusable = 0, list[str]()
        self._seconds_before = 0.0
        self._resume()
        objective.use_half_precision(HALF_PRECISION[settings.precision])
        objective.network = self._wrapped(objective.network)

    def run(self) -> TrainingResult:
        """The steps that are left, then the final model and the result."""
        settings, resumed_from = self._settings, self._done
        self._started = self._logged_at = time.monotonic()
        self._logged_step = self._done
        is_first = self._context.rank == 0
        metrics = (
            MetricsLog(self._output, from_step=resumed_from or -1, tensorboard=settings.tensorboard)
            if is_first
            else None
        )
        with metrics or nullcontext():
            if self._done == 0:
                self._evaluate(metrics)
            self._model.train()
            for parts in self._loader.batches(self._done, settings.steps):
                self._step(parts)
                self._done += 1
                last = self._done == settings.steps
                if self._done % settings.log_every_steps == 0 or last:
                    self._log(metrics)
                if self._done % settings.evaluate_every_steps == 0 or last:
                    self._evaluate(metrics)
                if self._done % settings.checkpoint_every_steps == 0 and not last:
                    self._checkpoint(metrics)
            self._share_counts()
            return self._finish(metrics)

    # One step

    def _step(self, parts: list[PairBatch]) -> None:
        settings = self._settings
        factor = self._schedule.factor(self._done)
        for group in self._optimizer.param_groups:
            group["lr"] = settings.learning_rate * factor
        self._optimizer.zero_grad(set_to_none=True)
        values: dict[str, float] = {}
        for number, part in enumerate(parts):
            batch = part.to(self._context.device)
            # All randomness of the network is fixed by these four, so a resume needs no generator's state.
            torch.manual_seed(draw_seed("network", self._seed, self._done, number, self._context.rank))
            is_last = number == len(parts) - 1
            with nullcontext() if self._parallel is None or is_last else self._parallel.no_sync():
                measured = self._objective.losses(batch)
                total = sum(
                    (self._objective.weights[name] * loss for name, loss in measured.losses.items()),
                    start=torch.zeros((), device=self._context.device),
                )
                found = {
                    name: float(value.detach()) for name, value in (measured.losses | measured.diagnostics).items()
                }
                self._check_finite({name: found[name] for name in measured.losses}, batch)
                cast(Tensor, self._scaler.scale(total / len(parts))).backward()
            for name, value in found.items():
                values[name] = values.get(name, 0.0) + value / len(parts)
            self._new_loaded += len(batch.clip_ids)
            self._new_unusable += batch.unusable
        self._scaler.unscale_(self._optimizer)
        largest = settings.gradient_clip if settings.gradient_clip is not None else math.inf
        norm = float(nn.utils.clip_grad_norm_(self._trained, largest))
        if not math.isfinite(norm) and not self._scaler.is_enabled():  # the scaler skips such a step by itself
            raise TrainingError(
                f"step {self._done + 1}: the gradient is not finite ({norm}), losses {_spelled(values)}"
            )
        self._scaler.step(self._optimizer)
        self._scaler.update()
        cast(AudioTextNetwork, self._model).clamp_logit_scale()
        values["gradient_norm"] = norm if math.isfinite(norm) else 0.0
        for name, value in values.items():
            self._window[name] = self._window.get(name, 0.0) + value
        self._window_steps += 1

    def _check_finite(self, losses: dict[str, float], batch: PairBatch) -> None:
        """Losses are those of the global batch, so every rank stops here or none."""
        if all(math.isfinite(loss) for loss in losses.values()):
            return
        rate = self._optimizer.param_groups[0]["lr"]
        scale = float(cast(AudioTextNetwork, self._model).scale().detach())
        raise TrainingError(
            f"step {self._done + 1}: a loss is not finite: {_spelled(losses)} (learning rate {rate:.3g}, logit scale "
            f"{scale:.4g}, source {batch.source}, clips from {batch.clip_ids[0]} to {batch.clip_ids[-1]}); "
            "the weights were not changed in this step"
        )

    # Every so many steps

    def _log(self, metrics: MetricsLog | None) -> None:
        self._share_counts()
        now, settings = time.monotonic(), self._settings
        rate = (self._done - self._logged_step) / max(now - self._logged_at, 1e-9)
        record = {name: total / self._window_steps for name, total in self._window.items()}
        record["logit_scale"] = float(cast(AudioTextNetwork, self._model).scale().detach())
        record["learning_rate"] = self._optimizer.param_groups[0]["lr"]
        record["clips_per_second"] = rate * settings.batch_size
        record["clips_unusable"] = float(self._unusable)
        if self._context.device.type == "cuda":
            record["gpu_memory_gib"] = torch.cuda.max_memory_allocated(self._context.device) / 2**30
        if metrics is not None:
            metrics.write("train", self._done, record)
            log.info(
                "step %d/%d %s, %s left", self._done, settings.steps, _spelled(record),
                duration((settings.steps - self._done) / rate),
            )  # fmt: skip
        self._window, self._window_steps = {}, 0
        self._logged_at, self._logged_step = now, self._done

    def _evaluate(self, metrics: MetricsLog | None) -> None:
        """Measure on held-out pairs; better than before makes this step the best. Step 0 is measured, never chosen."""
        if self._held_out is None or self._text_inputs is None:
            return
        started = time.monotonic()
        found = self._held_out.measure(self._model, self._text_inputs, self._context)
        name = self._settings.selection_metric
        if not math.isfinite(found["held_out_loss"]):
            raise TrainingError(f"step {self._done}: the held-out loss is not finite ({found['held_out_loss']})")
        value = _higher_is_better(name, found[name])
        if self._done:
            self._schedule.observe(value)
            if self._best_step is None or value > _higher_is_better(name, self._best_metrics[name]):
                self._best_step, self._best_metrics = self._done, found
                if self._context.rank == 0:
                    self._folder.save_best(self._done, self._model, {"metrics": found})
        if metrics is not None:
            metrics.write("held_out", self._done, found)
            log.info("step %d/%d held out: %s%s", self._done, self._settings.steps, _spelled(found),
                     " (best so far)" if self._best_step == self._done else "")  # fmt: skip
        self._context.report({"step": float(self._done), **found})
        self._logged_at += time.monotonic() - started  # measuring is not training: clips per second leave it out

    def _checkpoint(self, metrics: MetricsLog | None) -> None:
        self._share_counts()
        if metrics is not None:
            metrics.flush()
            self._folder.save_step(
                self._done,
                self._model,
                tensors={"optimizer": self._optimizer.state_dict(), "scaler": self._scaler.state_dict()},
                state={
                    "identity": self._identity,
                    "schedule": self._schedule.state(),
                    "best_step": self._best_step,
                    "best_metrics": self._best_metrics,
                    "window": self._window,
                    "window_steps": self._window_steps,
                    "loaded": self._loaded,
                    "unusable": self._unusable,
                    "train_seconds": self._seconds_before + time.monotonic() - self._started,
                },
            )

    def _share_counts(self) -> None:
        """Add up over ranks what was loaded; too large a share of unusable clips stops all of them."""
        examples = self._new_unusable
        counts = torch.tensor([self._new_loaded, len(examples)], dtype=torch.int64, device=self._context.device)
        if in_group():
            dist.all_reduce(counts)
        loaded, unusable = (int(count) for count in counts.tolist())
        self._loaded, self._unusable = self._loaded + loaded, self._unusable + unusable
        self._new_loaded, self._new_unusable = 0, []
        if examples:
            log.warning(
                "%d clips could not be used and were replaced by others, such as %s", len(examples), examples[0]
            )
        share = self._unusable / max(1, self._loaded + self._unusable)
        if share > self._settings.max_unusable_share and self._loaded >= MIN_CLIPS_FOR_A_SHARE:
            raise TrainingError(
                f"step {self._done}: {self._unusable} clips could not be used against {self._loaded} that could, more "
                f"than max_unusable_share {self._settings.max_unusable_share:g} allows; here {'; '.join(examples[:3])}"
            )

    # Beginning and end

    def _batch_plan(self, table: PairTable, source: int) -> BatchPlan:
        plan = BatchPlan(
            seed=draw_seed("source", self._seed, source),
            block_rows=table.block_rows,
            batch_size=self._settings.batch_size,
            window_blocks=table.window_blocks,
            parts=self._settings.accumulation,
        )
        if self._context.rank == 0:
            log.info(
                "%s: %d clips, %s, %.1f batches of %d an epoch", table.name, len(table),
                "in memory" if table.in_memory else f"read by {len(table.block_rows)} row groups",
                plan.batches_per_epoch, plan.batch_size,
            )  # fmt: skip
        return plan

    def _freeze_unused(self) -> None:
        """Parameters that no loss reaches (a tagging head) would make the ranks wait for their gradients."""
        if not hasattr(self._objective, "text_inputs"):
            return
        model, device = cast(AudioTextNetwork, self._model), self._context.device
        was_training = self._model.training
        self._model.eval()
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            waveform_BT = torch.randn(2, model.crop_samples, device=device) * 0.1
            audio_BD, text_BD, scale = self._objective.network(waveform_BT, self._objective.text_inputs(["a", "b"]))
            (audio_BD.sum() + text_BD.sum() + scale).backward()
        unused = [name for name, p in self._model.named_parameters() if p.requires_grad and p.grad is None]
        for name in unused:
            self._model.get_parameter(name).requires_grad_(False)
        self._model.zero_grad(set_to_none=True)
        self._model.train(was_training)
        if unused and self._context.rank == 0:
            log.info("parameters that no loss reaches stay as they are: %s", ", ".join(unused))

    def _resume(self) -> None:
        checkpoint = self._folder.latest()
        if checkpoint is None:
            return
        where = storage.join(self._output, CHECKPOINTS)
        state = checkpoint.state
        _check_identity(state["identity"], self._identity, where)
        load_trained_state(self._model, checkpoint.weights, where)
        self._optimizer.load_state_dict(checkpoint.tensors["optimizer"])
        self._scaler.load_state_dict(checkpoint.tensors["scaler"])
        self._schedule.load(state["schedule"])
        self._done, self._best_step, self._best_metrics = checkpoint.step, state["best_step"], state["best_metrics"]
        self._window, self._window_steps = state["window"], state["window_steps"]
        self._loaded, self._unusable = state["loaded"], state["unusable"]
        self._seconds_before = state["train_seconds"]
        log.info("rank %d goes on after step %d of %d", self._context.rank, self._done, self._settings.steps)

    def _wrapped(self, network: nn.Module) -> nn.Module:
        if self._context.world_size > 1:
            self._parallel = network = DistributedDataParallel(
                network,
                device_ids=[self._context.device] if self._context.device.type == "cuda" else None,
                broadcast_buffers=not self._settings.sync_batch_norm,
                gradient_as_bucket_view=True,
            )
        return cast(nn.Module, torch.compile(network)) if self._settings.compile else network

    def _finish(self, metrics: MetricsLog | None) -> TrainingResult:
        _wait_for_all(self._context)  # rank 0 may still be writing the best step
        chosen = self._best_step if self._settings.keep == "best" else None
        if chosen is not None:
            load_trained_state(self._model, self._folder.best(chosen).weights, storage.join(self._output, CHECKPOINTS))
        self._model.eval()
        result: TrainingResult | None = None
        if metrics is not None:
            result = TrainingResult(
                model=storage.join(self._output, MODEL),
                steps=self._done,
                best_step=self._best_step,
                best_metrics=self._best_metrics,
                selection_metric=self._settings.selection_metric,
                history=[
                    {name: value for name, value in record.items() if name != "kind"}
                    for record in metrics.records
                    if record["kind"] == "held_out"
                ],
                clips_loaded=self._loaded,
                clips_unusable=self._unusable,
                train_seconds=self._seconds_before + time.monotonic() - self._started,
            )
            metrics.flush()
            self._write_model(result.model, self._model, {"trained_steps": chosen or self._done, "seed": self._seed,
                                                          "held_out": self._best_metrics})  # fmt: skip
            storage.write_json(storage.join(self._output, RESULT), {**result.to_json(), "identity": self._identity})
            if not self._settings.keep_checkpoints_when_done:
                self._folder.delete()
        _wait_for_all(self._context)
        return result or cast(TrainingResult, _finished(self._output, self._identity))


def build_optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Adam or AdamW over the trained parameters; weight decay spares vectors and scalars."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
    return kind([group for group in groups if group["params"]], lr=settings.learning_rate)


def check_shares(settings: TrainingSettings, world_size: int) -> None:
    """ConfigError unless every rank gets as many pairs of each part of a batch."""
    if settings.batch_size // settings.accumulation % world_size:
        raise ConfigError(
            f"training.batch_size: {settings.batch_size} in {settings.accumulation} part(s) cannot be shared equally "
            f"by {world_size} workers"
        )


def _identity(
    sources: TrainingSources, audio: AudioSettings, settings: TrainingSettings, seed: int
) -> dict[str, object]:
    """What the weights depend on, as far as the loop knows."""
    tables = {"main": sources.main, "replay": sources.replay, "held_out": sources.held_out}
    return {
        "seed": seed,
        "training": settings.what_counts(),
        "audio": audio.model_dump(mode="json"),
        "replay_probability": sources.replay_probability,
        "rows": {name: len(table) for name, table in tables.items() if table is not None},
    }


def _check(settings: TrainingSettings, sources: TrainingSources, context: TrainContext) -> None:
    check_shares(settings, context.world_size)
    if sources.held_out is None and (settings.keep == "best" or settings.schedule.kind == "plateau"):
        raise ConfigError("training.keep: best, and a plateau schedule, need held-out pairs; give some, or keep: last")
    if in_group() != (context.world_size > 1):
        raise ValueError(f"world_size is {context.world_size}, but the process group says otherwise")


def _finished(output: Location, identity: Mapping[str, Any]) -> TrainingResult | None:
    location = storage.join(output, RESULT)
    if not storage.exists(location):
        return None
    content = storage.read_json(location)
    _check_identity(content.pop("identity"), identity, location)
    return TrainingResult(**content)


def _check_identity(before: Mapping[str, Any], now: Mapping[str, Any], where: Location) -> None:
    lines = differences(before, now)
    if lines:
        raise ConfigError(f"{where}: belongs to a run with other settings ({'; '.join(lines)}); take another output")


def _wait_for_all(context: TrainContext) -> None:
    if in_group():
        dist.all_reduce(torch.zeros(1, device=context.device))


def _higher_is_better(name: str, value: float) -> float:
    return -value if name.endswith("loss") else value


def _spelled(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
