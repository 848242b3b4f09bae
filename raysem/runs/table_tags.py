"""A tagger's tags for every clip of a clips table, on Ray: each shard is scored once, then ranked into tags.

The output holds, a file for each shard of the table: `tags/` (clip_id, tags), `rejects/` (REJECTS), `shards/` (the
probabilities of all classes, in the column `embedding`) and `done/`; and `job.json`, which says what they are of.
"""

# Shapes: N clips, K classes.

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raysem import storage
from raysem.audio.load import AudioSettings
from raysem.config import plain
from raysem.curation.embeddings import embedding_matrix
from raysem.curation.ray_stages import EmbedJob, EmbedSettings, embed_clips
from raysem.errors import DataError, StorageError, UserError
from raysem.ledger import DoneRecord, Ledger
from raysem.locks import run_lock
from raysem.models.tag_scorer import TaggerSource
from raysem.models.tagger_checkpoint import load_tagger
from raysem.remote import NOTHING_THERE
from raysem.runs.clip_tags import TagSettings, best_classes
from raysem.runs.cluster import ClusterSettings
from raysem.runs.given_table import open_table
from raysem.runs.launch import connect_ray, own_error
from raysem.tables import KEPT

log = logging.getLogger(__name__)

JOB = "job.json"
TAGS = pa.schema(
    [
        ("clip_id", pa.string()),
        ("tags", pa.list_(pa.struct([("name", pa.string()), ("score", pa.float32())]))),
    ]
)
"""What `raysem listen build` reads, best tag first."""


@dataclass(frozen=True)
class TableTags:
    """What came of a table: every clip is tagged or has its reject."""

    output: storage.Location
    num_shards: int
    num_finished_before: int
    outcomes: Mapping[str, int]

    @property
    def num_tagged(self) -> int:
        """Clips with tags."""
        return self.outcomes.get(KEPT, 0)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "clips": sum(self.outcomes.values()),
            "tagged": self.num_tagged,
            "outcomes": dict(self.outcomes),
            "shards": self.num_shards,
            "shards_finished_before": self.num_finished_before,
            "tags": storage.join(self.output, "tags"),
            "rejects": storage.join(self.output, "rejects"),
        }


def tag_table(
    tagger: storage.Location,
    clips: storage.Location,
    output: storage.Location,
    *,
    settings: TagSettings,
    cluster: ClusterSettings,
    max_failed_share: float | None = None,
) -> TableTags:
    """Tag every clip of the table at `clips` with the tagger of a checkpoint folder, below `output`.

    The same call goes on from the shards that are finished, and starts Ray only if one is not. Another number of tags
    or threshold ranks anew what is scored; for another model, table or number of crops `output` is refused.

    Raises:
        UserError: a location is not what it should be, or `output` is of something else or in use.
        StageError: more than `max_failed_share` of the clips cannot be used, or shards stay unfinished.
    """
    output = storage.absolute(output)
    cluster.storage.enter()
    model = load_tagger(tagger)  # here, so that a damaged model is found before there is a cluster
    table = open_table(clips)
    audio = AudioSettings(sample_rate=model.sample_rate)
    about = {
        "model": {"location": tagger, "fingerprint": model.fingerprint()},
        "clips": {"location": storage.absolute(clips), "digest": table.digest},
        "num_crops": settings.num_crops,
        "audio": plain(audio),
    }
    with run_lock(output):
        _claim(output, about)
        finished = Ledger(output).records(verify=True).keys() & {storage.name_of(shard) for shard in table.shards}
        if len(finished) < len(table.shards):
            connect_ray(cluster)
        limit = {} if max_failed_share is None else {"max_failed_share": max_failed_share}
        job = EmbedJob(
            model=TaggerSource(location=tagger),
            output=output,
            workers=cluster.embedding,
            audio=audio,
            crop_samples=model.crop_samples,
            embed=EmbedSettings(num_crops=settings.num_crops, **limit),
            stage="tag",
            metadata={"model": model.fingerprint(), "classes": json.dumps(model.class_names, ensure_ascii=False)},
        )
        counts = _scored(table.shards, job)
        records = Ledger(output).records()
        for shard in table.shards:
            _write_tags(Ledger(output), records[storage.name_of(shard)], model.class_names, settings)
    return TableTags(output, len(table.shards), len(finished), counts["outcomes"])


