"""What a scale plan is made for: so many clips, a teacher, a cluster. Defaults are those of the recipes' settings."""

from __future__ import annotations

from dataclasses import dataclass

from raysem.runs.resource_estimate import FLOAT_BYTES
from raysem.runs.scale_rates import Device

GIB, MIB = 2**30, 2**20
PACKED_SHARD_BYTES = 256 * MIB  # `raysem corpus pack`


@dataclass(frozen=True, kw_only=True)
class PlannedTeacher:
    """What a teacher takes and gives."""

    encoder: str
    sample_rate: int
    crop_samples: int
    embedding_width: int
    starts_students: bool = True
    """Whether a student can be trained from its weights."""


TEACHERS: dict[str, PlannedTeacher] = {
    # LAION's, as transformers has it: `teacher.kind: hf_clap`
    "htsat": PlannedTeacher(
        encoder="hts_at", sample_rate=48_000, crop_samples=480_000, embedding_width=512, starts_students=False
    ),
    # `teacher.kind: clap2022`, or trained here with the defaults
    "cnn14": PlannedTeacher(encoder="cnn14", sample_rate=44_100, crop_samples=220_500, embedding_width=1024),
    # As benchmarks/ has it
    "cnn14_tiny": PlannedTeacher(encoder="cnn14_tiny", sample_rate=32_000, crop_samples=128_000, embedding_width=256),
}


@dataclass(frozen=True, kw_only=True)
class PlannedCluster:
    """What works on it; counts are of the whole cluster, in nodes that are alike."""

    cpus: int
    gpus: int = 0
    gpu_kind: str = ""
    nodes: int = 1
    node_bytes: float | None = None
    driver_bytes: float | None = None
    """Memory of the head's node; None: as the others."""
    storage_bytes_per_second: float | None = None
    gpu_price: float | None = None
    """Of a GPU and an hour, in whatever currency."""
    cpu_price: float | None = None

    @property
    def device(self) -> Device:
        """What embeds and trains."""
        return "gpu" if self.gpus else "cpu"

    @property
    def workers(self) -> int:
        """GPUs, or where there are none, CPUs."""
        return self.gpus or self.cpus


@dataclass(frozen=True, kw_only=True)
class PlannedWork:
    """How much there is to do. None: not known."""

    clips: int
    clip_seconds: float
    teacher: PlannedTeacher
    captions: int
    audio_format: str = "flac"
    clip_bytes: float | None = None
    """Of a clip's compressed audio, mean; with it the shards hold the audio."""
    keep_rate: float | None = None
    """Share of all pairs of clip and caption that reach the floor."""
    selected_share: float | None = None
    """Share of the clips that the rule keeps."""
    screens: bool = False
    training_steps: int = 1000
    batch_size: int = 128
    evaluation_clips: int = 2000
    evaluated_models: int = 2
    num_crops: int = 1
    clips_per_unit: int = 32
    captions_per_unit: int = 256
    rows_per_shard: int = 2000
    neighbours: int = 10
    exact_neighbours_up_to: int = 1_000_000

    @property
    def clips_per_shard(self) -> int:
        """Of an input shard; fewer than `rows_per_shard` where the audio fills it."""
        if self.clip_bytes is None:
            return self.rows_per_shard
        return max(1, min(self.rows_per_shard, int(PACKED_SHARD_BYTES / self.clip_bytes)))

    @property
    def shards(self) -> int:
        """Input shards, each with a done-record in every stage that works by shard."""
        return -(-self.clips // self.clips_per_shard)

    @property
    def units(self) -> int:
        """What the driver hands out: a decoding task's share, embedded as one batch."""
        return self.shards * -(-min(self.clips_per_shard, self.clips) // self.clips_per_unit)

    @property
    def pairs(self) -> float | None:
        """Scored pairs that are stored."""
        return None if self.keep_rate is None else self.keep_rate * self.clips * self.captions

    @property
    def unit_bytes(self) -> int:
        """The waveforms of a unit; a clip no longer than a crop has one."""
        long_clip = self.clip_seconds * self.teacher.sample_rate > self.teacher.crop_samples
        crops = self.num_crops if long_clip else 1
        clips = min(self.clips_per_unit, self.clips_per_shard)
        return FLOAT_BYTES * clips * crops * self.teacher.crop_samples
