"""TUT Acoustic Scenes 2017: 6300 segments of 10 s, 15 scenes: 4680 development, 1620 evaluation. Mesaros et al., 2016.

Layout, as published: `TUT-acoustic-scenes-2017-development/` with `audio/`, `meta.txt` (audio/b020_90_100.wav, scene,
recording; tabs between) and `evaluation_setup/fold1_evaluate.txt` ... `fold4_evaluate.txt`;
`TUT-acoustic-scenes-2017-evaluation/` with `audio/` and `meta.txt` (audio/1245.wav, scene, ...), or
`evaluation_setup/evaluate.txt` (audio/1245.wav, scene).
Licence: Tampere University of Technology, non-commercial scientific use with attribution.
Folds: 1 to 4 in development (the fold in which a segment is tested), none in evaluation; `split` is development or
evaluation. Zero-shot results are over all 6300. `labels` is the scene as written (`cafe/restaurant`, `forest_path`).
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Literal

from raysem import storage
from raysem.config import Settings
from raysem.corpora.rows import ClipRow
from raysem.corpora.sources import AudioFiles, find_first, first_existing, inside, open_text, require_folder
from raysem.errors import DataError

NEEDS = "TUT-acoustic-scenes-2017-development/ and TUT-acoustic-scenes-2017-evaluation/, as published"
NUM_FOLDS = 4
SCENES = frozenset(
    [
        "beach",
        "bus",
        "cafe/restaurant",
        "car",
        "city_center",
        "forest_path",
        "grocery_store",
        "home",
        "library",
        "metro_station",
        "office",
        "park",
        "residential_area",
        "train",
        "tram",
    ]
)


class Tut2017Options(Settings):
    """Options of TUT Acoustic Scenes 2017."""

    part: tuple[Literal["development", "evaluation"], ...] = ("development", "evaluation")


def read_tut2017(root: str, options: Tut2017Options | None = None) -> Iterator[ClipRow]:
    """The segments of development, then of evaluation."""
    options = options or Tut2017Options()
    location = require_folder(root, NEEDS)
    for part in options.part:
        folder = first_existing(location, [f"TUT-acoustic-scenes-2017-{part}", part], NEEDS)
        table = first_existing(folder, ["meta.txt", "evaluation_setup/evaluate.txt"], NEEDS)
        files = AudioFiles(require_folder(storage.join(folder, "audio"), f"the audio of {part}"))
        folds = _folds(folder) if part == "development" else {}
        lines = list(_lines(table, folder))
        if not lines:
            raise DataError(f"{table}: is empty, expected lines of file and scene with a tab between")
        for name, scene, place in lines:
            yield _clip(part, name, scene, place, files, folds)


def _clip(part: str, name: str, scene: str, place: str, files: AudioFiles, folds: dict[str, int]) -> ClipRow:
    if scene not in SCENES:
        raise DataError(f"{place}: scene {scene!r}, expected one of {', '.join(sorted(SCENES))}")
    if folds and name not in folds:
        raise DataError(f"{place}: {name!r} is in none of the {NUM_FOLDS} files evaluation_setup/fold*_evaluate.txt")
    stem = posixpath.splitext(posixpath.basename(name))[0]
    found = files.find_stem(stem, place)
    return ClipRow(
        clip_id=f"tut2017/{part}/{stem}",
        source="tut2017",
        place=place,
        path=found or storage.join(files.folder, posixpath.basename(name)),
        labels=(scene,),
        fold=folds.get(name),
        split=part,
        problem=None if found else ("missing", f"no audio file {stem!r} in {files.folder}"),
    )


def _folds(folder: str) -> dict[str, int]:
    """The fold in which each file is tested; none of them where the folder evaluation_setup is absent."""
    folds: dict[str, int] = {}
    if find_first(folder, ["evaluation_setup"]) is None:
        return folds
    for fold in range(1, NUM_FOLDS + 1):
        table = first_existing(folder, [f"evaluation_setup/fold{fold}_evaluate.txt"], NEEDS)
        for name, _, place in _lines(table, folder):
            if folds.setdefault(name, fold) != fold:
                raise DataError(f"{place}: {name!r} is tested in fold {folds[name]} and in fold {fold}")
    return folds


def _lines(table: str, folder: str) -> Iterator[tuple[str, str, str]]:
    """File, scene and place of each line; further columns (the recording) are not needed."""
    with open_text(table) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            place = f"{table} line {number}"
            fields = line.rstrip("\r\n").split("\t")
            if len(fields) < 2:
                raise DataError(f"{place}: {len(fields)} field, expected file and scene with a tab between")
            yield inside(folder, fields[0], place), fields[1].strip(), place
