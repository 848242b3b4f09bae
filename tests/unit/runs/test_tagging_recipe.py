"""The recipes of `train_spa`: those of the repository, and what a wrong one is told before anything runs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from raysem import config, storage
from raysem.corpora.shards import write_shards
from raysem.errors import ConfigError, DataError
from raysem.models.crop_length import num_frames
from raysem.runs import roles, tagging_models
from raysem.runs.launch import RECIPES
from raysem.runs.tagging import JOB
from raysem.runs.tagging_preflight import check
from raysem.runs.tagging_recipe import TaggerTrainingSettings, TaggingRecipe
from raysem.stages import Stage, run_stages
from raysem.tables import CLIPS, conform
from raysem.training.context import LocalContext

PATHS = [RECIPES / JOB.default_recipe, *sorted((RECIPES / "spa").glob("*.yaml"))]
TWINS = {
    "audioset_ast": "smoke_ast",
    "audioset_cnn14": "smoke_cnn14",
    "audioset_hts_at": "smoke_hts_at",
    "audioset_mn10": "smoke_mn",
    "audioset_passt_s": "smoke_passt",
}
CLIPS_OF_AN_EPOCH = 100_000
"""Drawn, as PaSST and EfficientAT count."""
NO_CORPUS = {"corpora": {"train": [{"corpus": "clips_table", "root": "/train"}]}}
SYNTHETIC_CLASSES = ("classes.ontology.file=synthetic", "classes.ontology.classes=")


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that may have any number of GPUs, 100 GiB free, and no ontology in the environment."""
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.delenv("RAYSEM_ONTOLOGY", raising=False)
    monkeypatch.setattr(storage, "free_bytes", lambda location: 100 * 2**30)


def packed(folder: Path, *, prefix: str = "clip", labels: Sequence[str] = ("Siren", "Rain", "Bark")) -> str:
    """A clip of half a second for each label, as `raysem corpus pack` leaves them."""
    buffer = io.BytesIO()
    samples_T = 0.1 * np.random.default_rng(0).standard_normal(4000)
    soundfile.write(buffer, samples_T, 8000, format="WAV", subtype="PCM_16")
    rows = [
        {
            "clip_id": f"{prefix}/{number}",
            "audio": {"bytes": buffer.getvalue(), "path": f"{number}.wav"},
            "labels": [label],
        }
        for number, label in enumerate(labels)
    ]
    write_shards([conform(pa.Table.from_pylist(rows), CLIPS, "test")], str(folder / "clips"), rows_per_shard=2)
    return str(folder)


def with_small_corpora(path: Path, folder: Path, *overrides: str) -> TaggingRecipe:
    """A recipe of the repository whose roots are small packed corpora, and its checkpoint an empty file."""
    recipe = config.load_recipe(TaggingRecipe, path)
    found = [f"corpora.roots.{name}={packed(folder / name, prefix=name)}" for name in recipe.corpora.roots]
    if recipe.tagger.model.start is not None:
        (folder / "checkpoint").touch()
        found.append(f"tagger.model.start.location={folder / 'checkpoint'}")
    return config.load_recipe(TaggingRecipe, path, [*found, *SYNTHETIC_CLASSES, *overrides])


def recipe(**changes: Any) -> TaggingRecipe:
    return config.build(TaggingRecipe, config.with_overrides(NO_CORPUS, changes.items()))


def refused(**changes: Any) -> str:
    with pytest.raises(ConfigError) as error:
        recipe(**changes).taggers()
    assert "\n" not in str(error.value)
    return str(error.value)


def checked(root: Path, **changes: Any) -> list[str]:
    """What the preflight says of a recipe on a packed corpus."""
    known = {"corpora.train": [{"corpus": "clips_table", "root": packed(root / "corpus")}]}
    known |= {"classes.ontology.file": "synthetic"}
    return check(recipe(**known | changes), str(root / "out"), [Stage("a", lambda folder: {})])


