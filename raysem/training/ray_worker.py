"""The same training run as the workers of a Ray Train group. The caller's Ray session is used as it is."""

from __future__ import annotations

import logging
import os
import signal
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import ray
import ray.train
import ray.train.torch
import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from raysem import storage
from raysem.config import Settings
from raysem.errors import RaysemError, StageError, UserError
from raysem.logs import set_up
from raysem.training.context import TrainContext, TrainingError
from raysem.training.examples import Examples
from raysem.training.loader import Batches
from raysem.training.plan import StepPlan
from raysem.training.preemption import PreemptedError
from raysem.training.ray_batches import ClusterBatches, cpus_per_task
from raysem.training.run import TrainingResult, check_shares
from raysem.training.settings import TrainingSettings

log = logging.getLogger(__name__)

START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
START_SECONDS = 1800
"""How long a worker group may wait for its machines: a cloud takes minutes for one with a GPU, Ray Train takes one."""
ELASTIC_START_SECONDS = 60
"""The same where fewer workers would do: Ray Train then asks only for what it takes to be there, but counts a machine
that is about to be taken away, and after this time it counts again."""
GIVEN_START_TIMEOUT = os.environ.get(START_TIMEOUT)
"""What the user says of it."""


class WorkerSettings(Settings):
    """The processes of a training run."""

    num_workers: PositiveInt = 1
    min_workers: PositiveInt | None = None
    """As few as this may begin and go on where there is no room for `num_workers`; null: no fewer."""
    resize_seconds: PositiveFloat = 60.0
    """How often such a group looks whether there is room for more. What it did since its last checkpoint is done again
    when it grows."""
    use_gpu: bool = False
    """One GPU for each worker."""
    cpus_per_worker: float = Field(1.0, gt=0)
    """Reserved in Ray; a fraction lets two workers fit on a small machine. Torch's threads follow the real cores."""
    max_failures: NonNegativeInt = 2
    """Worker groups that may die; each next one goes on from the last checkpoint. Those that hear of it before count
    for nothing."""

    @model_validator(mode="after")
    def _check_min_workers(self) -> WorkerSettings:
        if (self.min_workers or 0) > self.num_workers:
            raise ValueError(f"min_workers {self.min_workers} is more than num_workers {self.num_workers}")
        return self

    @property
    def world_sizes(self) -> Sequence[int]:
        """How many workers there may be at a time."""
        return range(self.min_workers or self.num_workers, self.num_workers + 1)


class Trainable(Protocol):
    """A training run as plain settings and locations, such as `TrainingSpec`; it crosses processes."""

    @property
    def output(self) -> storage.Location: ...

    @property
    def name(self) -> str: ...

    @property
    def run_name(self) -> str: ...

    @property
    def training(self) -> TrainingSettings: ...

    def train(self, context: TrainContext) -> TrainingResult:
        """One rank's share of the run."""
        ...


@dataclass(frozen=True)
class _RayContext:
    """A rank of a Ray Train worker group."""

    rank: int
    world_size: int
    local_world_size: int
    device: torch.device

    @classmethod
    def current(cls) -> _RayContext:
        context = ray.train.get_context()
        return cls(
            context.get_world_rank(),
            context.get_world_size(),
            context.get_local_world_size(),
            ray.train.torch.get_device(),
        )

    def report(self, metrics: Mapping[str, float]) -> None:
        """To Ray Train's callbacks. No checkpoint goes with it: ours are our own, and Ray's would resume by itself."""
        ray.train.report(dict(metrics))

    def loses_machine(self) -> bool:
        """What Ray Train heard of drained nodes; the first rank's word, through an actor."""
        return ray.train.get_preemption_info() is not None

    def cluster_batches(self, plan: StepPlan, examples: Examples, settings: TrainingSettings) -> Batches:
        """This rank's batches by tasks on the cluster's CPUs."""
        reserved = self.world_size * ray.get_runtime_context().get_assigned_resources().get("CPU", 0.0)
        return ClusterBatches(
            plan,
            examples,
            rank=self.rank,
            world_size=self.world_size,
            parts=settings.accumulation,
            prefetch_batches=settings.prefetch_batches,
            pin_memory=self.device.type == "cuda",
            cpus_per_task=cpus_per_task(ray.cluster_resources().get("CPU", 0.0), reserved),
        )


