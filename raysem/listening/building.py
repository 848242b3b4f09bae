"""A listening test from two models' predictions: which clips, which list on which side, the page and its key.

Clips are drawn by the seed, or named by the caller, before any score is read. No list is left out for what it says, two
lists that are alike neither: only audio that cannot be played excludes a clip.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from raysem import storage
from raysem.config import Settings, plain
from raysem.errors import DataError, UserError
from raysem.listening.page import MAX_TOTAL_MIB, PageClip, render
from raysem.listening.predictions import Predictions, Tag, read_predictions
from raysem.listening.sounds import ClipTable, Sound, open_clips
from raysem.listening.study import ClipKey, SideKey, StudyKey, read_key

log = logging.getLogger(__name__)

PAGE_FILE = "page/index.html"
"""In a folder of its own: that folder can be handed out or put on a web server, without the key beside it."""
KEY_FILE = "key.json"


class ListeningSettings(Settings):
    """What a listening test asks."""

    num_clips: PositiveInt = 40
    num_tags: PositiveInt = 5
    """Tags in each list, those of highest score."""
    seed: NonNegativeInt = 0
    """Draws the clips, their order, and the side of each list."""
    max_seconds: float = Field(30.0, gt=0)
    """Only the first seconds of a longer clip are played; the page says so."""


@dataclass(frozen=True)
class Study:
    """A listening test as it was written."""

    key: StudyKey
    page: storage.Location
    key_file: storage.Location
    left_out: Mapping[str, str]
    num_alike: int
    """Clips whose two lists hold the same tags in the same order."""
    page_mib: float

    def to_json(self) -> dict[str, Any]:
        """What `raysem listen build` prints."""
        return {
            "study": self.key.study,
            "clips": len(self.key.clips),
            "alike": self.num_alike,
            "left_out": dict(self.left_out),
            "page": self.page,
            "page_mib": round(self.page_mib, 1),
            "key": self.key_file,
        }


def build_study(
    clips: str,
    first: str,
    second: str,
    output: str,
    *,
    clip_ids: Sequence[str] | None = None,
    settings: ListeningSettings | None = None,
) -> Study:
    """Write the page and the key below `output`.

    The same inputs and settings give the same study. Sides and tokens come from a digest of the scores, which the page
    does not hold: who knows the page and the seed still cannot tell the models apart.

    Args:
        clips, first, second: locations of the clips table and of the predictions.
        clip_ids: the clips to ask about, all of them, in place of a draw.

    Raises:
        UserError: too few clips, the same predictions twice, or an output that holds the key of another study.
        DataError: a table that is not what it should be.
    """
    settings = settings or ListeningSettings()
    firsts, seconds = read_predictions(first), read_predictions(second)
    if firsts.location == seconds.location:
        raise UserError(f"--first and --second are the same predictions, {firsts.location}")
    table = open_clips(clips, set(firsts.places) & set(seconds.places) if clip_ids is None else set(clip_ids))
    draw = _drawn(table, firsts, seconds, settings) if clip_ids is None else _named(clip_ids, table, firsts, seconds)
    num_clips = settings.num_clips if clip_ids is None else len(draw)
    sounds, left_out = table.take(draw, num_clips, settings.max_seconds)
    _check_sounds(sounds, left_out, num_clips, is_named=clip_ids is not None)
    if clip_ids is not None:
        sounds = [sounds[at] for at in np.random.default_rng(settings.seed).permutation(len(sounds))]
    key = _key(sounds, firsts, seconds, settings)
    page_file, key_file = (storage.join(storage.absolute(output), name) for name in (PAGE_FILE, KEY_FILE))
    _refuse_other_key(key_file, key)
    page = render(key.study, [_page_clip(clip, sound) for clip, sound in zip(key.clips, sounds, strict=True)])
    storage.write_json(key_file, plain(key))
    storage.write_text(page_file, page)
    num_alike = sum(clip.left.tags == clip.right.tags for clip in key.clips)
    return Study(key, page_file, key_file, left_out, num_alike, len(page.encode()) / 2**20)


def _drawn(table: ClipTable, first: Predictions, second: Predictions, settings: ListeningSettings) -> list[str]:
    """Every clip that could be asked about, in the order of the draw."""
    candidates = sorted(table.places)
    if len(candidates) < settings.num_clips:
        raise UserError(
            f"--num-clips {settings.num_clips}: only {len(candidates)} clips stand in {table.location} and in both "
            f"predictions, of which the first have {len(first.places)} and the second {len(second.places)}"
        )
    return [candidates[at] for at in np.random.default_rng(settings.seed).permutation(len(candidates))]


def _named(clip_ids: Sequence[str], table: ClipTable, first: Predictions, second: Predictions) -> list[str]:
    if not clip_ids:
        raise UserError("--ids: names no clip")
    repeated = [clip_id for at, clip_id in enumerate(clip_ids) if clip_id in clip_ids[:at]]
    if repeated:
        raise UserError(f"--ids: names clip {repeated[0]!r} twice")
    for places, where in (
        (table.places, table.location),
        (first.places, first.location),
        (second.places, second.location),
    ):
        absent = [clip_id for clip_id in clip_ids if clip_id not in places]
        if absent:
            raise DataError(f"--ids: clip {absent[0]!r} and {len(absent) - 1} more are not in {where}")
    return list(clip_ids)


def _check_sounds(sounds: Sequence[Sound], left_out: Mapping[str, str], num_clips: int, *, is_named: bool) -> None:
    if len(sounds) < num_clips:
        clip_id, reason = next(iter(left_out.items()))
        what = "--ids" if is_named else f"--num-clips {num_clips}"
        raise UserError(f"{what}: {len(left_out)} clips cannot be played, {len(sounds)} can ({clip_id}: {reason})")
    size_mib = sum(sound.player.num_bytes for sound in sounds) / 2**20
    if size_mib > MAX_TOTAL_MIB:
        raise UserError(
            f"the page would hold {size_mib:.0f} MiB of sound, {MAX_TOTAL_MIB} at most: "
            "ask for fewer clips or lower --max-seconds"
        )


def _key(sounds: Sequence[Sound], first: Predictions, second: Predictions, settings: ListeningSettings) -> StudyKey:
    clip_ids = [sound.clip_id for sound in sounds]
    first_tags = first.top_tags(clip_ids, settings.num_tags)
    second_tags = second.top_tags(clip_ids, settings.num_tags)
    secret = _secret(clip_ids, first_tags, second_tags, settings)
    first_is_left = _sides(len(clip_ids), secret)
    clips = []
    for clip_id, is_left in zip(clip_ids, first_is_left, strict=True):
        token, left, right = (_token(secret, clip_id, part) for part in ("clip", "left", "right"))
        first_token, second_token = (left, right) if is_left else (right, left)
        one = SideKey(token=first_token, model="first", tags=_names(first_tags[clip_id]))
        other = SideKey(token=second_token, model="second", tags=_names(second_tags[clip_id]))
        sides = {"left": one, "right": other} if is_left else {"left": other, "right": one}
        clips.append(ClipKey(token=token, clip_id=clip_id, **sides))
    return StudyKey(
        study=_token(secret, "study"),
        first=first.location,
        second=second.location,
        seed=settings.seed,
        clips=tuple(clips),
    )


def _names(tags: Sequence[Tag]) -> tuple[str, ...]:
    return tuple(tag.name for tag in tags)


def _secret(
    clip_ids: Sequence[str],
    first_tags: Mapping[str, Sequence[Tag]],
    second_tags: Mapping[str, Sequence[Tag]],
    settings: ListeningSettings,
) -> bytes:
    lists = [
        [clip_id, [[[tag.name, tag.score] for tag in tags[clip_id]] for tags in (first_tags, second_tags)]]
        for clip_id in clip_ids
    ]
    return hashlib.sha256(json.dumps([plain(settings), lists]).encode()).digest()


def _sides(num_clips: int, secret: bytes) -> list[bool]:
    """Whether the first model's list stands on the left: of half the clips, and of an odd one by the secret."""
    generator = np.random.default_rng(int.from_bytes(secret))
    num_left = num_clips // 2 + int(generator.integers(2)) * (num_clips % 2)
    return (generator.permutation(num_clips) < num_left).tolist()


def _token(secret: bytes, *parts: str) -> str:
    """What stands in the page for a thing: it says nothing to those who do not have the secret."""
    return hashlib.sha256(secret + json.dumps(parts).encode()).hexdigest()[:12]


def _page_clip(clip: ClipKey, sound: Sound) -> PageClip:
    return PageClip(
        token=clip.token,
        player=sound.player,
        is_whole=sound.is_whole,
        left=(clip.left.token, clip.left.tags),
        right=(clip.right.token, clip.right.tags),
    )


def _refuse_other_key(key_file: storage.Location, key: StudyKey) -> None:
    if not storage.exists(key_file):
        return
    found = read_key(key_file).study
    if found != key.study:
        raise UserError(
            f"{key_file}: is the key of study {found}, without which its answers say nothing; choose another --output"
        )