# The recipes of the repository


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_recipe_is_valid_reads_back_as_itself_and_plans_its_stages(path: Path, tmp_path: Path):
    loaded = with_small_corpora(path, tmp_path)
    assert config.build(TaggingRecipe, config.read_yaml(config.to_yaml(loaded), "again")) == loaded
    output = str(tmp_path / "out")
    stages = JOB.stages(loaded, output)
    assert check(loaded, output, stages) == []
    names = [stage.name for stage in stages]
    assert {f"tagger/{name}" for name in ("one-hot", "OBCE", "SPA")} <= set(names)
    assert names[-2:] == ["evaluate/scores", "report"]
    assert not Path(output).exists()


@pytest.mark.parametrize("stem", [*TWINS, *TWINS.values()])
def test_the_three_rows_of_a_recipe_differ_in_the_weights_of_their_losses_alone(stem: str):
    loaded = config.load_recipe(TaggingRecipe, path_of(stem))
    taggers = loaded.taggers()
    weights = {name: tagger.objective.by_name for name, tagger in taggers.items()}
    assert weights == {"one-hot": {"bce": 1}, "OBCE": {"obce": 1}, "SPA": {"bce": 1, "obce": 1, "spa": 1}}
    assert loaded.baseline == "one-hot"
    assert taggers["SPA"].model.projection != "none"
    rest = [config.plain(tagger) | {"objective": None} for tagger in taggers.values()]
    for row in rest:
        row["model"]["projection"] = None  # idle without SPA, and left out
    assert rest[0] == rest[1] == rest[2]


def test_every_encoder_has_a_recipe_and_a_smoke_twin_of_its_family():
    stems = {path.stem for path in PATHS}
    assert {stem for stem in stems if stem.startswith(("audioset_", "smoke_"))} == {*TWINS, *TWINS.values()}
    encoders = {}
    for full, smoke in TWINS.items():
        one, other = (tagger_of(stem).model for stem in (full, smoke))
        assert type(one.design.network) is type(other.design.network)
        assert type(one.design.front_end) is type(other.design.front_end)
        encoders[one.encoder] = other.encoder
    assert encoders == {
        "cnn14": "cnn14_tiny", "mn10": "mn_tiny", "ast": "ast_tiny", "hts_at": "hts_at_tiny", "passt_s": "passt_tiny"
    }  # fmt: skip


@pytest.mark.parametrize(("full", "smoke"), TWINS.items(), ids=list(TWINS))
def test_a_smoke_twin_turns_on_what_its_recipe_turns_on(full: str, smoke: str):
    """All but the start from a published checkpoint, of which there is none of a tiny encoder."""
    assert switches(tagger_of(full)) == switches(tagger_of(smoke))
    one, other = (config.load_recipe(TaggingRecipe, path_of(stem)) for stem in (full, smoke))
    assert one.evaluation.watch == other.evaluation.watch is True
    assert one.classes.texts == other.classes.texts
    assert one.classes.encoder == other.classes.encoder


@pytest.mark.parametrize("full", list(TWINS))
def test_what_the_recipes_have_in_common_is_on(full: str):
    found = switches(tagger_of(full))
    common = {
        "sampling": "balanced", "mixup": 0.5, "masks": (1, 1), "optimizer": "adamw", "weight_decay": 1e-5,
        "schedule": "linear", "final_factor": 0.01, "averaged": True, "precision": "bf16", "warm-up": True,
    }  # fmt: skip
    assert {name: found[name] for name in common} == common
    is_transformer = full in ("audioset_ast", "audioset_hts_at", "audioset_passt_s")
    assert (found["layer_decay"] < 1) is is_transformer
    assert (tagger_of(full).model.start is not None) is is_transformer
    assert (found["gain"], found["shift"]) == ((True, True) if full == "audioset_passt_s" else (False, False))


