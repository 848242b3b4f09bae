"""`raysem tag`: files by a tagger from its folder or from a run; what people, programs and the shell are told."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch

from raysem import cli, storage
from raysem.audio.logmel import LogMelSettings
from raysem.models.checkpoint import save_model
from raysem.models.clap import ClapSettings
from raysem.models.start import build_clap
from raysem.models.tagger import Tagger, TaggerSettings, build_tagger
from raysem.models.tagger_checkpoint import load_tagger, save_tagger
from raysem.stages import DONE, Stage, write_plan
from raysem.tables import CLIPS
from raysem.text.encoder import TextEncoderSettings

RATE = 8000
NAMES = ("Bark", "Hiss", "Domestic animals, pets", "Rain", "Zwölf", "Siren")
IDS = tuple(f"/m/{name[0].lower()}" for name in NAMES)
PARENTS = {"Bark": ["Dog"], "Hiss": ["Animal", "Cat", "Steam"], "Rain": ["Water"], "Siren": ["Alarm"]}
Call = Callable[..., tuple[int, str, str]]


def tiny_tagger(seed: int = 0) -> Tagger:
    """Of one-second crops at 8 kHz; its batch norms have seen noise, so clips differ."""
    front_end = {"sample_rate": RATE, "window_samples": 256, "hop_samples": 160, "num_mels": 32, "max_hz": 3900.0}
    network = {"channels": (2, 2, 4, 4, 8, 8), "num_mels": 32}
    settings = TaggerSettings(encoder="cnn14_tiny", front_end=front_end, network=network, crop_seconds=1.0)
    tagger = build_tagger(settings, NAMES, IDS, None, seed=seed)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)  # of the dropout, too
        noise_BT = 0.1 * torch.randn((8, RATE))
        for _ in range(30):
            tagger.train()(noise_BT * torch.linspace(0.1, 1, 8)[:, None])
    return tagger.eval()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("tagger"))
    save_tagger(folder, tiny_tagger(), {"step": 7, "parents": PARENTS})
    return folder


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of one crop, of 2.5 crops, of less than one; one that is no audio, one that is not there."""
    folder = tmp_path_factory.mktemp("sounds")
    random = np.random.default_rng(0)
    for name, seconds in (("one.wav", 1.0), ("long.flac", 2.5), ("short.wav", 0.4)):
        samples_T = 0.2 * random.standard_normal(int(seconds * RATE)) * np.linspace(0.1, 1, int(seconds * RATE))
        soundfile.write(folder / name, samples_T.clip(-1, 1), RATE, "PCM_16")
    (folder / "broken.wav").write_bytes(b"not audio\n at all" * 50)
    return {name: str(folder / name) for name in ("one.wav", "long.flac", "short.wav", "broken.wav", "absent.wav")}


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs the console script; gives (status, standard output, standard error)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["raysem", "tag", *arguments])
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


def expected_scores(model: str, *crops_T: np.ndarray) -> dict[str, float]:
    """By name, the mean of the crops scored one by one."""
    tagger = load_tagger(model)
    mean_K = np.mean([tagger.score_waveforms(crop_T[None])[0] for crop_T in crops_T], axis=0)
    return dict(zip(NAMES, mean_K.tolist(), strict=True))


def samples_of(file: str) -> np.ndarray:
    samples_T, rate = soundfile.read(file, dtype="float32")
    assert rate == RATE
    return samples_T


def tags_by_name(line: str) -> dict[str, float]:
    return {tag["name"]: tag["probability"] for tag in json.loads(line)["tags"]}


def test_programs_get_an_object_a_line_with_the_best_classes_first(call: Call, model: str, sounds: dict[str, str]):
    status, out, error = call(model, sounds["one.wav"], sounds["short.wav"], "--json")
    assert (status, error) == (0, "")
    first, second = map(json.loads, out.splitlines())
    assert [first["file"], second["file"]] == [sounds["one.wav"], sounds["short.wav"]]
    expected = expected_scores(model, samples_of(sounds["one.wav"]))
    ranked = sorted(NAMES, key=lambda name: -expected[name])[:5]
    assert [tag["name"] for tag in first["tags"]] == ranked
    for tag in first["tags"]:
        assert tag.keys() == {"name", "id", "probability", "parents"}
        assert tag["id"] == IDS[NAMES.index(tag["name"])]
        assert tag["probability"] == pytest.approx(expected[tag["name"]], abs=1e-6)
        assert tag["parents"] == PARENTS.get(tag["name"], [])
    assert first["tags"] != second["tags"]


