"""UrbanSound8K: 8732 slices of up to 4 s, 10 urban classes, 10 folds. Salamon, Jacoby, Bello, ACM MM 2014.

Layout: `metadata/UrbanSound8K.csv` (slice_file_name, fsID, start, end, salience, fold, classID, class) and
`audio/fold1` ... `audio/fold10/<slice_file_name>`.
Licence: CC BY-NC 3.0. Cut from Freesound: fsID is the Freesound id; 94 of these recordings are also in ESC-50.
Folds: 1 to 10, as published; made so that slices of one recording share a fold, so never reshuffle.
`start` and `end` say where a slice was in its recording, not where it is in its file, and advance by 0.5 s a slice
where the real slices advance by 2 s: they are not used.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from raysem import storage
from raysem.config import Settings
from raysem.corpora.rows import ClipRow
from raysem.corpora.sources import AudioFiles, first_existing, inside, read_csv, require_folder
from raysem.errors import DataError

NEEDS = "metadata/UrbanSound8K.csv and audio/fold1 ... fold10"
NUM_FOLDS = 10
CLASSES = (
    "air_conditioner",
    "car_horn",
    "children_playing",
    "dog_bark",
    "drilling",
    "engine_idling",
    "gun_shot",
    "jackhammer",
    "siren",
    "street_music",
)


class UrbanSound8kOptions(Settings):
    """Options of UrbanSound8K: none."""


def read_urbansound8k(root: str, options: UrbanSound8kOptions | None = None) -> Iterator[ClipRow]:
    """The slices in the order of the csv; `labels` is the class as written (`dog_bark`)."""
    location = require_folder(root, NEEDS)
    table = first_existing(location, ["metadata/UrbanSound8K.csv", "UrbanSound8K.csv"], NEEDS)
    folder = storage.join(location, "audio")
    files = AudioFiles(require_folder(folder, "fold1 ... fold10 of UrbanSound8K"))
    for record in read_csv(table, ["slice_file_name", "fsID", "fold", "classID", "class"]):
        name = inside(folder, record.text("slice_file_name"), record.place)
        fold = record.whole_number("fold", 1, NUM_FOLDS)
        label = record.text("class")
        if CLASSES[record.whole_number("classID", 0, len(CLASSES) - 1)] != label:
            raise DataError(f"{record.place}: class is {label!r}, classID {record.values['classID']} is not its number")
        found = files.find(f"fold{fold}/{name}", record.place)
        yield ClipRow(
            clip_id=f"urbansound8k/{posixpath.splitext(name)[0]}",
            source="urbansound8k",
            place=record.place,
            path=found or storage.join(folder, f"fold{fold}", name),
            labels=(label,),
            fold=fold,
            problem=None if found else ("missing", f"no audio file {name!r} in {folder}/fold{fold}"),
        )