@pytest.mark.parametrize("full", list(TWINS))
def test_warm_up_is_five_epochs_and_each_epoch_ends_with_an_evaluation(full: str):
    training = tagger_of(full).training
    epoch, left = divmod(CLIPS_OF_AN_EPOCH, training.batch_size)
    assert left == 0
    assert training.evaluate_every_steps == training.checkpoint_every_steps == epoch
    assert training.schedule.warmup_steps == 5 * epoch
    assert training.steps % epoch == 0
    assert training.steps > 2 * training.schedule.warmup_steps


@pytest.mark.parametrize("stem", [*TWINS, *TWINS.values()])
def test_masks_cover_the_published_shares_of_each_spectrogram(stem: str):
    """Up to 48 of 128 mels and 192 of 998 frames (of AST's 1024 the last 26 are padding)."""
    model = tagger_of(stem).model
    front_end = model.design.front_end
    assert model.spec_mask.max_bins / front_end.num_mels == 48 / 128
    frames = num_frames(front_end, round(model.design.crop_seconds * front_end.sample_rate))
    assert 192 / 1024 <= model.spec_mask.max_frames / frames <= 192 / 998


def test_packed_parts_are_read_back_and_joined_for_training(tmp_path: Path):
    loaded = with_small_corpora(path_of("audioset_cnn14"), tmp_path)
    results = run_stages(JOB.stages(loaded, str(tmp_path / "out")), str(tmp_path / "out"), until="corpora")
    clips = {name: result.summary["clips"] for name, result in results.items()}
    assert clips == {"corpora/train": 6, "corpora/evaluation/audioset": 3}
    shard = roles.clip_shards(results["corpora/train"].folder)[0]
    row = storage.read_table(shard).to_pylist()[0]
    assert (row["clip_id"], row["labels"]) == ("balanced/0", ["Siren"])
    assert row["audio"]["bytes"].startswith(b"RIFF")


def path_of(stem: str) -> Path:
    return RECIPES / "spa" / f"{stem}.yaml"


def tagger_of(stem: str) -> TaggerTrainingSettings:
    """The SPA tagger of a recipe, which has all that the others have."""
    return config.load_recipe(TaggingRecipe, path_of(stem)).taggers()["SPA"]


def switches(tagger: TaggerTrainingSettings) -> Mapping[str, Any]:
    """What is on and what it is, without sizes: lengths, rates, widths, batches."""
    training, masks = tagger.training, tagger.model.spec_mask
    return {
        "objective": tagger.objective,
        "projection": (tagger.model.projection, tagger.model.projection_dropout),
        "head_dropout": tagger.model.head_dropout,
        "sampling": tagger.sampling,
        "mixup": tagger.mixup.probability,
        "mixup_alpha": tagger.mixup.alpha,
        "masks": (masks.num_masks_frequency, masks.num_masks_time),
        "gain": tagger.augmentation.gain_db != (0.0, 0.0),
        "shift": tagger.augmentation.time_shift_seconds > 0,
        "optimizer": training.optimizer,
        "weight_decay": training.weight_decay,
        "layer_decay": training.layer_decay,
        "schedule": training.schedule.kind,
        "warm-up": training.schedule.warmup_steps > 0,
        "final_factor": training.schedule.final_factor,
        "averaged": training.weight_average is not None,
        "clipped": training.gradient_clip,
        "precision": training.precision,
        "selection": (training.selection_metric, training.keep),
    }


# Wrong settings


def test_alignment_needs_a_projection():
    reason = "model.projection: is none, and objective.spa_weight above 0 needs one (linear or mlp)"
    assert refused(**{"tagger.objective.spa_weight": 1.0}) == f"recipe: tagger: {reason}"
    assert refused(variants={"SPA": {"tagger.objective.spa_weight": 1}}) == f"variants.SPA: tagger: {reason}"
    together = {"tagger.objective.spa_weight": 1, "tagger.model.projection": "linear"}
    assert recipe(variants={"SPA": together}).taggers()["SPA"].model.projection == "linear"


