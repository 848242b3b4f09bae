"""The recipes of SemanticAC's tables: what each plans, that it says what the paper prints, and its smoke twin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from raysem import config, storage
from raysem.audio.augment import AUDIOCLIP_AUGMENTATION
from raysem.corpora.synthetic import plan_clips
from raysem.corpora.urbansound8k import CLASSES
from raysem.errors import ConfigError
from raysem.models.crop_length import num_frames
from raysem.models.hts_at import HtsAtSettings
from raysem.runs import fold_labels, roles
from raysem.runs.classification import JOB
from raysem.runs.classification_folds import fold_sources, part_name
from raysem.runs.classification_preflight import check, check_prompts
from raysem.runs.classification_recipe import ClassificationRecipe, ClassifierTrainingSettings
from raysem.runs.launch import RECIPES
from raysem.stages import Stage, run_stages
from raysem.text.prompts import SEMANTICAC_TEMPLATES
from raysem.training.classifier_spec import with_epochs

FOLDER = RECIPES / "semanticac"
NUM_FOLDS = {"esc50": 5, "urbansound8k": 10}
ROWS = {"": 1, "_similarity": 5, "_prompts": 3}
"""Rows of a table, each one classifier, by the end of its recipe's name."""
STEMS = [corpus + table for corpus in NUM_FOLDS for table in ROWS]
TWINS = [f"smoke_{stem}" for stem in STEMS]
ESC50_LABELS = ("dog", "rain", "sea_waves")


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that may have GPUs, and 100 GiB free."""
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(storage, "free_bytes", lambda location: 100 * 2**30)


def recipe_of(stem: str, *overrides: str) -> ClassificationRecipe:
    return config.load_recipe(ClassificationRecipe, FOLDER / f"{stem}.yaml", overrides)


def corpus_of(stem: str) -> str:
    return stem.removeprefix("smoke_").partition("_")[0]


def miniature(folder: Path, corpus: str) -> Path:
    """A table with one clip of each label in each fold, without its files: they are missed when they are decoded."""
    if corpus == "esc50":
        lines = ["filename,fold,target,category,esc10"]
        lines += [
            f"{fold}-{number}-A-{number}.wav,{fold},{number},{label},False"
            for fold in range(1, 6)
            for number, label in enumerate(ESC50_LABELS)
        ]
        table = folder / "meta/esc50.csv"
    else:
        lines = ["slice_file_name,fsID,fold,classID,class"]
        lines += [
            f"{fold}{number}-{number}-0-0.wav,{fold}{number},{fold},{number},{label}"
            for fold in range(1, 11)
            for number, label in enumerate(CLASSES)
        ]
        table = folder / "metadata/UrbanSound8K.csv"
    for place in (table.parent, folder / "audio"):
        place.mkdir(parents=True)
    table.write_text("\n".join(lines) + "\n")
    return folder


def found_here(stem: str, folder: Path) -> ClassificationRecipe:
    """The recipe, with a miniature of its corpus and an empty file as its checkpoint."""
    if stem.startswith("smoke_"):
        return recipe_of(stem)
    (folder / "checkpoint").touch()
    corpus = corpus_of(stem)
    return recipe_of(
        stem,
        f"corpora.roots.{corpus}={miniature(folder / corpus, corpus)}",
        f"classifier.model.start.location={folder / 'checkpoint'}",
    )


# What is planned


def test_each_table_of_each_corpus_has_a_recipe_and_a_twin():
    found = {path.stem for path in FOLDER.glob("*.yaml")}
    assert found - {"esc50_small"} == {*STEMS, *TWINS}


@pytest.mark.parametrize("stem", [*STEMS, *TWINS])
def test_a_recipe_reads_back_as_itself_and_plans_a_classifier_for_each_row_and_fold(stem: str, tmp_path: Path):
    loaded = found_here(stem, tmp_path)
    assert config.build(ClassificationRecipe, config.read_yaml(config.to_yaml(loaded), "again")) == loaded
    output = str(tmp_path / "out")
    stages = JOB.stages(loaded, output)
    assert check(loaded, output, stages) == []
    names = [stage.name for stage in stages]
    table = stem.removeprefix("smoke_").removeprefix(corpus_of(stem))
    tested = loaded.folds.tested
    for kind in ("classifier", "evaluate"):
        planned = [name for name in names if name.startswith(f"{kind}/") and "/fold" in name]
        assert len(planned) == len(set(planned)) == ROWS[table] * len(tested)
        assert {int(name.rpartition("fold")[2].removesuffix("/clips")) for name in planned} == set(tested)
    assert names[-1] == "report"
    assert not Path(output).exists()


@pytest.mark.parametrize("stem", STEMS)
def test_the_official_folds_are_those_of_the_corpus_and_the_ablation_of_modules_is_on_fold_4_of_esc50(stem: str):
    folds = recipe_of(stem).folds
    every = tuple(range(1, NUM_FOLDS[corpus_of(stem)] + 1))
    assert (folds.official, folds.drawn, folds.held_out_share) == (every, 0, 0.0)
    assert folds.tested == ((4,) if stem == "esc50_similarity" else every)


@pytest.mark.parametrize("stem", STEMS)
def test_the_labels_of_the_folds_are_read_without_ray_and_told_apart_by_every_prompt(stem: str, tmp_path: Path):
    loaded, output = found_here(stem, tmp_path), str(tmp_path / "out")
    results = run_stages(JOB.stages(loaded, output), output, until=fold_labels.STAGE)
    labels = fold_labels.read(results[fold_labels.STAGE].folder)
    assert labels == (tuple(sorted(ESC50_LABELS)) if corpus_of(stem) == "esc50" else CLASSES)
    counts = results[fold_labels.STAGE].summary["clips"]
    assert counts == {str(fold): len(labels) for fold in loaded.folds.numbers}
    check_prompts(loaded, labels)


@pytest.mark.parametrize("stem", TWINS)
def test_every_class_of_a_twin_has_clips_to_train_on_and_to_test(stem: str):
    loaded = recipe_of(stem)
    assert loaded.corpora.synthetic is not None
    plans = plan_clips(loaded.corpora.synthetic)["test"]
    labels_of = dict[int, set[str]]()
    for fold in loaded.folds.numbers:
        (source,) = fold_sources(loaded)[part_name(fold)]
        low, high = source.share
        labels_of[fold] = {plan.labels[0] for plan in plans if low <= roles.place_of(loaded.seed, plan.clip_id) < high}
    everything = {plan.labels[0] for plan in plans}
    assert len(everything) == 15
    for fold in loaded.folds.tested:
        assert labels_of[fold] == everything
        assert set().union(*(labels_of[other] for other in loaded.folds.numbers if other != fold)) == everything


# What the paper prints


@pytest.mark.parametrize("stem", STEMS)
def test_a_recipe_says_what_the_paper_prints(stem: str):
    for classifier in recipe_of(stem).classifiers().values():
        model, training = classifier.model, classifier.training
        assert (model.encoder, model.shared_width, model.label_words) == ("hts_at", 1024, {})
        assert model.start is not None
        assert model.start.kind == "hts_at"
        assert model.crop_seconds == {"esc50": 5.0, "urbansound8k": 4.0}[corpus_of(stem)]
        assert config.plain(model.text) == {
            "name": "openai/clip-vit-base-patch32", "pooling": "eos", "max_tokens": 77, "trained": True
        }  # fmt: skip
        assert (model.initial_scale, model.max_scale) == (100, 100)
        assert classifier.augmentation == AUDIOCLIP_AUGMENTATION
        assert (training.optimizer, training.momentum, training.weight_decay) == ("sgd", 0.9, 5e-4)
        assert (training.batch_size, training.learning_rate, training.gradient_clip) == (16, 8e-5, None)
        assert (training.accumulation, training.layer_decay, training.weight_average) == (1, 1.0, None)
        assert (training.keep, training.selection_metric) == ("last", "accuracy")


def test_the_learning_rate_falls_after_each_of_fifty_epochs():
    """1600 clips of ESC-50 are 100 steps of 16."""
    classifier = recipe_of("esc50").classifiers()["SemanticAC"]
    training = with_epochs(classifier.training, classifier.epochs, 1600)
    assert training.steps == 5000
    schedule = training.schedule
    assert (schedule.kind, schedule.gamma, schedule.steps_per_decay) == ("exponential", 0.96, 100)
    assert schedule.warmup_steps == 0


@pytest.mark.parametrize("stem", [*STEMS, *TWINS])
def test_the_rows_of_a_table_differ_in_what_it_is_about_alone(stem: str):
    classifiers = recipe_of(stem).classifiers()
    modules = {name: similarity_of(classifier) for name, classifier in classifiers.items()}
    templates = {name: classifier.model.prompts.templates for name, classifier in classifiers.items()}
    printed = SEMANTICAC_TEMPLATES[-1:]
    if stem.endswith("_similarity"):
        assert modules == {
            "baseline": None, "mean": "mean", "seq_lstm": "seq_lstm", "seq_transf": "seq_transf", "cscm": "cscm"
        }  # fmt: skip
        assert set(templates.values()) == {printed}
    elif stem.endswith("_prompts"):
        assert list(templates.values()) == [(template,) for template in SEMANTICAC_TEMPLATES]
        assert set(modules.values()) == {"cscm"}
    else:
        assert (modules, templates) == ({"SemanticAC": "cscm"}, {"SemanticAC": printed})
    rest = [config.plain(classifier) for classifier in classifiers.values()]
    for row in rest:
        del row["model"]["similarity"], row["model"]["prompts"]
    assert all(row == rest[0] for row in rest)


@pytest.mark.parametrize("prefix", ["", "smoke_"])
@pytest.mark.parametrize("corpus", NUM_FOLDS)
@pytest.mark.parametrize("table", ["_similarity", "_prompts"])
def test_an_ablation_is_the_main_recipe_but_for_its_rows_and_its_fold(prefix: str, corpus: str, table: str):
    main, ablation = (config.plain(recipe_of(f"{prefix}{corpus}{ending}")) for ending in ("", table))
    for content in (main, ablation):
        del content["variants"], content["report"]["title"], content["folds"]["test"]
    assert main == ablation


# Twins


@pytest.mark.parametrize("stem", STEMS)
def test_a_smoke_twin_turns_on_what_its_recipe_turns_on(stem: str):
    """All but the start from a published checkpoint, of which there is none of a tiny encoder, and a trained text
    tower."""
    full, smoke = recipe_of(stem), recipe_of(f"smoke_{stem}")
    assert list(full.variants.items()) == list(smoke.variants.items())
    assert full.baseline == smoke.baseline
    assert full.evaluation == smoke.evaluation
    assert full.audio == smoke.audio
    for one, other in zip(full.classifiers().values(), smoke.classifiers().values(), strict=True):
        assert switches(one) == switches(other)


@pytest.mark.parametrize("stem", STEMS)
def test_a_twins_encoder_is_of_the_family_and_repeats_its_crop_as_often(stem: str):
    one, other = ((recipe_of(name)).classifier.model.design for name in (stem, f"smoke_{stem}"))
    assert type(one.front_end) is type(other.front_end)
    for design in (one, other):
        assert isinstance(design.network, HtsAtSettings)
        frames = num_frames(design.front_end, round(design.crop_seconds * design.front_end.sample_rate))
        assert design.network.max_frames // frames == 2


def similarity_of(classifier: ClassifierTrainingSettings) -> str | None:
    similarity = classifier.model.similarity
    return similarity.name if similarity is not None else None


def switches(classifier: ClassifierTrainingSettings) -> Mapping[str, Any]:
    """What is on and what it is, without sizes: lengths, learning rates, widths."""
    model, training = classifier.model, classifier.training
    return {
        "objective": classifier.objective,
        "augmentation": classifier.augmentation,
        "similarity": model.similarity,
        "prompts": model.prompts,
        "label_words": model.label_words,
        "scale": (model.initial_scale, model.max_scale),
        "dropout": model.audio_dropout,
        "masked": model.spec_mask.is_on,
        "by epochs": classifier.epochs is not None,
        "batch_size": training.batch_size,
        "optimizer": (training.optimizer, training.momentum, training.weight_decay),
        "schedule": (training.schedule.kind, training.schedule.gamma, training.schedule.warmup_steps),
        "layer_decay": training.layer_decay,
        "averaged": training.weight_average is not None,
        "clipped": training.gradient_clip,
        "precision": training.precision,
        "selection": (training.selection_metric, training.keep),
    }


# What is not there


def refused(stem: str, folder: Path, *overrides: str) -> str:
    """What the checks before Ray say."""
    output = str(folder / "out")
    loaded = recipe_of(stem, *overrides)
    with pytest.raises(ConfigError) as error:
        check(loaded, output, JOB.stages(loaded, output))
    assert "\n" not in str(error.value)
    assert not Path(output).exists()
    return str(error.value)


@pytest.mark.parametrize("stem", STEMS)
def test_a_root_that_is_not_there_is_one_line_before_ray(stem: str, tmp_path: Path):
    text = refused(stem, tmp_path, f"corpora.roots.{corpus_of(stem)}={tmp_path / 'nothing'}")
    assert text.startswith(f"corpora.clips: root {tmp_path / 'nothing'}: no such file or folder")


@pytest.mark.parametrize("stem", STEMS)
def test_a_checkpoint_that_is_not_there_is_one_line_before_ray(stem: str, tmp_path: Path):
    corpus, nothing = corpus_of(stem), tmp_path / "nothing.ckpt"
    root = f"corpora.roots.{corpus}={miniature(tmp_path / corpus, corpus)}"
    text = refused(stem, tmp_path, root, f"classifier.model.start.location={nothing}")
    first = next(iter(recipe_of(stem).variants))
    assert text == f"variants.{first}.classifier.model.start.location: {nothing}: no such file or folder"


def test_the_gpu_of_a_full_recipe_is_missed_on_a_machine_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    loaded = found_here("esc50", tmp_path)
    with pytest.raises(ConfigError, match=r"^cluster: 1 GPUs are asked for, this machine has 0$"):
        check(loaded, str(tmp_path / "out"), [Stage("a", lambda folder: {})])
