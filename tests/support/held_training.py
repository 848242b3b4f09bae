"""A training run that waits at chosen steps, so that a test can take its machines away or give it more just there."""

from __future__ import annotations

import json
import pickle
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from raysem.training.context import TrainContext
from raysem.training.run import TrainingResult
from raysem.training.settings import TrainingSettings
from raysem.training.spec import TrainingSpec, train_in_process

HELD_SECONDS = 300


@dataclass(frozen=True)
class Hold:
    """Before step `step` (counted from 0) each rank of a group of `world_size` waits, once in the life of the run."""

    step: int
    world_size: int
    until: Literal["preempted", "killed"]


@dataclass(frozen=True)
class HeldTraining:
    """`spec` with holds. What each rank did is in `folder`."""

    spec: TrainingSpec
    folder: str
    holds: tuple[Hold, ...] = ()

    @property
    def output(self) -> str:
        return self.spec.output

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def run_name(self) -> str:
        return self.spec.run_name

    @property
    def training(self) -> TrainingSettings:
        return self.spec.training

    def train(self, context: TrainContext) -> TrainingResult:
        """One rank's share; it asks for a notice before every step."""
        from raysem.training import loop, preemption

        preemption.ASK_SECONDS = 0.0
        step = loop._Run._step

        def held_step(run: Any, parts: Any) -> None:
            for hold in self.holds:
                if (hold.step, hold.world_size) == (run._done, context.world_size):
                    self._wait(hold, context)
            with (Path(self.folder) / f"steps-{context.rank}.jsonl").open("a") as file:
                file.write(json.dumps({"step": run._done, "world_size": context.world_size}) + "\n")
            step(run, parts)

        loop._Run._step = held_step  # type: ignore[method-assign]
        return self.spec.train(context)

    def held(self, hold: Hold) -> list[str]:
        """The nodes of the ranks that came to `hold`; empty until all are there."""
        files = [self._file(hold, rank) for rank in range(hold.world_size)]
        return [file.read_text() for file in files] if all(file.exists() for file in files) else []

    def steps(self, rank: int = 0) -> list[tuple[int, int]]:
        """Each step that a rank did, with the world size, in the order done."""
        lines = (Path(self.folder) / f"steps-{rank}.jsonl").read_text().splitlines()
        return [(line["step"], line["world_size"]) for line in map(json.loads, lines)]

    def _file(self, hold: Hold, rank: int) -> Path:
        return Path(self.folder) / f"held-{hold.step}-{hold.world_size}-{rank}"

    def _wait(self, hold: Hold, context: TrainContext) -> None:
        import ray
        from ray.train.v2._internal.execution.context import get_train_context

        file = self._file(hold, context.rank)
        if file.exists():
            return
        writing = file.with_suffix(".part")
        writing.write_text(ray.get_runtime_context().get_node_id())
        writing.rename(file)
        deadline = time.monotonic() + HELD_SECONDS
        while hold.until == "killed" or get_train_context().preemption_context.preemption_info is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"held at step {hold.step} for too long")
            time.sleep(0.05)


def undisturbed(rank: int, spec: TrainingSpec) -> None:
    """The run of one rank of a process group, without Ray."""
    train_in_process(spec, device="cpu")


def main() -> None:
    """Train what is pickled in the file named first, with the workers in the second."""
    import ray

    from raysem.logs import set_up
    from raysem.training.ray_worker import WorkerSettings, run_training

    set_up()
    ray.init(log_to_driver=True)
    training, workers = (Path(name).read_bytes() for name in sys.argv[1:3])
    run_training(pickle.loads(training), WorkerSettings.model_validate_json(workers))
