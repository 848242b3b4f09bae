"""The clips that a training run could not use: counted each time one was drawn, listed once each."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Any

import pyarrow as pa
import torch
import torch.distributed as dist

from raysem import storage
from raysem.corpora.rows import rejects_table
from raysem.losses.gather import in_group
from raysem.storage import Location
from raysem.training.context import TrainContext, TrainingError

log = logging.getLogger(__name__)

FILE = "rejects.parquet"
TRAIN, HELD_OUT = "train", "held_out"
MIN_CLIPS_FOR_A_SHARE = 50


@dataclass(frozen=True)
class UnusableClip:
    """A clip with the outcome and the reason that its row of the rejects has."""

    clip_id: str
    outcome: str
    reason: str

    def __str__(self) -> str:
        return f"clip {self.clip_id}: {self.outcome}: {self.reason}"


class TrainingRejects:
    """Counts of clips loaded and of clips replaced by others, over all ranks, and `<output>/rejects.parquet`.

    The file has each clip once, with stage `train`, or `held_out` for pairs that are only measured on. Rank 0 writes it
    before each checkpoint and at the end. A resumed attempt starts from it: the steps after the checkpoint come again,
    and so do their rejects.
    """

    def __init__(self, output: Location, context: TrainContext, *, max_share: float):
        self._location = storage.join(output, FILE)
        self._context, self._max_share = context, max_share
        self.loaded = 0
        self.outcomes: Counter[str] = Counter()
        self._new_loaded = 0
        self._new: dict[str, list[UnusableClip]] = {TRAIN: [], HELD_OUT: []}
        self._listed: dict[str, dict[str, UnusableClip]] = {TRAIN: {}, HELD_OUT: {}}
        self._is_written = False

    @property
    def unusable(self) -> int:
        """Clips that were drawn and had to be replaced by others; one that was drawn twice counts twice."""
        return self.outcomes.total()

    def add(self, loaded: int, unusable: Iterable[UnusableClip]) -> None:
        """Note this rank's part of a batch."""
        self._new_loaded += loaded
        self._new[TRAIN] += unusable

    def add_held_out(self, unusable: Iterable[UnusableClip]) -> None:
        """Note held-out clips that this rank had to leave out."""
        self._new[HELD_OUT] += unusable

    def share(self, step: int) -> None:
        """Take in what every rank has noted; called on every rank.

        Raises:
            TrainingError: too large a share of the clips drawn so far cannot be used.
        """
        sizes = [self._new_loaded, *(len(self._new[stage]) for stage in (TRAIN, HELD_OUT))]
        counts = torch.tensor(sizes, dtype=torch.int64, device=self._context.device)
        if in_group():
            dist.all_reduce(counts)
        loaded, unusable, held_out = (int(count) for count in counts.tolist())
        self.loaded += loaded
        examples: list[UnusableClip] = []
        if unusable or held_out:
            for found in self._from_all_ranks():
                examples += found[TRAIN]
                for stage, clips in found.items():
                    self._list(stage, clips)
            self.outcomes.update(clip.outcome for clip in examples)
        self._new_loaded, self._new = 0, {TRAIN: [], HELD_OUT: []}
        if examples and self._context.rank == 0:
            log.warning("%d clips could not be used and were replaced by others, such as %s", unusable, examples[0])
        share = self.unusable / max(1, self.loaded + self.unusable)
        if share > self._max_share and self.loaded >= MIN_CLIPS_FOR_A_SHARE:
            self.write()
            raise TrainingError(
                f"step {step}: {self.unusable} clips could not be used against {self.loaded} that could, more than "
                f"max_unusable_share {self._max_share:g} allows; here {'; '.join(map(str, examples[:3]))}"
            )

    def write(self) -> None:
        """Write the file, unless it is there as it is to be; only rank 0 does."""
        if self._context.rank == 0 and not self._is_written:
            tables = [rejects_table(map(astuple, clips.values()), stage) for stage, clips in self._listed.items()]
            storage.write_table(self._location, pa.concat_tables(tables))
            self._is_written = True

    def state(self) -> dict[str, Any]:
        """What a resume needs besides the file."""
        return {"loaded": self.loaded, "unusable": dict(sorted(self.outcomes.items()))}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state` and the file."""
        self.loaded, self.outcomes = state["loaded"], Counter(state["unusable"])
        if self._context.rank == 0 and storage.exists(self._location):
            for row in storage.read_table(self._location).to_pylist():
                self._list(row["stage"], [UnusableClip(row["clip_id"], row["outcome"], row["reason"])])
            self._is_written = True

    def _list(self, stage: str, clips: Iterable[UnusableClip]) -> None:
        listed = self._listed[stage]
        for clip in clips:
            if clip.clip_id not in listed:
                listed[clip.clip_id] = clip
                self._is_written = False

    def _from_all_ranks(self) -> list[dict[str, list[UnusableClip]]]:
        if not in_group():
            return [self._new]
        found: list[dict[str, list[UnusableClip]]] = [{}] * self._context.world_size
        dist.all_gather_object(found, self._new)
        return found
