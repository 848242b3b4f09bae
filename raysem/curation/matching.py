"""Every clip-caption pair whose cosine is at least a threshold, in bounded memory.

The similarity of a pair is defined once, by `pair_similarity`: both rows as float32, their products in float64 (exact
there), summed by halving (the upper half of the row is added to the lower, until one number is left), rounded to
float32 once. Only element-wise operations take part, so a pair's value is the same to the bit whatever the tile, the
batch, the order, the number of threads or the machine. A pair is kept if this value >= float32(threshold).

Candidates come from `sketches`, whose cheap products are upper bounds; a float32 dot product sorts out most that are
false, and each that is left is settled with that value.
"""

# Shapes: A clips, C captions, D embedding width, P pairs.

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from raysem.curation.ranking import rank_over_shards as rank_over_shards
from raysem.curation.ranking import rank_within as rank_within
from raysem.curation.sketches import (
    NORM_TOLERANCE,
    CaptionBlock,
    ClipTile,
    Precision,
    Projection,
    best_precision,
    caption_block,
    choose_projection,
)
from raysem.errors import DataError

Array = np.ndarray | Tensor
Chunk = tuple[Array, Array, Array]

RECHECKS_AT_ONCE = 128  # a chunk of products stays in a core's cache
MAX_PAIRS = 50_000_000  # 1 GB of results
SAMPLED_ROWS = 1024  # of each side, to choose a projection
CPU_TILE = (1024, 2048)
CUDA_TILE = (8192, 16384)


def match_above(
    audio_AD: Array,
    text_CD: Array | PreparedCaptions,
    threshold: float,
    *,
    max_pairs: int = MAX_PAIRS,
    precision: Precision | None = None,
    tile: tuple[int, int] | None = None,
) -> Chunk:
    """`(audio_index, caption_index, similarity)` of every pair with cosine >= threshold, sorted by the two indices.

    int64, int64 and float32; numpy in gives numpy out, torch gives torch on the same device. `precision` and `tile`
    change the speed only. Memory grows with clips + captions + pairs found.

    Raises:
        ValueError: rows that are not finite or not of unit length, widths that differ, a threshold outside [-1, 1].
        DataError: more than `max_pairs` pairs; `match_tiles` has no such limit.
    """
    found: list[Chunk] = []
    num_pairs = 0
    for chunk in match_tiles(audio_AD, text_CD, threshold, precision=precision, tile=tile):
        num_pairs += len(chunk[0])
        if num_pairs > max_pairs:
            raise DataError(
                f"similarity threshold {threshold}: more than {max_pairs} pairs among {len(audio_AD)} clips x "
                f"{len(text_CD)} captions; raise the threshold, or raise max_pairs (20 bytes of memory for each)"
            )
        found.append(chunk)
    return _joined(found, like=audio_AD)


def match_tiles(
    audio_AD: Array,
    text_CD: Array | PreparedCaptions,
    threshold: float,
    *,
    precision: Precision | None = None,
    tile: tuple[int, int] | None = None,
) -> Iterator[Chunk]:
    """The pairs of `match_above` as a stream of chunks, each from one tile and sorted; never more than a tile at once.

    The chunks follow the clips, and within a block of clips the captions; tiles without pairs are left out.
    """
    if not -1 <= threshold <= 1:  # also false for NaN
        raise ValueError(f"similarity threshold {threshold}: a cosine lies between -1 and 1")
    audio = _Rows(audio_AD, "audio")
    if isinstance(text_CD, PreparedCaptions):
        if precision is not None:
            raise ValueError("precision: prepared captions have theirs")
        captions = text_CD
    else:
        captions = PreparedCaptions(text_CD, precision=precision, captions_per_tile=tile[1] if tile else None)
        captions.num_uses = 1
    captions.check_against(audio)
    clips_per_tile = tile[0] if tile else (CUDA_TILE if audio.device.type == "cuda" else CPU_TILE)[0]
    audio.check(clips_per_tile)
    return _stream(audio, captions, float(np.float32(threshold)), clips_per_tile)