def test_a_short_file_is_repeated_until_it_fills_the_crop(call: Call, model: str, sounds: dict[str, str]):
    samples_T = samples_of(sounds["short.wav"])
    repeated_T = np.concatenate([samples_T] * 3)[:RATE]
    _, out, _ = call(model, sounds["short.wav"], "--json", "--top", "6")
    assert tags_by_name(out) == pytest.approx(expected_scores(model, repeated_T), abs=1e-6)


def test_of_a_long_file_the_middle_is_heard_or_the_mean_of_even_crops(call: Call, model: str, sounds: dict[str, str]):
    samples_T = samples_of(sounds["long.flac"])
    places = {1: [6000], 3: [0, 6000, 12000]}
    found = {}
    for crops, starts in places.items():
        _, out, _ = call(model, sounds["long.flac"], "--json", "--top", "6", "--crops", str(crops))
        found[crops] = tags_by_name(out)
        expected = expected_scores(model, *(samples_T[start : start + RATE] for start in starts))
        assert found[crops] == pytest.approx(expected, abs=1e-6)
    assert max(abs(found[1][name] - found[3][name]) for name in NAMES) > 1e-4


def test_people_read_the_probability_the_class_and_its_parents(call: Call, model: str, sounds: dict[str, str]):
    status, out, error = call(model, sounds["one.wav"], sounds["long.flac"], "--top", "6")
    assert (status, error) == (0, "")
    lines = out.splitlines()
    assert lines[0] == sounds["one.wav"]
    assert lines[7] == f"{sounds['long.flac']}  (1.0 s of 2.5 s heard; --crops takes more)"
    expected = expected_scores(model, samples_of(sounds["one.wav"]))
    said = {"Bark": "Bark  (Dog)", "Hiss": "Hiss  (Animal; Cat; Steam)", "Rain": "Rain  (Water)"}
    ranked = sorted(NAMES, key=lambda name: -expected[name])
    for line, name in zip(lines[1:7], ranked, strict=True):
        probability, _, rest = line.strip().partition("  ")
        assert float(probability) == pytest.approx(expected[name], abs=6e-5)
        assert rest == said.get(name, "Siren  (Alarm)" if name == "Siren" else name)
    _, out, _ = call(model, sounds["long.flac"], "--crops", "3")
    assert out.splitlines()[0] == sounds["long.flac"]


def test_a_model_that_knows_no_parents_names_none(call: Call, sounds: dict[str, str], tmp_path: Path):
    save_tagger(str(tmp_path), tiny_tagger())
    _, out, _ = call(str(tmp_path), sounds["one.wav"], "--json")
    assert [tag["parents"] for tag in json.loads(out)["tags"]] == [[]] * 5


def test_classes_below_the_threshold_are_left_out(call: Call, model: str, sounds: dict[str, str]):
    expected = expected_scores(model, samples_of(sounds["one.wav"]))
    second, third = sorted(expected.values(), reverse=True)[1:3]
    _, out, _ = call(model, sounds["one.wav"], "--threshold", str((second + third) / 2), "--json")
    assert len(json.loads(out)["tags"]) == 2
    status, out, _ = call(model, sounds["one.wav"], "--threshold", "1")
    assert status == 0
    assert out.splitlines() == [sounds["one.wav"], "  no class reaches the threshold"]


def test_files_that_cannot_be_used_are_named_and_the_others_go_on(call: Call, model: str, sounds: dict[str, str]):
    files = [sounds[name] for name in ("broken.wav", "one.wav", "absent.wav", "short.wav")]
    status, out, error = call(model, *files)
    assert status == 1
    assert [line for line in out.splitlines() if not line.startswith(" ")] == [files[1], files[3]]
    reasons = error.splitlines()
    assert len(reasons) == 2
    assert reasons[0].startswith(f"raysem: {files[0]}: undecodable: ")
    assert reasons[1] == f"raysem: {files[2]}: missing: [Errno 2] No such file or directory: '{files[2]}'"
    status, out, error = call(model, *files, "--json")
    assert (status, error) == (1, "")
    found = [json.loads(line) for line in out.splitlines()]
    assert [line.keys() - {"file"} for line in found] == [{"error"}, {"tags"}] * 2
    assert [line["file"] for line in found] == files
    assert found[0]["error"].startswith("undecodable: ")


