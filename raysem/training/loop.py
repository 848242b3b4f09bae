"""The training loop: one for all objectives, in one process or in the ranks of a process group, with or without Ray."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from typing import cast

import torch
import torch.distributed as dist
from torch import nn

from raysem import storage
from raysem.errors import ConfigError, RaysemError
from raysem.logs import duration
from raysem.losses.gather import in_group
from raysem.training.batch_norm import normalise_over_ranks
from raysem.training.checkpoints import CheckpointFolder, load_trained_state
from raysem.training.context import TrainContext, TrainingError, available_cores, process_settings, stop_together
from raysem.training.draws import draw_seed
from raysem.training.loader import ClipBatch
from raysem.training.log_window import LogWindow
from raysem.training.metrics_log import MetricsLog
from raysem.training.network import WrappedNetwork, freeze_unreached
from raysem.training.objective import Objective
from raysem.training.optimizer import WeightUpdates
from raysem.training.preemption import PreemptedError, PreemptionWatch
from raysem.training.rejects import TrainingRejects
from raysem.training.run import CHECKPOINTS, MODEL, RESULT, TrainingResult, TrainingRun, finished_result
from raysem.training.weight_average import WeightAverage

log = logging.getLogger(__name__)


def train(model: nn.Module, objective: Objective, run: TrainingRun, context: TrainContext) -> TrainingResult:
    """Train `model`, which lies on the context's device, and write the chosen step to `<output>/model`.

    Called on every rank. A run that was cut short goes on from its last checkpoint below `output`, on a CPU to the
    bit as if it had not been; a finished one returns its result at once. `model` ends as what was written.
    `objective` is built on `model`.

    Raises:
        ConfigError: the settings cannot work, or `output` holds another run.
        TrainingError: training cannot go on; TrainingStorageError where clips or pairs cannot be reached.
        PreemptedError: it can, on other machines: what was reached is saved.
    """
    finished = finished_result(run)
    if finished is not None:
        return finished
    run.check(context)
    threads = run.settings.torch_threads or max(1, available_cores() // context.local_world_size)
    with process_settings(threads, context.device):
        return _Run(model, objective, run, context).run()


class _Run:
    """One attempt at a training run."""

    def __init__(self, model: nn.Module, objective: Objective, run: TrainingRun, context: TrainContext):
        settings = run.settings
        self._model, self._objective, self._context = model, objective, context
        self._run, self._settings = run, settings
        self._inputs = run.inputs
        freeze_unreached(model, objective, cast(int, model.crop_samples), context)
        if settings.sync_batch_norm and context.world_size > 1:
            normalise_over_ranks(model, context.device)
        self._updates = WeightUpdates(model, settings, context.device, run.layer_depths)
        self._average = WeightAverage(model, settings.weight_average) if settings.weight_average else None
        self._folder = CheckpointFolder(run.location(CHECKPOINTS), keep_last=settings.keep_checkpoints)
        self._rejects = TrainingRejects(run.output, context, max_share=settings.max_unusable_share)
        self._window = LogWindow()
        self._metrics: MetricsLog | None = None
        self._preemption = PreemptionWatch(context)
        self._done = self._saved = 0
        self._best_step: int | None = None
        self._best_metrics: dict[str, float] = {}
        self._seconds_before = 0.0
        self._resume()
        self._network = WrappedNetwork(objective, settings, context)

    def run(self) -> TrainingResult:
        """The steps that are left, then the final model and the result."""
        settings = self._settings
        self._started = time.monotonic()
        self._window.start_clock()
        if self._context.rank == 0:
            self._metrics = MetricsLog(self._run.output, from_step=self._done or -1, tensorboard=settings.tensorboard)
        with self._metrics or nullcontext():
            if self._done == 0:
                self._evaluate()
            self._model.train()
            with closing(self._inputs.batches.batches(self._done, settings.steps)) as batches:
                while self._done < settings.steps:
                    parts, asks = self._next_parts(batches)
                    if asks and self._preemption.announced():
                        self._leave()
                    self._step(parts)
                    self._done += 1
                    self._after_step()
            self._rejects.share(self._done)
            return self._finish()

    # One step

    def _next_parts(self, batches: Iterator[list[ClipBatch]]) -> tuple[list[ClipBatch], bool]:
        """This rank's parts of the next batch, and whether it is time to ask for a preemption, of which ranks agree.

        What stops the loader of one rank stops all ranks here.
        """
        parts, error = list[ClipBatch](), None
        try:
            parts = next(batches)
        except RaysemError as caught:
            error = caught
        return parts, stop_together(error, self._context, asks=self._preemption.is_due)

    def _step(self, parts: list[ClipBatch]) -> None:
        self._updates.begin(self._done)
        values: dict[str, float] = {}
        for number, part in enumerate(parts):
            batch = part.to(self._context.device)
            # All randomness of the network is fixed by these four, so a resume needs no generator's state.
            torch.manual_seed(draw_seed("network", self._run.seed, self._done, number, self._context.rank))
            with self._network.sharing(gradients=number == len(parts) - 1):
                found = self._backward(batch, len(parts))
            for name, value in found.items():
                values[name] = values.get(name, 0.0) + value / len(parts)
            self._rejects.add(len(batch.clip_ids) + batch.num_mixed, batch.unusable)
        norm = self._updates.clip()
        if not math.isfinite(norm) and not self._updates.skips_infinite:
            raise TrainingError(
                f"step {self._done + 1}: the gradient is not finite ({norm}), losses {_spelled(values)}"
            )
        self._updates.apply()
        self._objective.after_step()
        if self._average is not None:
            self._average.update(self._model)
        self._window.add(values | {"gradient_norm": norm if math.isfinite(norm) else 0.0})

    def _backward(self, batch: ClipBatch, num_parts: int) -> dict[str, float]:
        """Add the gradients of one part; returns what was measured."""
        measured = self._objective.losses(batch)
        total = sum(
            (self._objective.weights[name] * loss for name, loss in measured.losses.items()),
            start=torch.zeros((), device=self._context.device),
        )
        found = {name: float(value.detach()) for name, value in (measured.losses | measured.diagnostics).items()}
        self._check_finite({name: found[name] for name in measured.losses}, batch)
        self._updates.backward(total / num_parts)
        return found

    def _check_finite(self, losses: dict[str, float], batch: ClipBatch) -> None:
        """Losses are those of the global batch, so every rank stops here or none."""
        if all(math.isfinite(loss) for loss in losses.values()):
            return
        known = _spelled({"learning_rate": self._updates.learning_rate} | self._objective.parameters_to_log())
        raise TrainingError(
            f"step {self._done + 1}: a loss is not finite: {_spelled(losses)} ({known}, source {batch.source}, "
            f"clips from {batch.clip_ids[0]} to {batch.clip_ids[-1]}); the weights were not changed in this step"
        )

    # Every so many steps

    def _after_step(self) -> None:
        settings, last = self._settings, self._done == self._settings.steps
        if self._done % settings.log_every_steps == 0 or last:
            self._log()
        if self._done % settings.evaluate_every_steps == 0 or last:
            self._evaluate()
        if self._done % settings.checkpoint_every_steps == 0 and not last:
            self._checkpoint()

    def _log(self) -> None:
        self._rejects.share(self._done)
        settings = self._settings
        record, rate = self._window.take()
        record |= self._objective.parameters_to_log()
        record["learning_rate"] = self._updates.learning_rate
        record["clips_per_second"] = rate * settings.batch_size
        record["clips_unusable"] = float(self._rejects.unusable)
        if self._context.device.type == "cuda":
            record["gpu_memory_gib"] = torch.cuda.max_memory_allocated(self._context.device) / 2**30
        if self._metrics is not None:
            self._metrics.write("train", self._done, record)
            left = duration((settings.steps - self._done) / rate)
            log.info("step %d/%d %s, %s left", self._done, settings.steps, _spelled(record), left)

    def _evaluate(self) -> None:
        """Take every measure; where the one that chooses is better than before, this step is the best.

        Step 0 is measured, never chosen. With `weight_average` it is the averaged weights that are measured and kept.
        """
        if not self._inputs.measures:
            return
        with self._window.stopped_clock(), self._averaged():  # measuring is not training: the rate leaves it out
            reported: dict[str, float] = {}
            for measure in self._inputs.measures:
                found = measure.measure(self._model, self._context)
                self._rejects.add_held_out(measure.unusable.values())
                if measure.chooses:
                    self._choose(found)
                    reported |= found
                if self._metrics is not None:
                    self._metrics.write(measure.name, self._done, found)
                    best = " (best so far)" if measure.chooses and self._best_step == self._done else ""
                    kind = measure.name.replace("_", " ")
                    log.info("step %d/%d %s: %s%s", self._done, self._settings.steps, kind, _spelled(found), best)
            self._context.report({"step": float(self._done), **reported})

    def _choose(self, found: dict[str, float]) -> None:
        """Make this step the best one when its metric is."""
        name = self._settings.selection_metric
        if name not in found:
            raise ConfigError(f"training.selection_metric: {name} is not measured here; there are {sorted(found)}")
        if not math.isfinite(found[name]):
            raise TrainingError(f"step {self._done}: the held-out {name} is not finite ({found[name]})")
        value = _higher_is_better(name, found[name])
        if not self._done:
            return
        self._updates.schedule.observe(value)
        if self._best_step is None or value > _higher_is_better(name, self._best_metrics[name]):
            self._best_step, self._best_metrics = self._done, found
            if self._context.rank == 0:
                self._folder.save_best(self._done, self._model, {"metrics": found})

    def _averaged(self) -> AbstractContextManager:
        return self._average.applied(self._model) if self._average is not None else nullcontext()

    def _leave(self) -> None:
        """Save what is not saved yet, and end this attempt."""
        if self._done > self._saved:
            self._checkpoint()
        raise PreemptedError(self._done)

    def _checkpoint(self) -> None:
        self._saved = self._done
        self._rejects.share(self._done)
        if self._metrics is None:
            return
        self._metrics.flush()
        self._rejects.write()
        self._folder.save_step(
            self._done,
            self._model,
            tensors=self._updates.tensors() | ({"average": self._average.tensors()} if self._average else {}),
            state={
                "identity": self._run.known,
                "schedule": self._updates.schedule.state(),
                "best_step": self._best_step,
                "best_metrics": self._best_metrics,
                "window": self._window.state(),
                "rejects": self._rejects.state(),
                "train_seconds": self._train_seconds(),
            },
        )

    # Beginning and end

    def _resume(self) -> None:
        checkpoint = self._folder.latest()
        if checkpoint is None:
            return
        where, state = self._run.location(CHECKPOINTS), checkpoint.state
        self._run.check_same(state["identity"], where)
        load_trained_state(self._model, checkpoint.weights, where)
        self._updates.load(checkpoint.tensors, state["schedule"])
        if self._average is not None:
            self._average.load(checkpoint.tensors["average"])
        self._window.load(state["window"])
        self._rejects.load(state["rejects"])
        self._done = self._saved = checkpoint.step
        self._best_step, self._best_metrics = state["best_step"], state["best_metrics"]
        self._seconds_before = state["train_seconds"]
        log.info("rank %d goes on after step %d of %d", self._context.rank, self._done, self._settings.steps)

    def _finish(self) -> TrainingResult:
        _wait_for_all(self._context)  # rank 0 may still be writing the best step
        chosen = self._best_step if self._settings.keep == "best" else None
        if chosen is not None:
            load_trained_state(self._model, self._folder.best(chosen).weights, self._run.location(CHECKPOINTS))
        elif self._average is not None:
            self._average.copy_to(self._model)
        self._model.eval()
        result: TrainingResult | None = None
        if self._metrics is not None:
            result = self._result(self._metrics)
            self._metrics.flush()
            self._rejects.write()
            summary = {
                "trained_steps": chosen or self._done, "seed": self._run.seed, "held_out": self._best_metrics
            }  # fmt: skip
            self._run.write_model(result.model, self._model, summary)
            storage.write_json(self._run.location(RESULT), {**result.to_json(), "identity": self._run.known})
            if not self._settings.keep_checkpoints_when_done:
                self._folder.delete()
        _wait_for_all(self._context)
        return result or cast(TrainingResult, finished_result(self._run))

    def _result(self, metrics: MetricsLog) -> TrainingResult:
        return TrainingResult(
            model=self._run.location(MODEL),
            steps=self._done,
            best_step=self._best_step,
            best_metrics=self._best_metrics,
            selection_metric=self._settings.selection_metric,
            history=[record for record in metrics.records if record["kind"] != "train"],
            clips_loaded=self._rejects.loaded,
            clips_unusable=self._rejects.unusable,
            unusable_outcomes=dict(sorted(self._rejects.outcomes.items())),
            train_seconds=self._train_seconds(),
        )

    def _train_seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started


def _wait_for_all(context: TrainContext) -> None:
    if in_group():
        dist.all_reduce(torch.zeros(1, device=context.device))


def _higher_is_better(name: str, value: float) -> float:
    return -value if name.endswith("loss") else value


def _spelled(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