class PreparedCaptions:
    """Captions for many calls of `match_above`, as when clips come shard by shard: checked and sketched only once.

    The sketches are made at the first call, for its clips and threshold; a call with another threshold makes them anew.
    """

    def __init__(
        self, text_CD: Array, *, precision: Precision | None = None, captions_per_tile: int | None = None
    ) -> None:
        self.rows = _Rows(text_CD, "text")
        device = self.rows.device.type
        self._captions_per_tile = captions_per_tile or (CUDA_TILE if device == "cuda" else CPU_TILE)[1]
        self._precision = precision or best_precision(device)
        self._made_for: float | None = None
        self._projection: Projection | None = None
        self._blocks: list[CaptionBlock] = []
        self.num_uses = 100
        """Calls expected: what preparing costs is shared among them."""
        self.rows.check(self._captions_per_tile)

    def __len__(self) -> int:
        return len(self.rows)

    def check_against(self, audio: _Rows) -> None:
        """The same kind, device and width as `audio`."""
        if audio.is_torch != self.rows.is_torch:
            raise ValueError("embeddings: both numpy or both torch, got one of each")
        if audio.device != self.rows.device:
            raise ValueError(f"embeddings on one device, got audio on {audio.device} and text on {self.rows.device}")
        if audio.width != self.rows.width:
            raise ValueError(f"embeddings of one width, got audio {audio.width} and text {self.rows.width}")

    def sketches(self, audio: _Rows, threshold: float) -> tuple[Projection | None, list[CaptionBlock]]:
        if self._made_for != threshold and len(audio) and len(self.rows):
            pairs, rows = len(audio) * len(self.rows), len(audio) + len(self.rows) // self.num_uses
            self._projection = choose_projection(
                audio.sample(SAMPLED_ROWS),
                self.rows.sample(SAMPLED_ROWS),
                threshold,
                self._precision,
                pairs=pairs,
                rows=rows,
            )
            self._blocks = []
            for start in range(0, len(self.rows), self._captions_per_tile):
                rows_cD = self.rows.block(start, start + self._captions_per_tile)
                rows_cK = self._projection(rows_cD) if self._projection else rows_cD
                self._blocks.append(caption_block(rows_cK, start, self._precision))
            self._made_for = threshold
        return self._projection, self._blocks


def pair_similarity(audio_AD: Array, text_CD: Array, audio_index: Array, caption_index: Array) -> Array:
    """The float32 cosine of given pairs of unit rows; the value every other path must agree with (see the module)."""
    audio, text = _Rows(audio_AD, "audio"), _Rows(text_CD, "text")
    if audio.width != text.width:
        raise ValueError(f"embeddings of one width, got audio {audio.width} and text {text.width}")
    index_P = [torch.as_tensor(index, dtype=torch.int64, device=audio.device) for index in (audio_index, caption_index)]
    similarity_P = _pair_similarity(audio, text, *index_P)
    return similarity_P if audio.is_torch else similarity_P.numpy()


