"""The final numbers: zero-shot accuracy and retrieval of the teacher and every student, and their differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raysem import storage
from raysem.curation.embeddings import read_embeddings
from raysem.errors import DataError
from raysem.evaluation.caption_retrieval import (
    CaptionRetrievalResult,
    CaptionRetrievalSettings,
    caption_pairs,
    caption_retrieval,
)
from raysem.evaluation.differences import paired_differences
from raysem.evaluation.zero_shot import ZeroShotProtocol, ZeroShotResult, zero_shot
from raysem.models.protocol import AudioTextModel
from raysem.models.teacher import load_teacher
from raysem.reports.seed_intervals import ClipScores
from raysem.runs import teachers
from raysem.runs.curation_recipe import EvaluationSettings
from raysem.runs.roles import clip_shards
from raysem.text.prompts import prompt

CONTROL = "control"
STAGE = "evaluate/scores"


def score(
    folder: storage.Location,
    corpora: Mapping[str, storage.Location],
    models: Mapping[str, storage.Location],
    embeddings: Mapping[str, storage.Location],
    settings: EvaluationSettings,
    seed: int,
) -> dict[str, Any]:
    """Score every model on every set and write `scores.json`, and each set's `correct_<set>.parquet`.

    That table has `clip_id` and a column a model, right or wrong.

    Args:
        corpora: the part's folder of each set; models: the stage folder of each model, teacher first;
            embeddings: the folder of each `<set>/<model>`.
    """
    evaluation: dict[str, Any] = {name: {"zero_shot": {}, "retrieval": {}} for name in models}
    correct: dict[str, dict[str, np.ndarray]] = {}
    clip_ids: dict[str, list[str]] = {}
    for model_name, location in models.items():
        model = load_teacher(teachers.source_of(location), "cpu")
        for set_name, corpus in corpora.items():
            clips = _Clips.read(set_name, corpus, embeddings[f"{set_name}/{model_name}"])
            if clips.labels:
                single = clips.with_one_label()
                result = _zero_shot(clips, single, model, settings, seed)
                evaluation[model_name]["zero_shot"][set_name] = result.to_json()
                correct.setdefault(set_name, {})[model_name] = result.correct_A
                names = [clips.rows[index]["clip_id"] for index in single]
                if clip_ids.setdefault(set_name, names) != names:
                    raise DataError(f"evaluation set {set_name}: {model_name} could use other clips than the teacher")
            if any(row["captions"] for row in clips.rows):
                evaluation[model_name]["retrieval"][set_name] = _retrieval(clips, model, seed).to_json()
    differences = _differences(correct, settings, seed)
    content = {"evaluation": evaluation, "differences": differences}
    storage.write_json(storage.join(folder, "scores.json"), content)
    for set_name, by_model in correct.items():
        columns = {"clip_id": clip_ids[set_name], **{name: pa.array(values) for name, values in by_model.items()}}
        storage.write_table(storage.join(folder, f"correct_{set_name}.parquet"), pa.table(columns))
    return {"headline": _headline(evaluation, differences)}


def read_clip_scores(output: storage.Location, summary: Mapping[str, Any]) -> dict[str, ClipScores]:
    """The scores of the run at `output` clip by clip, by set; empty where the run left none."""
    stage = summary.get("stages", {}).get(STAGE)
    found: dict[str, ClipScores] = {}
    for file in storage.list_files(storage.join(output, STAGE, stage["digest"]), ".parquet") if stage else []:
        table = storage.read_table(file)
        models = [name for name in table.column_names if name != "clip_id"]
        correct = {name: np.asarray(table[name].to_numpy(), np.float64) for name in models}
        found[storage.name_of(file).removeprefix("correct_")] = ClipScores(table["clip_id"].to_pylist(), correct)
    return found


@dataclass(frozen=True)
class _Clips:
    """The usable clips of a set, with a model's embeddings of them; `labels` are those of all its clips."""

    set_name: str
    rows: list[dict[str, Any]]
    audio_AD: np.ndarray
    labels: list[str]

    @classmethod
    def read(cls, set_name: str, corpus: storage.Location, embeddings: storage.Location) -> _Clips:
        columns = ["clip_id", "labels", "captions"]
        table = pa.concat_tables([storage.read_table(file, columns) for file in clip_shards(corpus)])
        rows = {row["clip_id"]: row for row in table.to_pylist()}
        ids, audio_AD = read_embeddings(embeddings)
        labels = sorted({label for row in rows.values() for label in row["labels"] or ()})
        return cls(set_name, [rows[clip_id] for clip_id in ids.to_pylist()], audio_AD, labels)

    def with_one_label(self) -> list[int]:
        """Positions of the clips that zero-shot accuracy is measured on; DataError when there is none."""
        single = [index for index, row in enumerate(self.rows) if len(row["labels"] or ()) == 1]
        if not single:
            raise DataError(f"evaluation set {self.set_name}: no usable clip with exactly one label")
        return single


def _zero_shot(
    clips: _Clips, single: Sequence[int], model: AudioTextModel, settings: EvaluationSettings, seed: int
) -> ZeroShotResult:
    asked = settings.zero_shot
    texts = [prompt(label, asked.prompt.template) for label in clips.labels]
    return zero_shot(
        clips.audio_AD[single],
        [clips.rows[index]["labels"][0] for index in single],
        model.embed_texts(texts),
        clips.labels,
        settings=asked,
        protocol=ZeroShotProtocol(
            prompt_template=asked.prompt.template,
            label_texts=tuple(texts),
            sample_rate=model.sample_rate,
            crop_seconds=model.crop_samples / model.sample_rate,
            crops_per_clip=asked.crops_per_clip,
        ),
        seed=seed,
    )


def _retrieval(clips: _Clips, model: AudioTextModel, seed: int) -> CaptionRetrievalResult:
    described = [index for index, row in enumerate(clips.rows) if row["captions"]]
    pairs = caption_pairs([clips.rows[index]["captions"] for index in described])
    return caption_retrieval(
        clips.audio_AD[described],
        model.embed_texts(list(pairs.texts)),
        pairs,
        settings=CaptionRetrievalSettings(),
        seed=seed,
    )


def _differences(correct: Mapping[str, Mapping[str, np.ndarray]], settings: EvaluationSettings, seed: int) -> list[Any]:
    found = []
    for set_name, by_model in correct.items():
        baselines = [name for name in ("teacher", CONTROL) if name in by_model]
        for difference in paired_differences(
            by_model, baselines, set_name=set_name, seed=seed, num_resamples=settings.zero_shot.num_resamples
        ):
            found.append(difference.to_json())
    return found


def _headline(evaluation: Mapping[str, Any], differences: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line a model and set for the console."""
    lines = []
    against = {(row["student"], row["set"]): row for row in differences if row["baseline"] == "teacher"}
    for model, parts in evaluation.items():
        for set_name, result in parts["zero_shot"].items():
            low, high = result["interval"]
            line = f"{set_name} zero-shot accuracy, {model}: {result['accuracy']:.1%} [{low:.1%}, {high:.1%}]"
            row = against.get((model, set_name))
            if row:
                low, high = row["interval"]
                line += (
                    f", {100 * row['difference']:+.1f} points against the teacher [{100 * low:+.1f}, {100 * high:+.1f}]"
                )
            lines.append(line)
        for set_name, result in parts["retrieval"].items():
            lines.append(f"{set_name} text-to-audio R@10, {model}: {result['text_to_audio']['R@10']:.1%}")
    return lines