def test_a_projection_that_nothing_trains_is_left_out():
    taggers = recipe(
        **{"tagger.model.projection": "mlp"}, variants={"one-hot": {}, "SPA": {"tagger.objective.spa_weight": 1}}
    ).taggers()
    assert (taggers["one-hot"].model.projection, taggers["SPA"].model.projection) == ("none", "mlp")


@pytest.mark.parametrize("variants", [{}, {"one-hot": {}, "OBCE": {}}])
def test_an_unknown_baseline_is_told_the_names_that_exist(variants: dict[str, Any], tmp_path: Path):
    evaluation = {"test": {"corpus": "clips_table", "root": packed(tmp_path / "corpus")}}
    changes = {"evaluation.baseline": "SPA", "classes.ontology.file": "synthetic", "corpora.evaluation": evaluation}
    wrong = recipe(**changes, **{"corpora.train": [evaluation["test"]]}, variants=variants)
    names = ", ".join(variants) or "tagger"
    with pytest.raises(ConfigError, match=rf"^evaluation\.baseline: no tagger 'SPA'; there are {names}$"):
        JOB.stages(wrong, str(tmp_path / "out"))


@pytest.mark.parametrize("key", ["corpora.rows_per_shard", "seed", "classes.texts", "evaluation.watch", "tagger"])
def test_a_variant_may_not_touch_what_all_share(key: str):
    reason = f"recipe: variants: a: {key} is shared by all variants; a variant sets tagger.*"
    assert refused(variants={"a": {key: 1}}) == reason


def test_a_variants_wrong_key_is_found_before_anything_runs():
    text = refused(variants={"a": {"tagger.trainin.steps": 3}})
    assert text.startswith("variants.a: tagger.trainin: no such key (did you mean training?)")
    assert "variants.a: tagger.sampling: expected" in refused(variants={"a": {"tagger.sampling": "often"}})


@pytest.mark.parametrize("name", ["", "a b", "a/b", "..", ".a"])
def test_names_of_variants_are_names_of_folders(name: str):
    assert "recipe: variants: " in refused(variants={name: {}})


def test_a_root_that_is_not_named_is_told_the_names_that_exist():
    source = {"corpus": "clips_table", "root": "{unbalanced}"}
    text = refused(**{"corpora.train": [source], "corpora.roots": {"balanced": "/b"}})
    assert text == "recipe: corpora: roots: no root 'unbalanced', which a source names; there are ['balanced']"


def test_something_to_train_on_is_needed():
    with pytest.raises(ConfigError, match=r"^recipe: corpora\.train: "):
        config.build(TaggingRecipe, {"corpora": {"train": []}})
    with pytest.raises(ConfigError, match=r"^recipe: corpora\.train: is missing and has no default$"):
        config.build(TaggingRecipe, {"corpora": {}})


def test_a_batch_is_shared_evenly_by_the_workers(tmp_path: Path):
    workers = {"cluster.training_workers": 3}
    assert checked(tmp_path, **workers, **{"tagger.training.batch_size": 12}) == []
    reason = r"16 is no multiple of cluster\.training_workers x accumulation = 3$"
    with pytest.raises(ConfigError, match=rf"^tagger\.training\.batch_size: {reason}"):
        checked(tmp_path, **workers, **{"tagger.training.batch_size": 16})
    variants = {"a": {}, "b": {"tagger.training.batch_size": 16}}
    with pytest.raises(ConfigError, match=rf"^variants\.b\.tagger\.training\.batch_size: {reason}"):
        checked(tmp_path, **workers, **{"tagger.training.batch_size": 12}, variants=variants)
    parts = {"tagger.training.batch_size": 12, "tagger.training.accumulation": 3}
    with pytest.raises(ConfigError, match=r"^tagger\.training\.batch_size: 12 is no multiple of .* = 9$"):
        checked(tmp_path, **workers, **parts)