class _Rows:
    """Rows of an array in numpy (also memory-mapped) or torch, handed out as float32 tensors a few at a time."""

    def __init__(self, array: Array, name: str):
        self.is_torch = isinstance(array, Tensor)
        if not isinstance(array, np.ndarray | Tensor) or array.ndim != 2:
            found = tuple(array.shape) if isinstance(array, np.ndarray | Tensor) else type(array).__name__
            raise ValueError(f"{name} embeddings: expected a numpy or torch array (rows, width), got {found}")
        floating = array.is_floating_point() if isinstance(array, Tensor) else array.dtype.kind == "f"
        if not floating:
            raise ValueError(f"{name} embeddings: expected floating point numbers, got {array.dtype}")
        self._array: Array = array.detach() if isinstance(array, Tensor) else array
        if isinstance(array, np.ndarray) and array.dtype == np.float32 and array.flags.c_contiguous:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns of read-only memory; nothing is written to it here
                self._array = torch.from_numpy(array)
        self._name = name
        self.device = array.device if isinstance(array, Tensor) else torch.device("cpu")
        self.width = array.shape[1]

    def __len__(self) -> int:
        return len(self._array)

    def block(self, start: int, stop: int) -> Tensor:
        if isinstance(self._array, Tensor):
            return self._array[start:stop].float()
        return torch.from_numpy(np.array(self._array[start:stop], dtype=np.float32))

    def take(self, index_P: Tensor) -> Tensor:
        if isinstance(self._array, Tensor):
            return self._array.index_select(0, index_P).float()
        return torch.from_numpy(np.array(self._array[index_P.numpy()], dtype=np.float32))

    def sample(self, size: int) -> Tensor:
        """Up to `size` rows, evenly placed."""
        return self.take(torch.arange(0, len(self), max(len(self) // size, 1), device=self.device)[:size])

    def check(self, rows_at_once: int) -> None:
        """Every row finite and of unit length."""
        for start in range(0, len(self), rows_at_once):
            norm = torch.linalg.vector_norm(self.block(start, start + rows_at_once), dim=1)
            wrong = ~((norm - 1).abs() <= NORM_TOLERANCE)  # NaN is wrong too
            if wrong.any():
                row = int(wrong.int().argmax())
                raise ValueError(
                    f"{self._name} embeddings: row {start + row} has length {norm[row].item():.6g}, expected 1 "
                    f"(within {NORM_TOLERANCE}); divide each row by its norm"
                )


def _stream(audio: _Rows, captions: PreparedCaptions, threshold: float, clips_per_tile: int) -> Iterator[Chunk]:
    projection, blocks = captions.sketches(audio, threshold)
    slack = 1e-5 + audio.width * 2.0**-22  # float32 sums, in whatever order torch takes
    for start in range(0, len(audio), clips_per_tile):
        rows_aD = audio.block(start, start + clips_per_tile)
        clips = ClipTile(projection(rows_aD) if projection else rows_aD)
        for block in blocks:
            row_P, column_P = clips.candidates(block, threshold)
            if not len(row_P):
                continue
            audio_index, caption_index = row_P + start, column_P + block.start
            likely_P = _rough_similarity(audio, captions.rows, audio_index, caption_index) >= threshold - slack
            audio_index, caption_index = audio_index[likely_P], caption_index[likely_P]
            similarity_P = _pair_similarity(audio, captions.rows, audio_index, caption_index)
            keep_P = similarity_P >= threshold
            chunk = audio_index[keep_P], caption_index[keep_P], similarity_P[keep_P]
            if len(chunk[0]):
                yield chunk if audio.is_torch else (chunk[0].numpy(), chunk[1].numpy(), chunk[2].numpy())


def _rough_similarity(audio: _Rows, text: _Rows, audio_index: Tensor, caption_index: Tensor) -> Tensor:
    """Dot products in float32 at a third of the cost of `_pair_similarity`; the last digits depend on the machine."""
    at_once = RECHECKS_AT_ONCE if audio.device.type == "cpu" else 64 * RECHECKS_AT_ONCE
    parts = [
        (audio.take(rows) * text.take(columns)).sum(dim=1)
        for rows, columns in zip(audio_index.split(at_once), caption_index.split(at_once), strict=True)
    ]
    return torch.cat(parts)


def _pair_similarity(audio: _Rows, text: _Rows, audio_index: Tensor, caption_index: Tensor) -> Tensor:
    at_once = RECHECKS_AT_ONCE if audio.device.type == "cpu" else 64 * RECHECKS_AT_ONCE
    similarity_P = torch.empty(len(audio_index), dtype=torch.float32, device=audio.device)
    for start in range(0, len(audio_index), at_once):
        chunk = slice(start, start + at_once)
        product_PD = audio.take(audio_index[chunk]).double()
        product_PD *= text.take(caption_index[chunk]).double()
        width = product_PD.shape[1]
        while width > 1:
            half = (width + 1) // 2
            product_PD[:, : width - half] += product_PD[:, half:width]
            width = half
        similarity_P[chunk] = product_PD[:, 0]
    return similarity_P


def _joined(chunks: list[Chunk], *, like: Array) -> Chunk:
    """The chunks as three arrays, sorted by clip and then caption."""
    device = like.device if isinstance(like, Tensor) else torch.device("cpu")
    columns = [torch.empty(0, dtype=kind, device=device) for kind in (torch.int64, torch.int64, torch.float32)]
    for number, column in enumerate(columns):
        columns[number] = torch.cat([column, *(torch.as_tensor(chunk[number]) for chunk in chunks)])
    order_P = columns[1].argsort(stable=True)
    order_P = order_P[columns[0][order_P].argsort(stable=True)]
    audio_index, caption_index, similarity_P = (column[order_P] for column in columns)
    if isinstance(like, Tensor):
        return audio_index, caption_index, similarity_P
    return audio_index.numpy(), caption_index.numpy(), similarity_P.numpy()
