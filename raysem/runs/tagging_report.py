"""The end of a tagging run: `summary.json` with every final number, and the report page made from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import raysem
from raysem import config, storage
from raysem.evaluation.wrong_tags import top_tags
from raysem.ontology.tag_classes import TagClasses
from raysem.reports.content import StageLine
from raysem.reports.tagging_content import HeardClip, TaggingReport, TextTable
from raysem.reports.tagging_page import write_tagging_report
from raysem.runs import tagging_scores
from raysem.runs.class_table import CLASS_TEXTS, CLASSES
from raysem.runs.clip_outcomes import outcome_lines, read_counts
from raysem.runs.model_record import without_history
from raysem.runs.played_clips import LISTENING_RATE, waveforms_of
from raysem.runs.published import curves, facts_of
from raysem.runs.tagging_recipe import TaggerTrainingSettings, TaggingRecipe
from raysem.runs.tagging_scores import ScoredSet
from raysem.stages import Stage, done_record


def write(
    recipe: TaggingRecipe, output: storage.Location, stages: Sequence[Stage], folder: storage.Location
) -> dict[str, Any]:
    """Write `summary.json` and `index.html` below `folder` from the finished `stages`; returns the headline."""
    folders = {stage.name: stage.folder(output) for stage in stages}
    records = {stage.name: done_record(stage, output) or {} for stage in stages}
    scores: dict[str, Any] = {"evaluation": {}, "differences": [], "moved_confusions": []}
    if tagging_scores.STAGE in folders:
        scores = storage.read_json(storage.join(folders[tagging_scores.STAGE], "scores.json"))
    models = {name: records[f"tagger/{name}"]["summary"] for name in recipe.taggers()}
    summary = {
        **facts_of(recipe, recipe.seed, records),
        "counts": _counts(folders, records),
        "classes": records[CLASSES]["summary"] | {"texts": records.get(CLASS_TEXTS, {}).get("summary")},
        "models": {name: without_history(model) for name, model in models.items()},
        **scores,
    }
    storage.write_json(storage.join(folder, "summary.json"), summary)
    content = TaggingReport(
        title=recipe.report.title,
        subtitle=f"raysem {raysem.__version__}, recipe {summary['recipe_digest']}, seed {recipe.seed}",
        evaluation=scores["evaluation"],
        differences=scores["differences"],
        baselines=[recipe.baseline] if scores["evaluation"] else [],
        confusions=scores["moved_confusions"],
        listening=_listening(recipe, folders),
        curves=curves({name: folders[f"tagger/{name}"] for name in models}),
        text_tables=_text_tables(summary["classes"]),
        models={name: _facts_of(settings, models[name]) for name, settings in recipe.taggers().items()},
        outcomes={
            name: outcome_lines(folders, [name], count)
            for name, count in summary["counts"].items()
            if count["outcomes"]
        },
        stages=[
            StageLine(name, stage["seconds"], "resumed" if stage["attempts"] > 1 else "ran")
            for name, stage in summary["stages"].items()
        ],
        facts=_facts(summary),
        notes=_notes(recipe),
        recipe_yaml=config.to_yaml(recipe),
    )
    write_tagging_report(content, storage.join(folder, "index.html"))
    return {"headline": records.get(tagging_scores.STAGE, {}).get("summary", {}).get("headline", [])}


def _counts(folders: Mapping[str, str], records: Mapping[str, Any]) -> dict[str, Any]:
    """Where the clips of every part went; for a scored set its outcomes, which add up to `clips`."""
    counts = read_counts(folders, records)
    for name, record in records.items():
        part = name.rpartition("/")[0].replace("evaluate/", "evaluation/")
        if name.startswith("evaluate/") and part in counts and "scored_by" not in counts[part]:
            outcomes = Counter(counts[part]["outcomes"]) + Counter(record["summary"]["outcomes"])
            counts[part] |= {"outcomes": dict(outcomes), "scored_by": [name]}
    return counts


def _text_tables(classes: Mapping[str, Any]) -> list[TextTable]:
    texts = classes["texts"]
    if texts is None:
        return []
    return [
        TextTable(texts["source"], texts["encoder"], texts["digest"], classes["classes"], texts["rank_correlation"])
    ]


def _facts_of(settings: TaggerTrainingSettings, model: Mapping[str, Any]) -> dict[str, str]:
    training = model["training"]
    weights = ", ".join(f"{name} {weight:g}" for name, weight in settings.objective.by_name.items())
    chosen = f"best of {training['steps']} by {training['selection_metric']}: {training['best_step']}"
    return {
        "encoder": f"{model['encoder']}, {model['parameters'] / 1e6:.2f} M parameters",
        "loss weights": weights,
        "sampling": settings.sampling,
        "mixup": f"{settings.mixup.probability:g}",
        "clips drawn": f"{training['clips_loaded']:,}, and {training['clips_unusable']:,} unusable ones replaced",
        "step": chosen if training["best_step"] else f"last of {training['steps']}",
        "weights": model["fingerprint"][:16],
    }


def _facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    classes = summary["classes"]
    distances = f"mean distance {classes['mean_distance']:.2f}, longest {classes['longest_distance']}"
    facts = [
        ("recipe", summary["recipe_digest"]),
        ("seed", str(summary["seed"])),
        ("classes", f"{classes['classes']}, {distances}"),
    ]
    facts += [(name, f"{count['clips']:,} clips") for name, count in summary["counts"].items()]
    return [*facts, ("versions", ", ".join(f"{name} {number}" for name, number in summary["versions"].items()))]


def _listening(recipe: TaggingRecipe, folders: Mapping[str, str]) -> list[HeardClip]:
    """Clips of the first evaluation set, drawn by the seed, with what every tagger calls them."""
    if not recipe.corpora.evaluation:
        return []
    name = next(iter(recipe.corpora.evaluation))
    classes = TagClasses.read(folders[CLASSES])
    scores = {model: folders[f"evaluate/{name}/{model}"] for model in recipe.taggers()}
    found = ScoredSet.read(name, folders[f"corpora/evaluation/{name}"], scores, classes)
    number = min(recipe.report.listening_clips, len(found.clip_ids))
    rows = np.random.default_rng([recipe.seed, 7]).choice(len(found.clip_ids), number, replace=False).tolist()
    wanted = {found.clip_ids[row] for row in rows}
    waveforms = waveforms_of(wanted, folders[f"corpora/evaluation/{name}"], recipe.audio)
    return [
        HeardClip(
            clip_id=found.clip_ids[row],
            labels=[classes.names[place] for place in np.flatnonzero(found.targets_NK[row])],
            tags={
                model: top_tags(
                    scores_NK[row], found.targets_NK[row], classes.distance_KK, classes.names,
                    count=recipe.report.tags_per_clip,
                )
                for model, scores_NK in found.scores.items()
            },
            waveform_T=waveforms[found.clip_ids[row]],
            sample_rate=LISTENING_RATE,
        )
        for row in rows
        if found.clip_ids[row] in waveforms
    ]  # fmt: skip


def _notes(recipe: TaggingRecipe) -> list[str]:
    notes = [
        "OmAP is never compared across sets of other sizes: its floor, random scores on the same labels, stands beside "
        "it.",
        "Intervals are bootstrap intervals over the clips of the evaluation set; they say nothing of other seeds.",
    ]
    if not recipe.corpora.held_out:
        notes.append("No held-out clips: every tagger is the one of its last step. The evaluation sets choose nothing.")
    if any(tagger.objective.spa_weight > 0 for tagger in recipe.taggers().values()):
        notes.append(
            "L_SPA, how several labels combine in it, the projection and the weights of the losses are our reading; "
            "the paper's are not known to us."
        )
    if recipe.corpora.synthetic is not None:
        notes.append("The sounds of this run are synthetic: its numbers show that the machinery works, nothing more.")
    return notes
