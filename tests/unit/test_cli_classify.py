"""`raysem classify`: files among labels of training or any others; what people, programs and the shell are told."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F

from raysem import cli, storage
from raysem.models.classifier import Classifier, build_classifier
from raysem.models.classifier_checkpoint import load_classifier, save_classifier
from raysem.models.classifier_settings import ClassifierSettings
from raysem.models.similarity import SimilaritySettings
from raysem.stages import DONE, Stage, write_plan
from raysem.text.encoder import TextEncoderSettings

RATE = 8000
LABELS = ("dog", "cat", "rain_falls", "hum")
WORDS = {"hum": "a loud siren"}
TRAINED = "the sound of {label}"
Call = Callable[..., tuple[int, str, str]]


def tiny_classifier(bert_folder: Path, *, baseline: bool = False, seed: int = 0) -> Classifier:
    """Of one-second crops at 8 kHz; its batch norms have seen noise, so clips differ."""
    settings = ClassifierSettings(
        encoder="cnn14_tiny",
        front_end={"sample_rate": RATE, "window_samples": 256, "hop_samples": 160, "num_mels": 32, "max_hz": 3900.0},
        network={"channels": (2, 2, 4, 4, 8, 8), "num_mels": 32},
        crop_seconds=1.0,
        similarity=None if baseline else SimilaritySettings(name="mean"),
        text=TextEncoderSettings(name=str(bert_folder), max_tokens=30),
        prompts={"templates": (TRAINED,)},
        label_words=WORDS,
        shared_width=24,
        initial_scale=5.0,
    )
    classifier = build_classifier(settings, LABELS, seed=seed)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)  # of the dropout, too
        noise_BT = 0.1 * torch.randn((8, RATE))
        for _ in range(30):
            classifier.train().encode_audio(noise_BT * torch.linspace(0.1, 1, 8)[:, None])
    return classifier.eval()


@pytest.fixture(scope="module")
def model(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("classifier"))
    save_classifier(folder, tiny_classifier(bert_folder))
    return folder


@pytest.fixture(scope="module")
def baseline(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("baseline"))
    save_classifier(folder, tiny_classifier(bert_folder, baseline=True))
    return folder


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of one crop, of 2.5 crops; one that is no audio."""
    folder = tmp_path_factory.mktemp("sounds")
    random = np.random.default_rng(0)
    for name, seconds in (("one.wav", 1.0), ("long.flac", 2.5)):
        samples_T = 0.2 * random.standard_normal(int(seconds * RATE)) * np.linspace(0.1, 1, int(seconds * RATE))
        soundfile.write(folder / name, samples_T.clip(-1, 1), RATE, "PCM_16")
    (folder / "broken.wav").write_bytes(b"not audio\n at all" * 50)
    return {name: str(folder / name) for name in ("one.wav", "long.flac", "broken.wav")}


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs the console script; gives (status, standard output, standard error)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["raysem", "classify", *arguments])
        with pytest.raises(SystemExit) as ended:
            sys.exit(cli.main())  # type: ignore[func-returns-value]
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def users_mistake(answer: tuple[int, str, str]) -> str:
    status, out, error = answer
    assert (status, out) == (2, "")
    assert error.startswith("raysem: ")
    assert error.count("\n") == 1
    return error


def expected_scores(model: str, prompts_KP: Sequence[Sequence[str]], *crops_T: np.ndarray) -> list[float]:
    """A softmax over scaled cosines, prompt by prompt and crop by crop, then the mean of the crops."""
    classifier = load_classifier(model)
    scores = []
    with torch.no_grad():
        text_KC = []
        for prompts in prompts_KP:
            vectors = [classifier.encode_text(classifier.text_encoder.tokenize([prompt]))[0] for prompt in prompts]
            text_KC.append(sum(vector / vector.norm() for vector in vectors))
        for crop_T in crops_T:
            audio_C = classifier.encode_audio(torch.from_numpy(crop_T)[None])[0]
            cosine_K = torch.stack([F.cosine_similarity(audio_C, text_C, dim=0) for text_C in text_KC])
            scores.append(torch.softmax(classifier.logit_scale.exp() * cosine_K, dim=0))
    return torch.stack(scores).mean(0).tolist()