def test_a_plateau_is_seen_on_held_out_clips(tmp_path: Path):
    plateau = {"tagger.training.schedule.kind": "plateau"}
    with pytest.raises(
        ConfigError,
        match=r"^tagger\.training\.schedule\.kind: plateau is seen on held-out clips; give corpora\.held_out$",
    ):
        checked(tmp_path, **plateau)
    held_out = [{"corpus": "clips_table", "root": packed(tmp_path / "held_out")}]
    assert checked(tmp_path, **plateau, **{"corpora.held_out": held_out}) == []


def test_no_ontology_is_said_with_where_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    reason = r"^classes\.ontology\.file: no ontology is given\. .*github\.com/audioset/ontology.*RAYSEM_ONTOLOGY"
    source = [{"corpus": "clips_table", "root": packed(tmp_path / "corpus")}]
    without = recipe(**{"corpora.train": source})
    with pytest.raises(ConfigError, match=reason):
        JOB.stages(without, str(tmp_path / "out"))
    monkeypatch.setenv("RAYSEM_ONTOLOGY", "synthetic")
    assert JOB.stages(without, str(tmp_path / "out"))


def test_an_ontology_that_is_not_there_is_named(tmp_path: Path):
    source = [{"corpus": "clips_table", "root": packed(tmp_path / "corpus")}]
    with pytest.raises(ConfigError, match=r"^classes\.ontology\.file: no such file: .*nothing\.json$"):
        JOB.stages(
            recipe(**{"corpora.train": source, "classes.ontology.file": str(tmp_path / "nothing.json")}), str(tmp_path)
        )


def test_a_checkpoint_that_is_not_there_is_named_with_its_variant(tmp_path: Path):
    start = {"tagger.model.start": {"kind": "panns", "location": "nothing.pth"}, "tagger.model.encoder": "cnn14"}
    with pytest.raises(ConfigError, match=r"^tagger\.model\.start\.location: nothing\.pth: no such file or folder$"):
        checked(tmp_path, **start)
    with pytest.raises(ConfigError, match=r"^variants\.b\.tagger\.model\.start\.location: nothing\.pth: "):
        checked(tmp_path, variants={"a": {}, "b": start})


@pytest.mark.parametrize("part", ["train", "held_out", "evaluation.audioset"])
def test_a_root_that_is_not_there_is_named_with_its_part(part: str, tmp_path: Path):
    source = {"corpus": "clips_table", "root": str(tmp_path / "nothing")}
    with pytest.raises(ConfigError, match=rf"^corpora\.{part}: root .*nothing: no such file or folder"):
        checked(tmp_path, **{f"corpora.{part}": source if "." in part else [source]})


def test_the_gpus_of_a_full_recipe_are_missed_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    loaded = with_small_corpora(path_of("audioset_ast"), tmp_path)
    with pytest.raises(ConfigError, match=r"^cluster: 8 GPUs are asked for, this machine has 1$"):
        check(loaded, str(tmp_path / "out"), [Stage("a", lambda folder: {})])


def test_a_label_that_is_no_class_is_said_before_the_first_step(tmp_path: Path):
    source = {"corpus": "clips_table", "root": packed(tmp_path / "corpus", labels=("Siren", "Nightingale"))}
    model = {"tagger.model.encoder": "cnn14_tiny", "classes.ontology.file": "synthetic"}
    wrong, output = recipe(**model, **{"corpora.train": [source]}), str(tmp_path / "out")
    results = run_stages(JOB.stages(wrong, output), output, until="classes")
    spec = tagging_models.training_spec(
        "one-hot",
        wrong.taggers()["tagger"],
        output=str(tmp_path / "run"),
        classes=results["classes"].folder,
        sources=roles.clip_shards(results["corpora/train"].folder),
        held_out=(),
        watched={},
        seed=0,
        audio=wrong.audio,
    )
    known = r"none of the 35 classes \(Siren, .*\); other labels can be mapped with label_map$"
    with pytest.raises(DataError, match=rf"^one-hot clips: label 'Nightingale' is {known}"):
        spec.train(LocalContext())
    assert not (tmp_path / "run").exists()
