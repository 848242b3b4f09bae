"""The corpora by name, and how one is built: `raysem corpus list`, `raysem corpus build`.

A new corpus is one file with a `read_<name>` and one entry here.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from raysem import storage
from raysem.config import Settings, build, plain
from raysem.corpora import (
    audiocaps,
    audioset,
    built,
    captions,
    clotho,
    esc50,
    folder,
    fsd50k,
    macs,
    parquet,
    synthetic,
    tut2017,
    urbansound8k,
    webdataset,
)
from raysem.corpora.built import HiddenLabels, no_hidden_labels, write_hidden_labels
from raysem.corpora.rows import STAGE, CaptionRow, ClipRow, MissingPolicy, RowCheck, captions_table, rejects_table
from raysem.corpora.shards import write_shards
from raysem.errors import ConfigError, DataError
from raysem.tables import CLIPS

log = logging.getLogger(__name__)

SUMMARY = "corpus.json"
ROWS_PER_SHARD = 2000


@dataclass(frozen=True)
class CorpusInfo:
    """What `raysem corpus list` shows of a corpus, and how to read it."""

    name: str
    title: str
    licence: str
    root: str
    """What must be at the root."""
    options: type[Settings]
    clips: Callable[[str, Any], Iterator[ClipRow]] | None = None
    captions: Callable[[str, Any], Iterator[CaptionRow]] | None = None
    make: Callable[[Any, str], dict[str, Any]] | None = None
    """Makes the corpus from its options below an output folder, for one that is made and not read."""
    sources: Mapping[str, tuple[str, Mapping[str, Any]]] = field(default_factory=dict)
    """The parts of a corpus that is made: by which corpus, with which options, each is read from its folder."""
    hidden: Callable[[str], HiddenLabels] = field(default=lambda root: no_hidden_labels())
    """What is known of the clips at a root and stands in no table: only to measure precision."""
    files: Callable[[str, Any], tuple[list[str], list[str]]] | None = None
    """The few files that a digest of a root must follow, by content and by size; None: every one below the root."""
    missing: MissingPolicy = "error"
    """What becomes of a clip without a file, unless the caller says otherwise."""


CORPORA: dict[str, CorpusInfo] = {
    info.name: info
    for info in (
        CorpusInfo(
            "folder",
            "any folder of audio, with or without a csv",
            "the folder's own",
            folder.NEEDS,
            folder.FolderOptions,
            clips=folder.read_folder,
        ),
        CorpusInfo(
            "captions",
            "captions without audio: tables such as those of AudioCaps, Clotho, WavText5K",
            "the tables' own",
            captions.NEEDS,
            captions.CaptionOptions,
            captions=captions.read_captions,
        ),
        CorpusInfo(
            "esc50",
            "ESC-50: 2000 environmental clips, 50 classes, 5 folds",
            "CC BY-NC 3.0 (the ESC-10 subset CC BY 3.0)",
            esc50.NEEDS,
            esc50.Esc50Options,
            clips=esc50.read_esc50,
        ),
        CorpusInfo(
            "parquet",
            "any Parquet files in Hugging Face's audio layout, packed or not",
            "the data set's own",
            parquet.NEEDS,
            parquet.ParquetOptions,
            clips=parquet.read_parquet,
        ),
        CorpusInfo(
            "webdataset",
            "tar shards: audio with json, txt or cls beside it",
            "the data set's own",
            webdataset.NEEDS,
            webdataset.WebDatasetOptions,
            clips=webdataset.read_webdataset,
        ),
        CorpusInfo(
            "audioset",
            "AudioSet: 10 s segments of YouTube videos, 527 classes",
            "csv and labels CC BY 4.0, ontology CC BY-SA 4.0, videos their owners'",
            audioset.NEEDS,
            audioset.AudioSetOptions,
            clips=audioset.read_audioset,
            missing="reject",
        ),
        CorpusInfo(
            "audiocaps",
            "AudioCaps: human captions of AudioSet segments",
            "captions for academic purposes only, videos their owners'",
            audiocaps.NEEDS,
            audiocaps.AudioCapsOptions,
            clips=audiocaps.read_audiocaps,
            missing="reject",
        ),
        CorpusInfo(
            "clotho",
            "Clotho v2.1: 5929 Freesound clips with 5 captions each",
            "captions non-commercial with attribution, clips Creative Commons",
            clotho.NEEDS,
            clotho.ClothoOptions,
            clips=clotho.read_clotho,
        ),
        CorpusInfo(
            "macs",
            "MACS: 3930 urban clips with 2 to 5 captions each",
            "non-commercial with attribution",
            macs.NEEDS,
            macs.MacsOptions,
            clips=macs.read_macs,
        ),
        CorpusInfo(
            "fsd50k",
            "FSD50K: 51,197 Freesound clips, 200 classes, titles and descriptions",
            "CC BY 4.0, clips Creative Commons",
            fsd50k.NEEDS,
            fsd50k.Fsd50kOptions,
            clips=fsd50k.read_fsd50k,
        ),
        CorpusInfo(
            "urbansound8k",
            "UrbanSound8K: 8732 urban slices, 10 classes, 10 folds",
            "CC BY-NC 3.0",
            urbansound8k.NEEDS,
            urbansound8k.UrbanSound8kOptions,
            clips=urbansound8k.read_urbansound8k,
        ),
        CorpusInfo(
            "tut2017",
            "TUT Acoustic Scenes 2017: 6300 segments, 15 scenes, 4 folds",
            "non-commercial with attribution",
            tut2017.NEEDS,
            tut2017.Tut2017Options,
            clips=tut2017.read_tut2017,
        ),
        CorpusInfo(
            "clips_table",
            "clips that raysem built or packed",
            "those of the corpora inside",
            built.CLIPS_NEED,
            built.ClipsTableOptions,
            clips=built.read_clips_table,
            hidden=built.read_hidden_labels,
            files=built.clips_table_files,
        ),
        CorpusInfo(
            "captions_table",
            "captions that raysem built",
            "those of the corpora inside",
            built.CAPTIONS_NEED,
            built.CaptionsTableOptions,
            captions=built.read_captions_table,
            hidden=built.read_hidden_labels,
            files=built.captions_table_files,
        ),
        CorpusInfo(
            "synthetic",
            "the embedded default: sounds made by arithmetic, 35 classes, in four parts with captions",
            "none is needed",
            "nothing; it is made below the output, and clips_table reads its parts",
            synthetic.SyntheticSettings,
            make=synthetic.build_synthetic,
            sources=synthetic.SOURCES,
        ),
    )
}


def list_corpora() -> list[CorpusInfo]:
    """Every corpus that can be built, by name."""
    return [CORPORA[name] for name in sorted(CORPORA)]


def find_corpus(name: str) -> CorpusInfo:
    """The corpus of this name; ConfigError with the names that exist."""
    if name not in CORPORA:
        raise ConfigError(f"no corpus {name!r}; there are {', '.join(sorted(CORPORA))}")
    return CORPORA[name]


def corpus_options(name: str, options: Mapping[str, Any] | Settings | None = None) -> Settings:
    """The validated options of a corpus; ConfigError names a key that it does not have."""
    info = find_corpus(name)
    if isinstance(options, info.options):
        return options
    content = plain(options) if isinstance(options, Settings) else dict(options or {})
    return build(info.options, content, f"corpus {name}")


def open_corpus(
    name: str, root: str, options: Mapping[str, Any] | Settings | None = None, *, missing: MissingPolicy | None = None
) -> tuple[Iterator[pa.Table], RowCheck]:
    """The clips of a corpus as a stream of tables, and the check that holds rejects and captions once it is read."""
    info, settings = find_corpus(name), corpus_options(name, options)
    if info.make is not None:
        raise ConfigError(f"corpus {name!r} is made, not read; `raysem corpus build {name}` makes it")
    if info.clips is None:
        raise ConfigError(f"corpus {name!r} has no audio, only captions")
    check = RowCheck(missing=missing or info.missing)
    return check.tables(info.clips(root, settings)), check


def read_corpus(
    name: str, root: str, options: Mapping[str, Any] | Settings | None = None, *, missing: MissingPolicy | None = None
) -> tuple[pa.Table, pa.Table, pa.Table]:
    """A small corpus in memory: the tables clips (in the reader's order), captions and rejects."""
    info = find_corpus(name)
    empty = CLIPS.empty_table()
    if info.captions is not None:
        return empty, _captions(info, root, corpus_options(name, options)), rejects_table([], STAGE)
    tables, check = open_corpus(name, root, options, missing=missing)
    clips = pa.concat_tables([empty, *tables])
    require_clips(check, name, root)
    return clips, captions_table(check.captions.values()), rejects_table(check.rejects, STAGE)


def build_corpus(
    name: str,
    root: str,
    output: str,
    options: Mapping[str, Any] | Settings | None = None,
    *,
    missing: MissingPolicy | None = None,
    rows_per_shard: int | None = None,
    max_shard_mib: float = 512,
) -> dict[str, Any]:
    """Read a corpus, check every row, and write its tables below `output`; or make it there, where it is made.

    `clips/shard_*.parquet` with `clips/manifest.json` (corpora with audio), `captions.parquet`, `rejects.parquet`,
    hidden labels where the corpus has such, and `corpus.json` with the summary that is returned, written last.

    Args:
        root: where the corpus is; empty for one that is made.
        options: the corpus's own options, as its class of settings or as a mapping.
        missing: what becomes of a clip without a file: "error" stops, "reject" puts it into rejects, "keep" leaves it
            in the clips table for the embedding stage to find. None: as the corpus says.
        rows_per_shard: None: 2000, or what the options of a corpus that is made say.

    Raises:
        DataError: the root or a row is wrong; one line with file and row.
    """
    info, settings = find_corpus(name), corpus_options(name, options)
    target = storage.absolute(output)
    if info.make is not None:
        if root or missing or rows_per_shard:
            raise ConfigError(f"corpus {name!r} is made from its options alone, without root, missing, rows_per_shard")
        return info.make(settings, target)
    if not root:
        raise ConfigError(f"corpus {name!r}: needs a root; there must be {info.root}")
    started = time.monotonic()
    storage.delete(storage.join(target, SUMMARY))
    if info.captions is not None:
        texts, counts = _captions(info, root, settings), _Counts()
    else:
        texts, counts = _write_clips(info, root, target, settings, missing, rows_per_shard, max_shard_mib)
    storage.write_table(storage.join(target, built.CAPTIONS_FILE), texts)
    write_hidden_labels(target, info.hidden(root))
    summary = {
        "corpus": name,
        "root": storage.absolute(root),
        "output": target,
        "options": plain(settings),
        "licence": info.licence,
        "clips": counts.clips,
        "shards": counts.shards,
        "captions": len(texts),
        "rejects": counts.rejects,
        "seconds": round(time.monotonic() - started, 3),
    }
    storage.write_json(storage.join(target, SUMMARY), summary)
    log.info("corpus %s: %d clips in %d shards, %d captions", name, counts.clips, counts.shards, len(texts))
    return summary


@dataclass(frozen=True)
class _Counts:
    """What was written of a corpus with audio."""

    clips: int = 0
    shards: int = 0
    rejects: dict[str, int] = field(default_factory=dict)


def _write_clips(
    info: CorpusInfo,
    root: str,
    target: str,
    settings: Settings,
    missing: MissingPolicy | None,
    rows_per_shard: int | None,
    max_shard_mib: float,
) -> tuple[pa.Table, _Counts]:
    """Write the clips and the rejects of a corpus; returns its captions."""
    tables, check = open_corpus(info.name, root, settings, missing=missing)
    folder = storage.join(target, "clips")
    rows = ROWS_PER_SHARD if rows_per_shard is None else rows_per_shard
    manifest = write_shards(tables, folder, rows_per_shard=rows, max_shard_mib=max_shard_mib)
    if not check.num_clips:
        storage.delete(folder)
    require_clips(check, info.name, root)
    storage.write_table(storage.join(target, "rejects.parquet"), rejects_table(check.rejects, STAGE))
    outcomes = Counter(outcome for _, outcome, _ in check.rejects)
    return (
        captions_table(check.captions.values()),
        _Counts(manifest.rows, len(manifest.shards), dict(sorted(outcomes.items()))),
    )


def _captions(info: CorpusInfo, root: str, settings: Settings) -> pa.Table:
    assert info.captions is not None
    texts = captions_table(info.captions(root, settings))
    if not len(texts):
        raise DataError(f"{storage.absolute(root)}: no caption in the tables of {info.name!r}")
    return texts


def require_clips(check: RowCheck, name: str, root: str) -> None:
    """DataError, with the first reject, unless a clip came through."""
    if check.num_clips:
        return
    reason = f"; the first of {len(check.rejects)} rejects: {check.rejects[0][2]}" if check.rejects else ""
    needs = find_corpus(name).root
    raise DataError(f"{storage.absolute(root)}: no clip of {name!r} can be used{reason}; there must be {needs}")
