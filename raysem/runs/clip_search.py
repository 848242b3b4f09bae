"""Search over a run's clips by a text or a sound: its teacher embeds the query, its embeddings are read as a stream."""

# Shapes: Q queries (one), N clips of a shard, D embedding width.

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysem import storage
from raysem.audio.crops import even_crops
from raysem.audio.load import AudioSettings, load_clip
from raysem.curation.embeddings import embedding_matrix
from raysem.curation.neighbours import exact_neighbours
from raysem.errors import ClipError, DataError, UserError
from raysem.ledger import Ledger
from raysem.models.protocol import AudioTextModel
from raysem.models.teacher import TeacherSource, load_teacher
from raysem.remote import is_remote
from raysem.runs.found_model import planned_stages
from raysem.runs.roles import caption_shards, clip_shards
from raysem.stages import DONE

log = logging.getLogger(__name__)

EMBED_STAGE = "embed/wild"
AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".aiff", ".mp4", ".webm", ".wma")


@dataclass(frozen=True)
class _Finished:
    """A finished stage of the run: its folder and its done-record."""

    folder: storage.Location
    record: Mapping[str, Any]


def search(output: storage.Location, query: str, k: int) -> list[dict[str, Any]]:
    """The `k` clips of the run at `output` that are nearest to a text or to an audio file, most similar first.

    Stages after the embeddings need not be finished. Each clip comes as `similarity`, `clip_id`, `path` and segment
    (None where the clips table has none), and with its nearest `caption` of the run's pool once the run knows that.

    Raises:
        UserError: no run, no finished embeddings, or a query that cannot be embedded.
    """
    if k < 1:
        raise UserError(f"-k {k}: at least one clip")
    embedded = _newest_embeddings(output)
    model = _load_model(output, embedded)
    query_QD = _embed_query(model, query, embedded.record["settings"])
    rows = _nearest(embedded.folder, query_QD, k)
    _add_places(rows, storage.join(output, "corpora/wild", embedded.record["inputs"]["corpora/wild"]))
    _add_captions(rows, output, storage.name_of(embedded.folder))
    return [{name: value for name, value in row.items() if name != "shard"} for row in rows]


def _newest_embeddings(output: storage.Location) -> _Finished:
    """The embeddings of the run's present recipe if they are finished, else the newest of an earlier one."""
    planned = planned_stages(output)
    finished = _finished(output, EMBED_STAGE)
    for stage in finished:
        if storage.name_of(stage.folder) == planned.get(EMBED_STAGE):
            return stage
    if finished:
        newest = max(finished, key=lambda stage: stage.record["finished"])
        log.info("the clips of the present recipe are not embedded yet; searching %s", newest.folder)
        return newest
    raise UserError(f"{output}: no finished embeddings to search; run the job up to them first (--until {EMBED_STAGE})")


def _finished(output: storage.Location, name: str) -> list[_Finished]:
    found = []
    for folder in storage.list_folders(storage.join(output, name)):
        try:
            found.append(_Finished(folder, storage.read_json(storage.join(folder, DONE))))
        except (FileNotFoundError, ValueError):
            continue
    return found


def _load_model(output: storage.Location, embedded: _Finished) -> AudioTextModel:
    """The model that embedded the clips, on the CPU; weights that lie in the run are found though the run was moved."""
    folder = storage.join(output, "teacher", embedded.record["inputs"]["teacher"])
    try:
        about = storage.read_json(storage.join(folder, "model.json"))
    except FileNotFoundError:
        raise UserError(f"{folder}: no model.json there; the run's teacher is gone") from None
    source = TeacherSource(**about["source"])
    inside = storage.join(folder, "model")
    if source.kind == "raysem" and storage.exists(storage.join(inside, "config.json")):
        source = source.model_copy(update={"location": inside})
    model = load_teacher(source, "cpu")
    if model.fingerprint() != about["fingerprint"]:
        raise UserError(
            f"{source.location}: these weights have fingerprint {model.fingerprint()[:16]}, the clips were embedded "
            f"with {about['fingerprint'][:16]}; embed them again"
        )
    return model


def _embed_query(model: AudioTextModel, query: str, settings: Mapping[str, Any]) -> np.ndarray:
    """(1, D): a sound as the clips were embedded, anything else as a text."""
    if _is_audio(query):
        audio = AudioSettings(**{**settings["audio"], "sample_rate": model.sample_rate})
        try:
            samples_T = load_clip(None, query, settings=audio)
        except ClipError as error:
            raise UserError(f"{query}: cannot be searched for ({error})") from None
        crops_BT = even_crops(samples_T, model.crop_samples, settings["embed"]["num_crops"])
        mean_D = model.embed_waveforms(crops_BT).mean(axis=0)
        return (mean_D / np.linalg.norm(mean_D))[None]
    if not query.strip():
        raise UserError("the query is empty; give a text or an audio file")
    return model.embed_texts([query])


