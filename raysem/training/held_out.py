"""Measuring a model on held-out pairs: the loss and the recall by which a checkpoint is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from raysem.errors import DataError, RaysemError
from raysem.losses.contrastive import scaled_similarity
from raysem.losses.gather import in_group
from raysem.models.protocol import exact_evaluation
from raysem.training.clips import ClipLoader, centre_crops
from raysem.training.context import TrainContext, stop_together
from raysem.training.draws import draw_seed
from raysem.training.objective import AudioTextNetwork, TextInputs
from raysem.training.rejects import UnusableClip
from raysem.training.table import TrainingClip

# Shapes: N held-out pairs, B pairs of one forward call, D embedding width.


@dataclass
class _Embedded:
    """One rank's share of the pairs: rows of the other ranks are zero, and their captions None."""

    captions: list[str | None]
    audio: Tensor | None = None
    text: Tensor | None = None

    def put(self, places: list[int], captions: Sequence[str], audio_BD: Tensor, text_BD: Tensor) -> None:
        if self.audio is None or self.text is None:
            self.audio = torch.zeros(len(self.captions), audio_BD.shape[1], device=audio_BD.device)
            self.text = torch.zeros_like(self.audio)
        rows = torch.tensor(places, device=audio_BD.device)
        self.audio[rows], self.text[rows] = audio_BD, text_BD
        for place, caption in zip(places, captions, strict=True):
            self.captions[place] = caption


class HeldOutPairs:
    """A `Measure`: a fixed choice of at most `num_pairs` rows of the held-out table, each with one fixed caption."""

    name, chooses = "held_out", True

    def __init__(
        self,
        clips: ClipLoader,
        table: int,
        text_inputs: TextInputs,
        *,
        num_pairs: int,
        batch_size: int,
        num_threads: int,
        seed: int,
    ):
        total = len(clips.tables[table])
        order = np.random.default_rng(draw_seed("held_out", seed)).permutation(total)
        self._rows = sorted(int(row) for row in order[:num_pairs])
        self._clips, self._table, self._text_inputs = clips, table, text_inputs
        self._batch_size, self._num_threads, self._seed = batch_size, num_threads, seed
        self.unusable: dict[str, UnusableClip] = {}

    @torch.no_grad()
    def measure(self, model: nn.Module, context: TrainContext) -> dict[str, float]:
        """Metrics of `model` in eval mode and fp32; the ranks share the clips, each gets the same result.

        A pair whose clip cannot be used is left out; `pairs` says how many are in.
        """
        embedded, error = _Embedded([None] * len(self._rows)), None
        try:
            with exact_evaluation(model), ThreadPoolExecutor(self._num_threads) as pool:
                mine = list(range(context.rank, len(self._rows), context.world_size))
                for start in range(0, len(mine), self._batch_size):
                    places = mine[start : start + self._batch_size]
                    self._embed(places, cast(AudioTextNetwork, model), context, pool, embedded)
        except RaysemError as caught:
            error = caught
        stop_together(error, context)
        audio, text, captions = _joined(embedded, context)
        present = [place for place, caption in enumerate(captions) if caption is not None]
        if audio is None or text is None or len(present) < 2:
            raise DataError(f"held-out pairs: {len(present)} of {len(self._rows)} can be used, at least 2 are needed")
        scale = cast(AudioTextNetwork, model).scale()
        return held_out_metrics(audio[present], text[present], scale, [cast(str, captions[i]) for i in present])

    def _embed(
        self,
        places: list[int],
        network: AudioTextNetwork,
        context: TrainContext,
        pool: ThreadPoolExecutor,
        embedded: _Embedded,
    ) -> None:
        rows = [self._rows[place] for place in places]
        pairs, waveform_BT = centre_crops(self._clips, self._table, rows, crop_samples=network.crop_samples, pool=pool)
        self.unusable |= {pair.clip_id: pair for pair in pairs if isinstance(pair, UnusableClip)}
        texts = {
            i: clip.caption(seed=self._seed, epoch=0) for i, clip in enumerate(pairs) if isinstance(clip, TrainingClip)
        }
        if not texts:
            return
        audio_BD = network.encode_audio(waveform_BT[list(texts)].to(context.device)).float()
        inputs = self._text_inputs(list(texts.values()))
        encoded = network.encode_text_features if isinstance(inputs, Tensor) else network.encode_text
        text_BD = encoded(inputs).float()  # type: ignore[arg-type]
        embedded.put([places[index] for index in texts], list(texts.values()), audio_BD, text_BD)


def held_out_metrics(audio_ND: Tensor, text_ND: Tensor, logit_scale: Tensor, captions: list[str]) -> dict[str, float]:
    """Loss over all N pairs at once, and recall at 1 in both directions.

    Pairs with the same caption count as right for one another (labels make such captions): the loss is the
    cross-entropy against a row that is uniform over them, which is the contrastive loss when all captions differ, and
    a retrieved pair with the caption asked for is a hit.
    """
    similarity_NN = scaled_similarity(audio_ND, text_ND, logit_scale)
    numbers = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    group_N = torch.tensor([numbers[caption] for caption in captions], device=similarity_NN.device)
    same_NN = group_N[:, None] == group_N[None, :]
    target_NN = same_NN.float() / same_NN.sum(dim=1, keepdim=True)
    losses, recalls = [], []
    for direction_NN in (similarity_NN, similarity_NN.T):
        losses.append(F.cross_entropy(direction_NN, target_NN))
        recalls.append((group_N[direction_NN.argmax(dim=1)] == group_N).float().mean())
    return {
        "held_out_loss": float((losses[0] + losses[1]) / 2),
        "recall_at_1_audio_to_text": float(recalls[0]),
        "recall_at_1_text_to_audio": float(recalls[1]),
        "recall_at_1": float((recalls[0] + recalls[1]) / 2),
        "pairs": float(len(captions)),
    }


def _joined(embedded: _Embedded, context: TrainContext) -> tuple[Tensor | None, Tensor | None, list[str | None]]:
    """All ranks' rows. A row is zero on every rank but one, so the sum is exact."""
    audio, text, captions = embedded.audio, embedded.text, embedded.captions
    if not in_group():
        return audio, text, captions
    gathered: list[tuple[list[str | None], int]] = [([], 0)] * context.world_size
    dist.all_gather_object(gathered, (captions, 0 if audio is None else audio.shape[1]))
    width = max(found for _, found in gathered)
    merged = [
        next((c for c in column if c is not None), None) for column in zip(*(c for c, _ in gathered), strict=True)
    ]
    if not width:
        return None, None, merged
    audio = torch.zeros(len(captions), width, device=context.device) if audio is None else audio
    text = torch.zeros(len(captions), width, device=context.device) if text is None else text
    dist.all_reduce(audio)
    dist.all_reduce(text)
    return audio, text, merged