def run_training(spec: Trainable, workers: WorkerSettings) -> TrainingResult:
    """Train `spec` with Ray Train in the running Ray session, and wait for its end.

    Ray Train keeps its own records in `<output>/ray`, which is removed when all went well.

    Raises:
        ConfigError: as many workers as there may be cannot share a batch equally.
    """
    for world_size in workers.world_sizes:
        check_shares(spec.training, world_size)
    records = storage.join(storage.absolute(spec.output), "ray")
    # Ray Train's own way would be to train on until the machine is gone, and only then to begin again elsewhere.
    while isinstance(returned := _fit(spec, workers, records), PreemptedError):
        log.warning("%s: %s", spec.name, returned)
    if isinstance(returned, RaysemError):
        raise returned
    storage.delete(records)
    return returned


def _fit(spec: Trainable, workers: WorkerSettings, records: storage.Location) -> TrainingResult | RaysemError:
    """What the first rank returned, of the last worker group."""
    sizes = workers.world_sizes
    trainer = TorchTrainer(
        _train_worker,  # type: ignore[arg-type] # it returns its result
        train_loop_config={"spec": spec},
        scaling_config=ScalingConfig(
            num_workers=sizes[0] if len(sizes) == 1 else (sizes[0], sizes[-1]),  # type: ignore[arg-type] # as below
            elastic_resize_monitor_interval_s=workers.resize_seconds,  # type: ignore[call-arg] # of Train V2
            use_gpu=workers.use_gpu,
            resources_per_worker={"CPU": workers.cpus_per_worker, **({"GPU": 1} if workers.use_gpu else {})},
        ),
        run_config=RunConfig(
            # A name of its own each time: Ray resumes a known name by itself, even a finished run.
            name=f"{spec.run_name}-{uuid.uuid4().hex[:8]}",
            storage_path=records,
            failure_config=FailureConfig(max_failures=workers.max_failures),
        ),
    )
    # Ray Train hands it on to its controller.
    own = START_SECONDS if len(sizes) == 1 else ELASTIC_START_SECONDS
    os.environ[START_TIMEOUT] = GIVEN_START_TIMEOUT or str(own)
    try:
        with _own_interrupt():
            result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise _own_error(error, spec) from error
    returned = result.return_value  # type: ignore[attr-defined] # of Train V2, which the stubs do not know
    assert isinstance(returned, TrainingResult | RaysemError)
    return returned


@contextmanager
def _own_interrupt() -> Iterator[None]:
    """Afterwards Ctrl-C is the caller's again: Ray Train's own handler, set for the length of a fit, would stay."""
    if threading.current_thread() is not threading.main_thread():  # there Ray sets none
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _train_worker(config: dict[str, Any]) -> TrainingResult | RaysemError:
    set_up()  # a worker process is ours: nobody else sets up its log
    _quieten_ray()
    try:
        return config["spec"].train(_RayContext.current())
    except PreemptedError as notice:
        return notice
    except TrainingError as error:
        # Every rank stops at the same step, and would again (a store was tried more than once): no new workers for it.
        log.error("%s", error)
        return error
    except UserError as error:
        # It would come again, too; but a rank that ends alone leaves the others waiting, so only a lone one returns.
        if ray.train.get_context().get_world_size() > 1:
            raise
        return error


def _quieten_ray() -> None:
    """Ray Train logs each report in full, under a logger that it names after a file; Ray Data each execution."""
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("ray.train") or name.endswith("ray/train/v2/_internal/execution/context.py"):
            logging.getLogger(name).setLevel(logging.WARNING)


def _own_error(error: BaseException, spec: Trainable) -> RaysemError:
    """What a worker raised, when it is an error of ours; else one line that says where to look."""
    for failure in getattr(error, "worker_failures", {}).values():
        found: BaseException | None = failure
        while found is not None:
            if isinstance(found, RaysemError):
                return found
            found = getattr(found, "cause", None) or found.__cause__
    return StageError(
        f"{spec.name}: the workers failed more often than allowed; what they wrote is in {spec.output} ({error})"
    )