def _is_audio(query: str) -> bool:
    """Whether the query is a file. A name that only looks like one is a mistake, not a text."""
    if is_remote(query) or os.path.isfile(query):
        return True
    if query.lower().endswith(AUDIO_SUFFIXES):
        raise UserError(f"{query}: no such file")
    return False


def _nearest(embeddings: storage.Location, query_QD: np.ndarray, k: int) -> list[dict[str, Any]]:
    files, lengths = Ledger(embeddings).files(), list[int]()

    def chunks() -> Iterator[np.ndarray]:
        for file in files:
            table = storage.read_table(file, ["embedding"])
            lengths.append(len(table))
            if len(table):
                yield embedding_matrix(table)

    try:
        table = exact_neighbours(query_QD, chunks(), k)
    except ValueError as error:
        raise DataError(f"{embeddings}: {error}") from error
    starts = np.array([0, *itertools.accumulate(lengths)])
    names: dict[int, list[str]] = {}
    rows = []
    for index, similarity in zip(table.index_QK[0].tolist(), table.similarity_QK[0].tolist(), strict=True):
        shard = int(np.searchsorted(starts, index, side="right")) - 1
        if shard not in names:
            names[shard] = storage.read_table(files[shard], ["clip_id"])["clip_id"].to_pylist()
        clip_id = names[shard][index - int(starts[shard])]
        rows.append({"similarity": similarity, "clip_id": clip_id, "shard": storage.name_of(files[shard])})
    return rows


def _add_places(rows: list[dict[str, Any]], corpus: storage.Location) -> None:
    """Each row's path and segment; the bytes that packed clips carry are not read."""
    for row in rows:
        row |= {"path": None, "start_seconds": None, "duration_seconds": None}
    files = {storage.name_of(file): file for file in clip_shards(corpus)}
    for shard, wanted in _by_shard(rows).items():
        with storage.open_parquet(files[shard]) as file:
            table = file.read(columns=["clip_id", "audio.path", "start_seconds", "duration_seconds"])
        for found in _rows_of(table, wanted):
            place = {"path": (found["audio"] or {}).get("path")}
            place |= {name: found[name] for name in ("start_seconds", "duration_seconds")}
            wanted[found["clip_id"]].update(place)


def _add_captions(rows: list[dict[str, Any]], output: storage.Location, embeddings: str) -> None:
    """Each row's nearest caption, from the neighbour tables of these embeddings if they are there."""
    for row in rows:
        row |= {"caption": None, "caption_similarity": None}
    tables = [stage for stage in _finished(output, "neighbours") if stage.record["inputs"][EMBED_STAGE] == embeddings]
    if not tables:
        return
    newest = max(tables, key=lambda stage: stage.record["finished"])
    caption_of: dict[str, str] = {}
    for shard, wanted in _by_shard(rows).items():
        table = storage.read_table(Ledger(newest.folder).file_of(f"clips_{shard}", "clips"))
        for found in _rows_of(table, wanted):
            if found["caption_ids"]:
                caption_of[found["clip_id"]] = found["caption_ids"][0]
                wanted[found["clip_id"]]["caption_similarity"] = found["similarities"][0]
    texts = _texts(output, newest.record["inputs"]["embed/captions"], set(caption_of.values()))
    for row in rows:
        row["caption"] = texts.get(caption_of.get(row["clip_id"], ""))


def _texts(output: storage.Location, embedded_captions: str, wanted: set[str]) -> dict[str, str]:
    record = storage.read_json(storage.join(output, "embed/captions", embedded_captions, DONE))
    texts: dict[str, str] = {}
    for file in caption_shards(storage.join(output, "captions", record["inputs"]["captions"])):
        table = storage.read_table(file, ["caption_id", "text"])
        texts |= {row["caption_id"]: row["text"] for row in _rows_of(table, wanted)}
    return texts


def _by_shard(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """shard -> clip_id -> row."""
    grouped: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(row["shard"], {})[row["clip_id"]] = row
    return grouped


def _rows_of(table: pa.Table, ids: Mapping[str, Any] | set[str]) -> list[dict[str, Any]]:
    """The rows whose first column is one of `ids`."""
    return table.filter(pc.is_in(table.column(0), value_set=pa.array(sorted(ids), pa.string()))).to_pylist()
