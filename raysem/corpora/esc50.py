"""ESC-50: 2000 environmental clips of 5 s, 50 classes x 40, 5 folds. K. J. Piczak, ACM MM 2015.

Layout: `meta/esc50.csv` (filename, fold, target, category, esc10, src_file, take) and `audio/<filename>`. The files may
be in another format than the .wav of the csv (the first release was Ogg).
Licence: CC BY-NC 3.0 as a whole, the ESC-10 subset CC BY 3.0. Cut from Freesound: the second part of a file name is the
Freesound id.
Folds: 1 to 5, made so that pieces of one recording share a fold. Scores are means over the five.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from raysem import storage
from raysem.config import Settings
from raysem.corpora.rows import ClipRow
from raysem.corpora.sources import AudioFiles, first_existing, inside, read_csv, require_folder

NEEDS = "meta/esc50.csv and audio/"
NUM_FOLDS = 5


class Esc50Options(Settings):
    """Options of ESC-50."""

    only_esc10: bool = False
    """Only the 400 clips of the ESC-10 subset."""


def read_esc50(root: str, options: Esc50Options | None = None) -> Iterator[ClipRow]:
    """The clips of ESC-50 in the order of its table; `labels` is the category as written (`dog`, `sea_waves`)."""
    options = options or Esc50Options()
    location = require_folder(root, NEEDS)
    table = first_existing(location, ["meta/esc50.csv", "esc50.csv"], NEEDS)
    folder = storage.join(location, "audio")
    files = AudioFiles(require_folder(folder, "the clips of ESC-50"))
    for record in read_csv(table, ["filename", "fold", "target", "category", "esc10"]):
        name = inside(folder, record.text("filename"), record.place)
        record.whole_number("target", 0, 49)
        found = files.find_stem(posixpath.splitext(posixpath.basename(name))[0], record.place)
        if options.only_esc10 and record.text("esc10").lower() != "true":
            continue
        yield ClipRow(
            clip_id=f"esc50/{posixpath.splitext(name)[0]}",
            source="esc50",
            place=record.place,
            path=found or storage.join(folder, name),
            labels=(record.text("category"),),
            fold=record.whole_number("fold", 1, NUM_FOLDS),
            problem=None if found else ("missing", f"no audio file {name!r} in {folder}"),
        )
