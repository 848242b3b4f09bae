"""MACS: captions and tags of 3930 clips of 10 s from TAU Urban Acoustic Scenes 2019. Martin-Morato and Mesaros, 2021.

Layout: `MACS.yaml` (files: filename, annotations: annotator_id, sentence, tags) and the TAU 2019 development audio in
`audio/` or `TAU-urban-acoustic-scenes-2019-development/audio/`.
Licence: annotations Tampere University, non-commercial with attribution; the audio likewise.
No folds, no splits. 17,275 captions, 2 to 5 a clip; three scenes: airport, park, public square. A file name begins with
its scene (`airport-barcelona-0-0-a.wav`), which is the label here; the annotators' tags are left out.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Any

import yaml

from raysem import storage
from raysem.config import Settings
from raysem.corpora.rows import ClipRow
from raysem.corpora.sources import AudioFiles, first_existing, inside, open_text, require_folder
from raysem.errors import DataError

NEEDS = "MACS.yaml and audio/ (the development audio of TAU Urban Acoustic Scenes 2019)"
MAX_CHARACTERS = 2**24
"""Of MACS.yaml: its parser takes a hundred times the memory of the text, which may be a small gzip."""
AUDIO_FOLDERS = ("audio", "TAU-urban-acoustic-scenes-2019-development/audio")


class MacsOptions(Settings):
    """Options of MACS: none."""


def read_macs(root: str, options: MacsOptions | None = None) -> Iterator[ClipRow]:
    """The clips in the order of MACS.yaml, each with the sentence of every annotator."""
    location = require_folder(root, NEEDS)
    table = first_existing(location, ["MACS.yaml", "MACS.yml"], NEEDS)
    files = AudioFiles(first_existing(location, AUDIO_FOLDERS, NEEDS))
    for number, entry in enumerate(_entries(table), start=1):
        place = f"{table} file {number}"
        name, captions = _captions(entry, place)
        path = inside(files.folder, name, place)
        stem = posixpath.splitext(posixpath.basename(path))[0]
        found = files.find_stem(stem, place)
        yield ClipRow(
            clip_id=f"macs/{stem}",
            source="macs",
            place=place,
            path=found or storage.join(files.folder, path),
            captions=tuple(dict.fromkeys(captions)),
            labels=(stem.split("-")[0],),
            problem=None if found else ("missing", f"no audio file {path!r} in {files.folder}"),
        )


def _entries(table: str) -> list[Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one reads 17,275 sentences in seconds
    try:
        with open_text(table) as lines:
            text = lines.read(MAX_CHARACTERS + 1)
        if len(text) > MAX_CHARACTERS:
            raise DataError(f"{table}: more than {MAX_CHARACTERS} characters; refused")
        content = yaml.load(text, Loader=loader)  # a safe loader
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none
        raise DataError(f"{table}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict) or not isinstance(content.get("files"), list):
        raise DataError(f"{table}: expected a key 'files' with a list of clips")
    return content["files"]


def _captions(entry: Any, place: str) -> tuple[str, list[str]]:
    try:
        name = _plain_text(entry["filename"])
        sentences = [_plain_text(annotation["sentence"] or "").strip() for annotation in entry["annotations"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{place}: expected filename and annotations with a sentence each ({error})") from error
    return name, [sentence for sentence in sentences if sentence]


def _plain_text(value: Any) -> str:
    """A scalar as text; a list may stand for gigabytes by anchors."""
    if isinstance(value, dict | list | set | tuple):
        raise TypeError(f"a {type(value).__name__} where a text should be")
    return str(value)