def samples_of(file: str) -> np.ndarray:
    samples_T, rate = soundfile.read(file, dtype="float32")
    assert rate == RATE
    return samples_T


def found_in(line: str) -> dict[str, float]:
    return {found["label"]: found["probability"] for found in json.loads(line)["labels"]}


def test_without_labels_those_of_training_come_with_the_prompts_of_training(
    call: Call, model: str, sounds: dict[str, str]
):
    status, out, error = call(model, sounds["one.wav"], sounds["long.flac"], "--json")
    assert (status, error) == (0, "")
    first, second = map(json.loads, out.splitlines())
    assert (first["file"], second["file"]) == (sounds["one.wav"], sounds["long.flac"])
    prompts = ["the sound of dog", "the sound of cat", "the sound of rain falls", "the sound of a loud siren"]
    expected = expected_scores(model, [[prompt] for prompt in prompts], samples_of(sounds["one.wav"]))
    ranked = sorted(range(4), key=lambda place: -expected[place])
    assert [found["label"] for found in first["labels"]] == [LABELS[place] for place in ranked]
    for found, place in zip(first["labels"], ranked, strict=True):
        assert found.keys() == {"label", "probability", "prompts"}
        assert found["prompts"] == [prompts[place]]
        assert found["probability"] == pytest.approx(expected[place], abs=1e-6)
    assert first["model"] == load_classifier(model).fingerprint()
    assert sum(found["probability"] for found in second["labels"]) == pytest.approx(1, abs=1e-5)
    assert found_in(out.splitlines()[0]) != pytest.approx(found_in(out.splitlines()[1]), abs=1e-4)


def test_any_labels_can_be_given_and_are_read_as_they_are(call: Call, model: str, sounds: dict[str, str]):
    given = ("siren", "hum", "a cat in the rain")
    expected = expected_scores(model, [[f"the sound of {label}"] for label in given], samples_of(sounds["one.wav"]))
    status, out, error = call(model, sounds["one.wav"], "--labels", " siren,hum , a cat in the rain", "--json")
    assert (status, error) == (0, "")
    assert found_in(out) == pytest.approx(dict(zip(given, expected, strict=True)), abs=1e-6)
    said = {found["label"]: found["prompts"] for found in json.loads(out)["labels"]}
    assert said["hum"] == ["the sound of hum"]
    assert json.loads(out)["model"] == load_classifier(model).fingerprint()
    _, reordered, _ = call(model, sounds["one.wav"], "--labels", "a cat in the rain,siren,hum", "--json")
    assert found_in(reordered) == pytest.approx(found_in(out), abs=1e-6)
    _, fewer, _ = call(model, sounds["one.wav"], "--labels", "siren,hum", "--json")
    ratio = found_in(out)["siren"] / found_in(out)["hum"]
    assert found_in(fewer)["siren"] / found_in(fewer)["hum"] == pytest.approx(ratio, rel=1e-4)


def test_other_prompts_are_averaged_in_the_place_of_those_of_training(call: Call, model: str, sounds: dict[str, str]):
    templates = ("{label}", "this is a loud {label}")
    options = [option for template in templates for option in ("--template", template)]
    words = {"dog": "dog", "cat": "cat", "rain_falls": "rain falls", "hum": "a loud siren"}
    prompts = {label: [template.replace("{label}", word) for template in templates] for label, word in words.items()}
    expected = expected_scores(model, list(prompts.values()), samples_of(sounds["one.wav"]))
    _, out, _ = call(model, sounds["one.wav"], *options, "--json")
    assert found_in(out) == pytest.approx(dict(zip(prompts, expected, strict=True)), abs=1e-6)
    assert {found["label"]: found["prompts"] for found in json.loads(out)["labels"]} == prompts
    _, out, _ = call(model, sounds["one.wav"], "--labels", "hum, dog", *options, "--json")
    expected = expected_scores(model, [["hum", "this is a loud hum"], prompts["dog"]], samples_of(sounds["one.wav"]))
    assert found_in(out) == pytest.approx(dict(zip(("hum", "dog"), expected, strict=True)), abs=1e-6)


