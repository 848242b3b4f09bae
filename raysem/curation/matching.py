"""Every clip-caption pair whose cosine is at least a threshold, in bounded memory.

The similarity of a pair is defined once, by `pair_similarity`: both rows as float32, their products in float64 (exact
there), summed by halving (the upper half of the row is added to the lower, until one number is left), rounded to
float32 once: the same to the bit whatever the tile, the batch, the order, the number of threads or the machine. Another
way to add is taken where it is proved to end at the same float32. A pair is kept if this value >= float32(threshold).

Candidates come from `sketches`, whose cheap products are upper bounds; a float32 dot product sorts out most that are
false, and each that is left is settled with that value.
"""

# Shapes: A clips, C captions, D embedding width, P pairs.

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from raysem.curation.cosines import Array, Pairs, Rows, exact_cosines, pairs_above
from raysem.curation.sketches import (
    CaptionBlock,
    ClipTile,
    Precision,
    Projection,
    best_precision,
    caption_block,
    choose_projection,
)
from raysem.curation.threads import in_order, one_thread_each
from raysem.errors import DataError

Chunk = tuple[Array, Array, Array]

MAX_PAIRS = 50_000_000  # 1 GB of results
SAMPLED_ROWS = 1024  # of each side, to choose a projection
CPU_TILE = (1024, 1024)
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
    """The pairs of `match_above` as a stream of chunks, each from one tile and sorted; never more than a few at once.

    On CPUs each of torch's threads settles tiles of its own. The chunks follow the clips, and within a block of clips
    the captions; tiles without pairs are left out.
    """
    if not -1 <= threshold <= 1:  # also false for NaN
        raise ValueError(f"similarity threshold {threshold}: a cosine lies between -1 and 1")
    audio = Rows(audio_AD, "audio")
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
        self.rows = Rows(text_CD, "text")
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

    def check_against(self, audio: Rows) -> None:
        """The same kind, device and width as `audio`."""
        if audio.is_torch != self.rows.is_torch:
            raise ValueError("embeddings: both numpy or both torch, got one of each")
        if audio.device != self.rows.device:
            raise ValueError(f"embeddings on one device, got audio on {audio.device} and text on {self.rows.device}")
        if audio.width != self.rows.width:
            raise ValueError(f"embeddings of one width, got audio {audio.width} and text {self.rows.width}")

    def sketches(self, audio: Rows, threshold: float) -> tuple[Projection | None, list[CaptionBlock]]:
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
    audio, text = Rows(audio_AD, "audio"), Rows(text_CD, "text")
    if audio.width != text.width:
        raise ValueError(f"embeddings of one width, got audio {audio.width} and text {text.width}")
    index_P = [torch.as_tensor(index, dtype=torch.int64, device=audio.device) for index in (audio_index, caption_index)]
    similarity_P = exact_cosines(audio, text, *index_P)
    return similarity_P if audio.is_torch else similarity_P.numpy()


def _stream(audio: Rows, captions: PreparedCaptions, threshold: float, clips_per_tile: int) -> Iterator[Chunk]:
    projection, blocks = captions.sketches(audio, threshold)
    starts = range(0, len(audio), clips_per_tile)
    precisions = {block.precision for block in blocks}

    def clip_tile(start: int) -> ClipTile:
        rows_aD = audio.block(start, start + clips_per_tile)
        return ClipTile(projection(rows_aD) if projection else rows_aD, precisions)

    def settled(start: int, clips: Callable[[], ClipTile], block: CaptionBlock) -> Pairs:
        row_P, column_P = clips().candidates(block, threshold)
        return pairs_above(audio, captions.rows, row_P + start, column_P + block.start, threshold)

    def tiles(made: Callable[[int], Callable[[], ClipTile]]) -> Iterator[Callable[[], Pairs]]:
        for start in starts:
            clips = made(start)
            yield from (partial(settled, start, clips, block) for block in blocks)

    def at_once(start: int) -> Callable[[], ClipTile]:
        clips = clip_tile(start)
        return lambda: clips

    threads = min(torch.get_num_threads(), len(starts) * len(blocks)) if audio.device.type == "cpu" else 1
    if threads > 1:
        with one_thread_each(threads) as pool:
            # a tile waits for its clips; they were given to the pool before it, so that none waits for ever
            chunks = in_order(pool, tiles(lambda start: pool.submit(clip_tile, start).result), num_ahead=2 * threads)
            yield from (_as_given(chunk, audio) for chunk in chunks if len(chunk[0]))
    else:
        for tile in tiles(at_once):
            chunk = tile()
            if len(chunk[0]):
                yield _as_given(chunk, audio)


def _as_given(chunk: Pairs, audio: Rows) -> Chunk:
    return chunk if audio.is_torch else (chunk[0].numpy(), chunk[1].numpy(), chunk[2].numpy())


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
