"""The end of a cross-validation: `summary.json` with every final number, and the report page made from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import raysem
from raysem import config, storage
from raysem.evaluation.confused_clips import ConfusedPair, confused_clips
from raysem.reports.classification_content import ClassificationReport, HeardMistake, HeardPair
from raysem.reports.classification_page import write_classification_report
from raysem.reports.content import StageLine
from raysem.runs import classification_scores, fold_labels
from raysem.runs.classification_folds import part_name, scores_name
from raysem.runs.classification_recipe import ClassificationRecipe, ClassifierTrainingSettings
from raysem.runs.clip_outcomes import outcome_lines, read_counts
from raysem.runs.model_record import without_history
from raysem.runs.played_clips import LISTENING_RATE, waveforms_of
from raysem.runs.published import curves, facts_of
from raysem.stages import Stage, done_record

Folders = Mapping[str, storage.Location]


def write(
    recipe: ClassificationRecipe, output: storage.Location, stages: Sequence[Stage], folder: storage.Location
) -> dict[str, Any]:
    """Write `summary.json` and `index.html` below `folder` from the finished `stages`; returns the headline."""
    folders = {stage.name: stage.folder(output) for stage in stages}
    records = {stage.name: done_record(stage, output) or {} for stage in stages}
    scores = storage.read_json(storage.join(folders[classification_scores.STAGE], "scores.json"))
    settings, tested = recipe.classifiers(), recipe.folds.tested
    models = {name: {fold: records[f"classifier/{name}/fold{fold}"]["summary"] for fold in tested} for name in settings}
    summary = {
        **facts_of(recipe, recipe.seed, records),
        "counts": _counts(recipe, folders, records),
        "labels": list(fold_labels.read(folders[fold_labels.STAGE])),
        "models": {
            name: {str(fold): without_history(model) for fold, model in by_fold.items()}
            for name, by_fold in models.items()
        },
        **scores,
    }
    storage.write_json(storage.join(folder, "summary.json"), summary)
    content = ClassificationReport(
        title=recipe.report.title,
        subtitle=f"raysem {raysem.__version__}, recipe {summary['recipe_digest']}, seed {recipe.seed}",
        corpus=", ".join(dict.fromkeys(source.corpus for source in recipe.corpora.clips)),
        evaluation=scores["evaluation"],
        differences=scores["differences"],
        baselines=[recipe.baseline],
        listening=_listening(recipe, folders),
        curves={
            name: {
                fold: found
                for fold in tested
                if (found := curves({"": folders[f"classifier/{name}/fold{fold}"]}).get("", []))
            }
            for name in settings
        },
        models={name: _facts_of(settings[name], by_fold) for name, by_fold in models.items()},
        outcomes={
            f"fold {fold}": outcome_lines(folders, _parts(recipe, fold), summary["counts"][f"fold{fold}"])
            for fold in recipe.folds.numbers
            if summary["counts"][f"fold{fold}"]["outcomes"]
        },
        stages=[
            StageLine(name, stage["seconds"], "resumed" if stage["attempts"] > 1 else "ran")
            for name, stage in summary["stages"].items()
        ],
        facts=_facts(summary),
        notes=_notes(recipe),
        recipe_yaml=config.to_yaml(recipe),
    )
    write_classification_report(content, storage.join(folder, "index.html"))
    return {"headline": records[classification_scores.STAGE]["summary"]["headline"]}


def _parts(recipe: ClassificationRecipe, fold: int) -> list[str]:
    apart = [part_name(fold, held_out=True)] if recipe.folds.held_out_share else []
    return [part_name(fold), *apart]


def _counts(recipe: ClassificationRecipe, folders: Folders, records: Mapping[str, Any]) -> dict[str, Any]:
    """Where the clips of every fold went; those of a tested fold add up to `clips`."""
    read = read_counts(folders, records)
    first = next(iter(recipe.classifiers()))
    counts: dict[str, Any] = {}
    for fold in recipe.folds.numbers:
        parts = [read[name] for name in _parts(recipe, fold)]
        outcomes = sum((Counter(part["outcomes"]) for part in parts), start=Counter[str]())
        count: dict[str, Any] = {"clips": sum(part["clips"] for part in parts)}
        if fold in recipe.folds.tested:
            count["scored_by"] = [scores_name(first, part) for part in _parts(recipe, fold)]
            for stage in count["scored_by"]:
                outcomes += Counter(records[stage]["summary"]["outcomes"])
        counts[f"fold{fold}"] = count | {"outcomes": dict(outcomes)}
    return counts


def _facts_of(settings: ClassifierTrainingSettings, by_fold: Mapping[int, Mapping[str, Any]]) -> dict[str, str]:
    """The same for every fold but for the weights, of which each fold has its own."""
    model = next(iter(by_fold.values()))
    own = model["parameters"] - model["text_parameters"]
    steps = sorted({found["training"]["steps"] for found in by_fold.values()})
    best = [found["training"]["best_step"] for found in by_fold.values()]
    facts = {
        "encoder": f"{model['encoder']}, {own / 1e6:.2f} M parameters with its head",
        "similarity": model["similarity"] or "none: a linear layer, no text",
    }
    if settings.model.similarity is not None:
        facts |= {
            "text encoder": f"{settings.model.text.name}, {'trained' if settings.model.text.trained else 'frozen'}, "
            f"{model['text_parameters'] / 1e6:.1f} M parameters",
            "prompts": "; ".join(settings.model.prompts.templates),
            "loss": settings.objective.form,
        }
    return facts | {
        "optimizer": f"{settings.training.optimizer}, {settings.training.learning_rate:g}",
        "steps": " to ".join(str(number) for number in dict.fromkeys((steps[0], steps[-1]))),
        "kept": "best by accuracy on held-out clips, at " + ", ".join(map(str, best)) if all(best) else "the last step",
        "clips drawn": f"{sum(found['training']['clips_loaded'] for found in by_fold.values()):,}, and "
        f"{sum(found['training']['clips_unusable'] for found in by_fold.values()):,} unusable ones replaced",
        "weights": ", ".join(found["fingerprint"][:8] for found in by_fold.values()),
    }


def _facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [
        ("recipe", summary["recipe_digest"]),
        ("seed", str(summary["seed"])),
        ("labels", str(len(summary["labels"]))),
    ]
    facts += [(name, f"{count['clips']:,} clips") for name, count in summary["counts"].items()]
    return [*facts, ("versions", ", ".join(f"{name} {number}" for name, number in summary["versions"].items()))]


def _listening(recipe: ClassificationRecipe, folders: Folders) -> dict[str, list[HeardPair]]:
    """Clips of the most confused pairs of labels of every classifier."""
    labels = fold_labels.read(folders[fold_labels.STAGE])
    parts = {fold: [folders[f"corpora/{name}"] for name in _parts(recipe, fold)] for fold in recipe.folds.tested}
    pairs: dict[str, list[ConfusedPair]] = {}
    for name in recipe.classifiers():
        scored = {
            fold: [folders[scores_name(name, part)] for part in _parts(recipe, fold)] for fold in recipe.folds.tested
        }
        pairs[name] = confused_clips(
            classification_scores.scored_folds(labels, parts, scored),
            labels,
            num_pairs=recipe.evaluation.metrics.num_confused_pairs,
            clips_per_pair=recipe.report.clips_per_confusion,
        )
    wanted: dict[int, set[str]] = {}
    for pair in (pair for found in pairs.values() for pair in found):
        for clip in pair.clips:
            wanted.setdefault(clip.fold, set()).add(clip.clip_id)
    waveforms = dict[str, np.ndarray]()
    for fold, clip_ids in wanted.items():
        for part in parts[fold]:
            waveforms |= waveforms_of(clip_ids, part, recipe.audio)
    return {
        name: [
            HeardPair(
                pair.confusion,
                [
                    HeardMistake(clip, waveforms[clip.clip_id], LISTENING_RATE)
                    for clip in pair.clips
                    if clip.clip_id in waveforms
                ],
            )
            for pair in found
        ]
        for name, found in pairs.items()
    }


def _notes(recipe: ClassificationRecipe) -> list[str]:
    folds = recipe.folds
    notes = [
        "Each fold is scored once, by a model that was trained on the others. +- is the sample standard deviation over "
        "folds; intervals are bootstrap intervals over clips, and say nothing of other seeds."
    ]
    if folds.held_out_share:
        notes.append("Best steps were chosen on a part of the training folds; no test fold chose anything.")
    else:
        notes.append("Every classifier is the one of its last step: no test fold chose anything.")
    if folds.drawn:
        notes.append("The folds were drawn for this run: numbers on a corpus's official folds are not comparable.")
    if set(folds.tested) != set(folds.numbers):
        notes.append(f"Tested: fold {', '.join(map(str, folds.tested))} of {len(folds.numbers)}.")
    starts = {one.model.start.location for one in recipe.classifiers().values() if one.model.start is not None}
    if starts:
        notes.append(f"Encoders start from {', '.join(sorted(starts))}; what those had been trained on is not checked.")
    if recipe.corpora.synthetic is not None:
        notes.append("The sounds of this run are synthetic: its numbers show that the machinery works, nothing more.")
    return notes