def test_nothing_usable_is_status_2(call: Call, model: str, sounds: dict[str, str], tmp_path: Path):
    assert f"raysem: {sounds['broken.wav']}: undecodable: " in users_mistake(call(model, sounds["broken.wav"]))
    status, out, error = call(model, sounds["broken.wav"], str(tmp_path))
    assert (status, out) == (2, "")
    assert error.splitlines()[1:] == [
        f"raysem: {tmp_path}: missing: is not a file",
        "raysem: none of the 2 files can be used",
    ]
    status, out, error = call(model, sounds["broken.wav"], sounds["absent.wav"], "--json")
    assert (status, error) == (2, "raysem: none of the 2 files can be used\n")
    assert [json.loads(line)["error"].split(":")[0] for line in out.splitlines()] == ["undecodable", "missing"]


def test_a_wrong_model_is_one_line(call: Call, model: str, sounds: dict[str, str], bert_folder: Path, tmp_path: Path):
    sound = sounds["one.wav"]
    assert "neither a tagger (no config.json) nor the output of a run" in users_mistake(call(str(tmp_path), sound))
    assert "neither a tagger" in users_mistake(call(sound, sound))
    settings = ClapSettings(
        audio_encoder="cnn14_tiny",
        audio_channels=(4, 4, 4, 8, 8, 16),
        log_mel=LogMelSettings(sample_rate=RATE, window_samples=256, hop_samples=100, num_mels=32, max_hz=3900),
        crop_seconds=1.0,
        text=TextEncoderSettings(name=str(bert_folder), max_tokens=30),
        embedding_width=24,
    )
    save_model(str(tmp_path / "clap"), build_clap(settings, seed=0))
    assert "is a CLAP model" in users_mistake(call(str(tmp_path / "clap"), sound))
    storage.write_json(str(tmp_path / "half" / "config.json"), storage.read_json(f"{model}/config.json"))
    assert "model.safetensors: is missing" in users_mistake(call(str(tmp_path / "half"), sound))


def test_a_model_whose_scores_are_no_numbers_is_an_error(call: Call, sounds: dict[str, str], tmp_path: Path):
    tagger = tiny_tagger()
    assert tagger.classifier is not None
    with torch.no_grad():
        tagger.classifier.bias[2] = torch.nan
    save_tagger(str(tmp_path), tagger)
    assert f"{tmp_path}: the score of class 2 is nan" in users_mistake(call(str(tmp_path), sounds["one.wav"]))


def made_run(folder: Path, *names: str, finished: tuple[str, ...]) -> str:
    """The files of a `train_spa` run: a tagger of a seed of its own for each finished name."""
    stages = [Stage(f"tagger/{name}", lambda _: {}, settings=name) for name in names]
    write_plan([Stage("classes", lambda _: {}), *stages], str(folder), {})
    for seed, stage in enumerate(stages):
        if stage.name.removeprefix("tagger/") in finished:
            save_tagger(storage.join(stage.folder(str(folder)), "model"), tiny_tagger(seed))
            storage.write_json(storage.join(stage.folder(str(folder)), DONE), {})
    return str(folder)


def test_a_tagger_of_a_run_is_found_by_its_name(call: Call, sounds: dict[str, str], tmp_path: Path):
    run = made_run(tmp_path, "one_hot", "obce", "spa", finished=("one_hot", "obce"))
    for seed, name in enumerate(("one_hot", "obce")):
        save_tagger(str(tmp_path / "same"), tiny_tagger(seed))
        expected = expected_scores(str(tmp_path / "same"), samples_of(sounds["one.wav"]))
        status, out, _ = call(run, sounds["one.wav"], "--model", name, "--json", "--top", "6")
        assert status == 0
        assert tags_by_name(out) == pytest.approx(expected, abs=1e-6)
    several = users_mistake(call(run, sounds["one.wav"]))
    assert f"{run}: has the taggers one_hot, obce; say which one with --model" in several
    unfinished = users_mistake(call(run, sounds["one.wav"], "--model", "spa"))
    assert "tagger spa is not finished; run the job up to it (--until tagger/spa)" in unfinished
    unknown = users_mistake(call(run, sounds["one.wav"], "--model", "bce"))
    assert "--model bce: " in unknown
    assert "no such tagger; there are one_hot, obce, spa" in unknown


