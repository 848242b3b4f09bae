"""Settings of the training loop."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from raysem.config import Settings
from raysem.training.schedule import ScheduleSettings


class TrainingSettings(Settings):
    """How long, how fast, how often. Nothing here depends on the number of ranks."""

    steps: PositiveInt = 1000
    batch_size: PositiveInt = 128
    """Pairs of one optimizer step, over all ranks; a multiple of ranks x accumulation."""
    accumulation: PositiveInt = 1
    """A step's batch is cut into as many parts, one after the other in memory. Each part is a contrastive batch of
    its own, with batch_size / accumulation - 1 negatives per pair: this is not the loss of the whole batch."""
    learning_rate: float = Field(1e-4, gt=0)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of sgd: Nesterov's; 0: none."""
    weight_decay: float = Field(0.0, ge=0)
    """Not on biases, norms and the logit scale. Decoupled from the learning rate's gradient with adamw only."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Layer-wise decay: a parameter's learning rate is multiplied by this once for every layer above its own, so the
    first layers of a pretrained transformer move least. 1: off."""
    schedule: ScheduleSettings = ScheduleSettings()
    weight_average: float | None = Field(None, gt=0, lt=1)
    """Decay of a moving average of the weights, which is what is measured and kept (0.9995, say); null: off."""
    gradient_clip: float | None = Field(5.0, gt=0)
    """Largest norm of the gradient; null: not clipped."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Autocast of the network. The front end, the losses, the teacher and all measuring stay in fp32."""
    compile: bool = False
    """torch.compile of the network; needs a C++ compiler on CPUs, and minutes for the first step."""
    sync_batch_norm: bool = True
    """Batch normalisation over all ranks, so that the result does not depend on their number."""
    evaluate_every_steps: PositiveInt = 100
    held_out_pairs: PositiveInt = 1024
    selection_metric: Literal["held_out_loss", "recall_at_1", "map", "omap", "accuracy"] = "held_out_loss"
    """By which held-out metric the best step is chosen and a plateau is seen: the first two where pairs are trained on,
    the mean average precisions where tags are, accuracy where classes are."""
    keep: Literal["best", "last"] = "best"
    """Which step becomes the final model."""
    checkpoint_every_steps: PositiveInt = 100
    keep_checkpoints: PositiveInt = 2
    keep_checkpoints_when_done: bool = False
    log_every_steps: PositiveInt = 10
    tensorboard: bool = True
    max_unusable_share: float = Field(0.05, ge=0, le=1)
    """Training stops when more of the clips had to be replaced by others."""
    cache_mib: NonNegativeInt = 1024
    """Decoded clips kept in memory, per rank."""
    text_cache_mib: PositiveInt = 256
    """Caption features of a frozen text encoder kept in memory, per rank."""
    table_memory_mib: PositiveInt = 512
    """Larger tables are read by row group, shuffled within windows of half this size."""
    loader_threads: PositiveInt = 2
    prefetch_batches: NonNegativeInt = 2
    """Batches made ahead of use."""
    decode: Literal["worker", "cluster"] = "worker"
    """Who makes the batches: `loader_threads` of each training process, or through Ray Data any CPU of the cluster that
    no training process reserves, for machines with fast GPUs and few CPUs. The batches are the same to the bit. Of
    `cluster`, prefetch_batches bounds the tasks at once (16 clips each) and the waveforms that wait in the object
    store; row groups at hand lie there too, and no decoded clip is kept for the next epoch. A clip that crashes its
    decoder is replaced by another one there; of `worker` it ends the training process. Measuring always decodes in the
    training process."""
    torch_threads: PositiveInt | None = None
    """Threads of torch per rank; null: the cores of the machine shared among its ranks."""

    @model_validator(mode="after")
    def _check_parts(self) -> TrainingSettings:
        if self.batch_size % self.accumulation or self.batch_size // self.accumulation < 2:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be cut into {self.accumulation} equal parts of at least 2 pairs"
            )
        return self

    def what_counts(self) -> dict[str, object]:
        """The settings that change the weights: a resume with others is refused."""
        how = {
            "compile", "keep_checkpoints", "keep_checkpoints_when_done", "checkpoint_every_steps", "log_every_steps",
            "tensorboard", "cache_mib", "text_cache_mib", "loader_threads", "prefetch_batches", "decode",
            "torch_threads",
        }  # fmt: skip
        if self.optimizer != "sgd":
            how.add("momentum")
        return self.model_dump(mode="json", exclude=how)