def test_labels_can_be_the_lines_of_a_file(call: Call, model: str, sounds: dict[str, str], tmp_path: Path):
    file = tmp_path / "labels.txt"
    file.write_bytes("\ufeffrain, in the loud\r\n\r\n  siren \r\ndog".encode())
    _, out, _ = call(model, sounds["one.wav"], "--labels", f"@{file}", "--json")
    given = ("rain, in the loud", "siren", "dog")
    expected = expected_scores(model, [[f"the sound of {label}"] for label in given], samples_of(sounds["one.wav"]))
    assert found_in(out) == pytest.approx(dict(zip(given, expected, strict=True)), abs=1e-6)


def test_of_a_long_file_the_middle_is_heard_or_the_mean_of_even_crops(call: Call, model: str, sounds: dict[str, str]):
    samples_T = samples_of(sounds["long.flac"])
    found = {}
    for crops, starts in {1: [6000], 3: [0, 6000, 12000]}.items():
        _, out, _ = call(model, sounds["long.flac"], "--labels", "dog,rain", "--crops", str(crops), "--json")
        found[crops] = found_in(out)
        prompts = [["the sound of dog"], ["the sound of rain"]]
        expected = expected_scores(model, prompts, *(samples_T[start : start + RATE] for start in starts))
        assert found[crops] == pytest.approx(dict(zip(("dog", "rain"), expected, strict=True)), abs=1e-6)
    assert abs(found[1]["dog"] - found[3]["dog"]) > 1e-5


def test_people_read_the_probability_and_the_label(call: Call, model: str, sounds: dict[str, str]):
    status, out, error = call(model, sounds["one.wav"], sounds["long.flac"], "--top", "2")
    assert (status, error) == (0, "")
    lines = out.splitlines()
    assert lines[0] == sounds["one.wav"]
    assert lines[3] == f"{sounds['long.flac']}  (1.0 s of 2.5 s heard; --crops takes more)"
    assert len(lines) == 6
    _, out, _ = call(model, sounds["one.wav"], "--json")
    best = sorted(found_in(out).items(), key=lambda item: -item[1])[:2]
    assert lines[1:3] == [f"  {probability:.4f}  {label}" for label, probability in best]


def test_files_that_cannot_be_used_are_named_and_the_others_go_on(call: Call, model: str, sounds: dict[str, str]):
    files = [sounds["broken.wav"], sounds["one.wav"]]
    status, out, error = call(model, *files)
    assert status == 1
    assert [line for line in out.splitlines() if not line.startswith(" ")] == [files[1]]
    assert error.startswith(f"raysem: {files[0]}: undecodable: ")
    assert error.count("\n") == 1
    status, out, error = call(model, *files, "--json")
    assert (status, error) == (1, "")
    found = [json.loads(line) for line in out.splitlines()]
    assert found[0].keys() == {"file", "error"}
    assert found[1].keys() == {"file", "labels", "model"}
    assert f"raysem: {files[0]}: undecodable: " in users_mistake(call(model, files[0]))