def test_the_only_finished_tagger_of_a_run_needs_no_name(
    call: Call, sounds: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run = made_run(tmp_path / "one", "tagger", finished=("tagger",))
    assert call(run, sounds["one.wav"])[0] == 0
    run = made_run(tmp_path / "two", "one_hot", "spa", finished=("spa",))
    with caplog.at_level("INFO", logger="raysem"):
        assert call(run, sounds["one.wav"])[0] == 0
    assert "only spa is finished, which is used" in caplog.text


def test_runs_without_a_tagger_are_told_apart(call: Call, model: str, sounds: dict[str, str], tmp_path: Path):
    run = made_run(tmp_path / "none", "one_hot", finished=())
    assert "tagger one_hot is not finished" in users_mistake(call(run, sounds["one.wav"]))
    write_plan([Stage("teacher", lambda _: {})], str(tmp_path / "clap"), {})
    assert "a run that trains no tagger" in users_mistake(call(str(tmp_path / "clap"), sounds["one.wav"]))
    storage.write_text(str(tmp_path / "torn" / "run.json"), '{"stages": [')
    assert "run.json: not readable" in users_mistake(call(str(tmp_path / "torn"), sounds["one.wav"]))
    named = users_mistake(call(model, sounds["one.wav"], "--model", "spa"))
    assert "--model spa: " in named
    assert "is one model" in named


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "give audio files to tag, or a table of them with --clips"),
        (("a.wav", "--clips", "t.parquet", "--output", "out"), "not both"),
        (("a.wav", "--output", "out"), "go with --clips"),
        (("a.wav", "--address", "auto"), "go with --clips"),
        (("a.wav", "--max-failed-share", "0.1"), "go with --clips"),
        (("--clips", "t.parquet"), "--clips needs --output"),
    ],
)
def test_options_that_do_not_fit_together_are_one_line(call: Call, model: str, arguments: tuple[str, ...], reason: str):
    assert reason in users_mistake(call(model, *arguments))


def clip_row(clip_id: str | None, file: str = "x.wav") -> dict[str, object]:
    return {"clip_id": clip_id, "audio": {"bytes": None, "path": file}}


def test_a_wrong_clips_table_is_one_line_before_there_is_a_cluster(call: Call, model: str, tmp_path: Path):
    def reason(table: str) -> str:
        return users_mistake(call(model, "--clips", str(tmp_path / table), "--output", str(tmp_path / "out")))

    def write(name: str, table: pa.Table) -> str:
        storage.write_table(str(tmp_path / name), table)
        return name

    assert "nothing: no clips table there" in reason("nothing")
    assert "nothing.parquet: no such file" in reason("nothing.parquet")
    assert "no column 'audio'" in reason(write("names.parquet", pa.table({"clip_id": ["a"]})))
    twice = pa.Table.from_pylist([clip_row("a"), clip_row("a")], schema=CLIPS)
    assert "clip 'a' also stands in" in reason(write("twice.parquet", twice))
    unnamed = pa.Table.from_pylist([clip_row(None)], schema=CLIPS)
    assert "clip_id is None" in reason(write("unnamed.parquet", unnamed))
    assert "empty.parquet: holds no clip" in reason(write("empty.parquet", CLIPS.empty_table()))
    assert not (tmp_path / "out").exists()


def test_an_output_of_something_else_is_left_alone(call: Call, model: str, tmp_path: Path):
    storage.write_table(str(tmp_path / "t.parquet"), pa.Table.from_pylist([clip_row("a")], schema=CLIPS))
    arguments = (model, "--clips", str(tmp_path / "t.parquet"), "--output")
    storage.write_json(str(tmp_path / "stage" / "done" / "t.json"), {"shard": "t", "rows": 1})
    assert "no job.json says of what" in users_mistake(call(*arguments, str(tmp_path / "stage")))
    about = {
        "model": {"fingerprint": "0" * 64}, "clips": {"digest": "0"}, "num_crops": 1, "audio": {},
    }  # fmt: skip
    storage.write_json(str(tmp_path / "other" / "job.json"), about)
    other = users_mistake(call(*arguments, str(tmp_path / "other")))
    assert "its tags are of another model and clips table and way of loading clips; give another output" in other
    storage.write_text(str(tmp_path / "torn" / "job.json"), "{")
    assert "job.json: not readable" in users_mistake(call(*arguments, str(tmp_path / "torn")))