def describe(found: TableTags) -> str:
    """The counts and the places as lines for a person."""
    about = found.to_json()
    lines = [f"{about['clips']} clips: {about['tagged']} tagged"]
    lost = ", ".join(f"{count} {outcome}" for outcome, count in found.outcomes.items() if outcome != KEPT)
    if lost:
        lines[0] += f", {lost}"
    if found.num_finished_before:
        lines.append(f"{found.num_finished_before} of {found.num_shards} shards were scored before")
    return "\n".join([*lines, f"tags:    {about['tags']}", f"rejects: {about['rejects']}"])


def _claim(output: storage.Location, about: Mapping[str, Any]) -> None:
    """Note what `output` is of. Locations do not count: a model or a table may have been moved.

    Raises:
        UserError: it is of something else.
    """
    location = storage.join(output, JOB)
    try:
        before = storage.read_json(location)
        same = {
            "model": before["model"]["fingerprint"] == about["model"]["fingerprint"],
            "clips table": before["clips"]["digest"] == about["clips"]["digest"],
            "number of crops": before["num_crops"] == about["num_crops"],
            "way of loading clips": before["audio"] == about["audio"],
        }
    except NOTHING_THERE:
        if Ledger(output).records():
            raise UserError(
                f"{output}: holds finished shards, and no {JOB} says of what; give another output"
            ) from None
        storage.write_json(location, about)
        return
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{location}: not readable; give another output, or remove this one") from None
    other = [what for what, is_same in same.items() if not is_same]
    if other:
        raise UserError(f"{output}: its tags are of another {' and '.join(other)}; give another output, or remove it")


def _scored(shards: Sequence[storage.Location], job: EmbedJob) -> dict[str, Any]:
    """`embed_clips`, with our own error in place of Ray's around it."""
    try:
        return embed_clips(shards, job)
    except Exception as error:  # Ray wraps whatever its tasks and actors raise
        found = own_error(error)
        if found is None or found is error:
            raise
        raise found from error


def _write_tags(ledger: Ledger, record: DoneRecord, names: Sequence[str], settings: TagSettings) -> None:
    """The tags of one shard, unless they are there; the file says of which scores it is, and how they were ranked."""
    scores, location = ledger.file_of(record.shard), ledger.file_of(record.shard, "tags")
    ranking = {"num_tags": str(settings.num_tags), "threshold": repr(settings.threshold)}
    metadata = {"scores_sha256": record.digests["shards"], **ranking}
    if _metadata_of(location) == metadata:
        return
    table = storage.read_table(scores)
    tags: list[list[dict[str, Any]]] = []
    if len(table):  # a shard without a usable clip has no width
        scores_NK = embedding_matrix(table)
        best = best_classes(scores_NK, settings, where=scores)
        tags = [
            [{"name": names[place], "score": float(scores_K[place])} for place in places]
            for scores_K, places in zip(scores_NK, best, strict=True)
        ]
    columns = [table.column("clip_id").combine_chunks(), pa.array(tags, TAGS.field("tags").type)]
    storage.write_table(location, pa.table(columns, schema=TAGS.with_metadata(metadata)))


def _metadata_of(location: storage.Location) -> dict[str, str]:
    """Of a file of tags; none where there is no whole one."""
    try:
        with storage.open_parquet(location) as file:
            found = file.schema_arrow.metadata or {}
    except StorageError:
        raise
    except DataError:
        return {}
    return {key.decode(): value.decode() for key, value in found.items()}
