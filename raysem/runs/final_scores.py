"""The final numbers: zero-shot accuracy and retrieval of the teacher and every student, and their differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raysem import storage
from raysem.curation.pair_shards import read_embeddings
from raysem.errors import DataError
from raysem.evaluation.caption_retrieval import CaptionRetrievalSettings, caption_pairs, caption_retrieval
from raysem.evaluation.differences import paired_differences
from raysem.evaluation.zero_shot import ZeroShotProtocol, zero_shot
from raysem.models.teacher import load_teacher
from raysem.runs import teachers
from raysem.runs.curation_recipe import EvaluationSettings
from raysem.runs.roles import clip_shards
from raysem.text.prompts import prompt

CONTROL = "control"


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
        about = teachers.about(location)
        model = load_teacher(teachers.source_of(location), "cpu")
        for set_name, corpus in corpora.items():
            clips = pa.concat_tables(
                [storage.read_table(file, ["clip_id", "labels", "captions"]) for file in clip_shards(corpus)]
            )
            ids, audio_AD = read_embeddings(embeddings[f"{set_name}/{model_name}"])
            rows = {row["clip_id"]: row for row in clips.to_pylist()}
            used = [rows[clip_id] for clip_id in ids.to_pylist()]
            all_labels = sorted({label for row in rows.values() for label in row["labels"] or ()})
            if all_labels:
                single = [index for index, row in enumerate(used) if len(row["labels"] or ()) == 1]
                if not single:
                    raise DataError(f"evaluation set {set_name}: no usable clip with exactly one label")
                texts = [prompt(label, settings.zero_shot.prompt.template) for label in all_labels]
                result = zero_shot(
                    audio_AD[single],
                    [used[index]["labels"][0] for index in single],
                    model.embed_texts(texts),
                    all_labels,
                    settings=settings.zero_shot,
                    protocol=ZeroShotProtocol(
                        prompt_template=settings.zero_shot.prompt.template,
                        label_texts=tuple(texts),
                        sample_rate=about["sample_rate"],
                        crop_seconds=about["crop_samples"] / about["sample_rate"],
                        crops_per_clip=settings.zero_shot.crops_per_clip,
                    ),
                    seed=seed,
                )
                evaluation[model_name]["zero_shot"][set_name] = result.to_json()
                correct.setdefault(set_name, {})[model_name] = result.correct_A
                names = [used[index]["clip_id"] for index in single]
                if clip_ids.setdefault(set_name, names) != names:
                    raise DataError(f"evaluation set {set_name}: {model_name} could use other clips than the teacher")
            described = [index for index, row in enumerate(used) if row["captions"]]
            if described:
                pairs = caption_pairs([used[index]["captions"] for index in described])
                found = caption_retrieval(
                    audio_AD[described],
                    model.embed_texts(list(pairs.texts)),
                    pairs,
                    settings=CaptionRetrievalSettings(),
                    seed=seed,
                )
                evaluation[model_name]["retrieval"][set_name] = found.to_json()
    differences = _differences(correct, settings, seed)
    content = {"evaluation": evaluation, "differences": differences}
    storage.write_json(storage.join(folder, "scores.json"), content)
    for set_name, by_model in correct.items():
        columns = {"clip_id": clip_ids[set_name], **{name: pa.array(values) for name, values in by_model.items()}}
        storage.write_table(storage.join(folder, f"correct_{set_name}.parquet"), pa.table(columns))
    return {"headline": _headline(evaluation, differences)}


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
