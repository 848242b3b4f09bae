"""FSD50K: 51,197 Freesound clips of 0.3 to 30 s, 200 classes of the AudioSet ontology. Fonseca et al., 2020.

Layout, as published: `FSD50K.ground_truth/dev.csv` (fname, labels, mids, split) and `eval.csv` (fname, labels, mids),
`FSD50K.dev_audio/<fname>.wav`, `FSD50K.eval_audio/<fname>.wav`, and, for captions,
`FSD50K.metadata/{dev,eval}_clips_info_FSD50K.json` (fname: title, description, tags, license, uploader).
Licence: CC BY 4.0 as a whole; each clip CC0, CC BY, CC BY-NC or CC Sampling+. `fname` is the Freesound id.
No folds; `split` is train, val or eval. There are no captions in it: title and description, written by whoever
uploaded the sound, stand in for one, as for the teacher of CLAP; `labels` are the names as written (`Acoustic_guitar`).
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from typing import Any, Literal

from raysem import storage
from raysem.config import Settings
from raysem.corpora.rows import ClipRow
from raysem.corpora.sources import AudioFiles, first_existing, inside, read_csv, require_folder
from raysem.errors import DataError

NEEDS = "FSD50K.ground_truth/, FSD50K.dev_audio/ and FSD50K.eval_audio/, FSD50K.metadata/ for captions"
_TAG = re.compile(r"<[^>]*>")
_LINK = re.compile(r"https?://\S+")
_EXTENSION = re.compile(r"\.(wav|flac|ogg|mp3|aiff?|m4a)$", re.IGNORECASE)


class Fsd50kOptions(Settings):
    """Options of FSD50K."""

    part: tuple[Literal["dev", "eval"], ...] = ("dev", "eval")
    caption: Literal["none", "title", "title_and_description"] = "title_and_description"
    """What stands in for a caption; other than "none" needs FSD50K.metadata."""


def read_fsd50k(root: str, options: Fsd50kOptions | None = None) -> Iterator[ClipRow]:
    """The clips of dev, then of eval."""
    options = options or Fsd50kOptions()
    location = require_folder(root, NEEDS)
    for part in options.part:
        table = first_existing(location, [f"FSD50K.ground_truth/{part}.csv", f"labels/{part}.csv"], NEEDS)
        folder = first_existing(location, [f"FSD50K.{part}_audio", f"clips/{part}"], NEEDS)
        information = {} if options.caption == "none" else _information(location, part)
        yield from _read_part(part, table, AudioFiles(folder), information, options)


def _read_part(
    part: str, table: str, files: AudioFiles, information: dict[str, Any], options: Fsd50kOptions
) -> Iterator[ClipRow]:
    required = ["fname", "labels", "mids", *(["split"] if part == "dev" else [])]
    for record in read_csv(table, required):
        name = inside(files.folder, record.text("fname"), record.place)
        split = record.text("split") if part == "dev" else "eval"
        if split not in ("train", "val", "eval"):
            raise DataError(f"{record.place}: split is {split!r}, expected train or val")
        found = files.find(name, record.place)
        yield ClipRow(
            clip_id=f"fsd50k/{name}",
            source="fsd50k",
            place=record.place,
            path=found or storage.join(files.folder, f"{name}.wav"),
            captions=_caption(information.get(name, {}), options),
            labels=tuple(label.strip() for label in record.text("labels").split(",")),
            split=split,
            problem=None if found else ("missing", f"no audio file {name!r} in {files.folder}"),
        )


def _information(root: str, part: str) -> dict[str, Any]:
    name = f"{part}_clips_info_FSD50K.json"
    needs = "the titles of the clips, or set caption=none"
    location = first_existing(root, [f"FSD50K.metadata/{name}", f"metadata/{name}"], needs)
    try:
        content = storage.read_json(location)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{location}: not valid JSON ({error})") from error
    if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
        raise DataError(f"{location}: expected one object with title and description for each fname")
    return content


def _caption(information: dict[str, Any], options: Fsd50kOptions) -> tuple[str, ...]:
    title = _EXTENSION.sub("", _plain(information.get("title"))).replace("_", " ").strip()
    if options.caption == "title":
        return (title,) if title else ()
    text = ". ".join(part for part in (title, _plain(information.get("description"))) if part)
    return (text,) if text else ()


def _plain(text: Any) -> str:
    """Text without HTML tags, links and line breaks: Freesound's descriptions hold all three."""
    return " ".join(_LINK.sub(" ", html.unescape(_TAG.sub(" ", str(text or "")))).split())