def test_the_baseline_knows_its_own_labels_and_takes_no_others(call: Call, baseline: str, sounds: dict[str, str]):
    _, out, _ = call(baseline, sounds["one.wav"], "--json")
    scores_K = load_classifier(baseline).score_waveforms(samples_of(sounds["one.wav"])[None])[0]
    assert found_in(out) == pytest.approx(dict(zip(LABELS, scores_K.tolist(), strict=True)), abs=1e-6)
    assert [found["prompts"] for found in json.loads(out)["labels"]] == [[]] * 4
    refused = users_mistake(call(baseline, sounds["one.wav"], "--labels", "dog, siren"))
    assert refused.startswith(f"raysem: --labels: {baseline} is a baseline without text, a linear layer over the 4")
    refused = users_mistake(call(baseline, sounds["one.wav"], "--template", "a {label}"))
    assert "--template needs a classifier that reads prompts" in refused


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--labels", ""), "--labels: holds no label; give at least two"),
        (("--labels", "dog"), "--labels: holds only 'dog', which would have probability 1; give at least two"),
        (("--labels", "dog,,cat"), "--labels: label 2 of 3 is empty ('')"),
        (("--labels", "dog, cat, Dog"), "--labels: labels 'dog' and 'Dog' have the same prompt 'the sound of dog'"),
        (("--labels", "犬, 猫"), "--labels: labels '犬' and '猫' are the same to the text encoder of this model"),
        (("--labels", "@"), "--labels @: holds no label"),
        (("--labels", "@nowhere.txt"), "--labels @nowhere.txt: no such file"),
        (("--labels", "@/"), "--labels @/: no such file"),
        (("--template", "a dog"), "--template: templates: a prompt template holds {label}, got 'a dog'"),
        (("--template", "{label}", "--template", "{label}"), "prompt template '{label}' is written twice"),
        (
            ("--labels", "dog, the dog", "--template", "{label}", "--template", "the {label}"),
            "--labels: labels 'dog' and 'the dog' have the same prompt 'the dog'",
        ),
    ],
)
def test_labels_and_prompts_of_no_use_are_one_line(
    call: Call, model: str, sounds: dict[str, str], options: tuple[str, ...], reason: str
):
    assert reason in users_mistake(call(model, sounds["one.wav"], *options))


def test_a_file_of_labels_of_no_use_is_named(call: Call, model: str, sounds: dict[str, str], tmp_path: Path):
    file = tmp_path / "labels.txt"
    for content, reason in (
        (b"\n \n", "holds no label; give at least two"),
        (b"dog\n", "holds only 'dog'"),
        (b"dog\n\xff\xfe", "not a text in UTF-8"),
    ):
        file.write_bytes(content)
        said = users_mistake(call(model, sounds["one.wav"], "--labels", f"@{file}"))
        assert said.startswith(f"raysem: --labels @{file}: {reason}")


def test_a_wrong_model_is_one_line(call: Call, model: str, sounds: dict[str, str], bert_folder: Path, tmp_path: Path):
    sound = sounds["one.wav"]
    assert "neither a classifier (no config.json) nor the output of a run" in users_mistake(call(str(tmp_path), sound))
    assert "--fold 2: " in users_mistake(call(model, sound, "--fold", "2"))
    storage.write_json(str(tmp_path / "tagger" / "config.json"), {"format": "raysem-tagger-1"})
    assert "is a tagger" in users_mistake(call(str(tmp_path / "tagger"), sound))
    classifier = tiny_classifier(bert_folder)
    with torch.no_grad():
        classifier.logit_scale.fill_(torch.nan)
    save_classifier(str(tmp_path / "nan"), classifier)
    assert f"{tmp_path}/nan: the score of class 0 is nan" in users_mistake(call(str(tmp_path / "nan"), sound))


def test_a_fold_of_a_classifier_of_a_run_is_found(
    call: Call, sounds: dict[str, str], bert_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run, expected = str(tmp_path), {}
    stages = [Stage(f"classifier/{name}/fold{fold}", lambda _: {}) for name in ("mean", "cscm") for fold in (1, 2)]
    write_plan(stages, run, {})
    for seed, stage in enumerate(stages):
        folder = storage.join(stage.folder(run), "model")
        save_classifier(folder, tiny_classifier(bert_folder, seed=seed))
        storage.write_json(storage.join(stage.folder(run), DONE), {})
        expected[stage.name] = load_classifier(folder).fingerprint()
    assert len(set(expected.values())) == 4
    _, out, _ = call(run, sounds["one.wav"], "--model", "cscm", "--fold", "2", "--json")
    assert json.loads(out)["model"] == expected["classifier/cscm/fold2"]
    with caplog.at_level("INFO", logger="raysem"):
        _, out, _ = call(run, sounds["one.wav"], "--model", "cscm", "--json")
    assert json.loads(out)["model"] == expected["classifier/cscm/fold1"]
    assert "classifier cscm: the model tested on fold 1 is taken (finished: 1, 2; --fold chooses)" in caplog.text
    several = users_mistake(call(run, sounds["one.wav"]))
    assert f"{run}: has the classifiers mean, cscm; say which one with --model" in several
