from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from raysem import storage
from raysem.audio.load import AudioSettings
from raysem.audio.logmel import LogMelSettings
from raysem.config import plain
from raysem.corpora.shards import write_shards
from raysem.curation.neighbour_shards import NeighbourShards, neighbour_shards
from raysem.errors import UserError
from raysem.ledger import DoneRecord, Ledger
from raysem.models.checkpoint import save_model
from raysem.models.clap import Clap, ClapSettings
from raysem.models.start import build_clap
from raysem.runs.clip_search import search
from raysem.tables import CAPTIONS, CLIPS, embeddings_schema
from raysem.text.encoder import TextEncoderSettings

RATE = 8000
TEXTS = ["a dog barks", "rain falls", "a loud siren", "a cat"]


@pytest.fixture(scope="module")
def model(bert_folder: Path) -> Clap:
    settings = ClapSettings(
        audio_encoder="cnn14_tiny",
        audio_channels=(4, 4, 4, 8, 8, 16),
        log_mel=LogMelSettings(sample_rate=RATE, window_samples=256, hop_samples=100, num_mels=32, max_hz=3900),
        crop_seconds=1.0,
        text=TextEncoderSettings(name=str(bert_folder), max_tokens=30),
        embedding_width=24,
    )
    return build_clap(settings, seed=0)


class Run:
    """The files of a run that has come as far as its embeddings: 7 clips of 1 to 3 seconds in 3 shards, 4 captions."""

    def __init__(self, folder: Path, model: Clap, num_crops: int = 2):
        self.output, self.model, self.num_crops = str(folder), model, num_crops
        names, rows = [f"clip_{i}" for i in range(7)], []
        random = np.random.default_rng(0)
        for number, name in enumerate(names):
            seconds = 1 + number % 3
            tone = np.sin(np.arange(seconds * RATE) * (0.05 + 0.2 * number)) * np.linspace(0.1, 1, seconds * RATE)
            (folder / "audio").mkdir(parents=True, exist_ok=True)
            path = folder / "audio" / f"{name}.wav"
            soundfile.write(path, (0.5 * tone + 0.05 * random.standard_normal(len(tone))).clip(-1, 1), RATE, "FLOAT")
            rows.append({"clip_id": name, "audio": {"bytes": None, "path": str(path)}, "start_seconds": None})
        rows[4] |= {"start_seconds": 0.5, "duration_seconds": 1.0}
        self.rows = rows
        clips = storage.join(self.output, "corpora/wild/c0")
        write_shards([pa.Table.from_pylist(rows, schema=CLIPS)], storage.join(clips, "clips"), rows_per_shard=3)
        save_model(self.at("teacher/t0/model"), model)
        self.write_model(self.at("teacher/t0/model"), model)
        self.audio_AD = np.concatenate([self.embed(row["audio"]["path"]) for row in rows])
        self.write_embeddings("e0", self.audio_AD)
        self.write_plan("e0")

    def at(self, *parts: str) -> str:
        return storage.join(self.output, *parts)

    def write_model(self, location: str, model: Clap) -> None:
        about = {"source": {"kind": "raysem", "location": location}, "fingerprint": model.fingerprint()}
        storage.write_json(self.at("teacher/t0/model.json"), about)

    def embed(self, path: str) -> np.ndarray:
        """As the embedding stage does: crops at the start and the end of a longer clip, their mean made a unit row."""
        samples_T, _ = soundfile.read(path, dtype="float32")
        crops = [samples_T[:RATE]] if len(samples_T) == RATE else [samples_T[:RATE], samples_T[-RATE:]]
        mean_D = self.model.embed_waveforms(np.stack(crops)).mean(axis=0)
        return (mean_D / np.linalg.norm(mean_D))[None]

    def write_embeddings(self, digest: str, rows_AD: np.ndarray, finished: str = "2026-01-01T00:00:00Z") -> None:
        ledger = Ledger(self.at("embed/wild", digest))
        names = [row["clip_id"] for row in self.rows]
        for number, start in enumerate(range(0, 7, 3)):
            block = rows_AD[start : start + 3]
            columns = [
                pa.array(names[start : start + 3]),
                pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), 24),
            ]
            table = pa.table(columns, schema=embeddings_schema("clip_id", 24, {}))
            ledger.finish(DoneRecord(f"shard_{number:05d}", len(block), {"kept": len(block)}), {"shards": table})
        done = {
            "settings": {"embed": {"num_crops": self.num_crops}, "audio": plain(AudioSettings())},
            "inputs": {"corpora/wild": "c0", "teacher": "t0"},
            "finished": finished,
        }
        storage.write_json(self.at("embed/wild", digest, "_done.json"), done)

    def write_plan(self, digest: str) -> None:
        stages = [{"name": "embed/wild", "digest": digest}, {"name": "match", "digest": "m0"}]
        storage.write_json(self.at("run.json"), {"stages": stages, "recipe": {}})

    def write_neighbours(self) -> np.ndarray:
        """The captions' stages and the neighbour tables; the captions' embeddings."""
        text_CD = self.model.embed_texts(TEXTS)
        rows = [{"caption_id": f"c{i}", "text": text, "source": ""} for i, text in enumerate(TEXTS)]
        table = pa.Table.from_pylist(rows, schema=CAPTIONS)
        storage.write_table(self.at("captions/p0/captions/shard_00000.parquet"), table)
        folder = self.at("embed/captions/x0")
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(text_CD.ravel()), 24)
        table = pa.table([table["caption_id"].combine_chunks(), vectors], embeddings_schema("caption_id", 24, {}))
        Ledger(folder).finish(DoneRecord("shard_00000", 4, {"kept": 4}), {"shards": table})
        storage.write_json(storage.join(folder, "_done.json"), {"inputs": {"captions": "p0"}})
        work = NeighbourShards(self.at("embed/wild/e0"), folder, 2)
        for name in neighbour_shards(self.at("embed/wild/e0"), folder):
            Ledger(self.at("neighbours/n0")).finish(*work(name))
        done = {"inputs": {"embed/wild": "e0", "embed/captions": "x0"}, "finished": "2026-01-01T00:00:00Z"}
        storage.write_json(self.at("neighbours/n0/_done.json"), done)
        return text_CD


@pytest.fixture
def run(tmp_path: Path, model: Clap) -> Run:
    return Run(tmp_path / "run", model)


def test_a_text_finds_the_clips_in_the_order_of_their_cosines(run: Run):
    cosine_A = run.audio_AD @ run.model.embed_texts(["a dog barks in the rain"])[0]
    found = search(run.output, "a dog barks in the rain", 4)
    order = np.argsort(-cosine_A)[:4]
    assert [row["clip_id"] for row in found] == [f"clip_{i}" for i in order]
    np.testing.assert_allclose([row["similarity"] for row in found], cosine_A[order], atol=1e-6)
    assert [row["path"] for row in found] == [run.rows[i]["audio"]["path"] for i in order]
    assert list(found[0]) == [
        "similarity",
        "clip_id",
        "path",
        "start_seconds",
        "duration_seconds",
        "caption",
        "caption_similarity",
    ]
    assert found[0]["caption"] is None  # the neighbours are not looked up yet


def test_a_clip_of_the_pool_finds_itself(run: Run):
    for row in run.rows:
        found = search(run.output, row["audio"]["path"], 1)[0]
        assert found["clip_id"] == row["clip_id"]
        assert found["similarity"] == pytest.approx(1, abs=1e-6)


def test_more_clips_than_there_are_gives_all_of_them_with_their_segments(run: Run):
    found = search(run.output, "rain", 100)
    assert sorted(row["clip_id"] for row in found) == [row["clip_id"] for row in run.rows]
    segments = {row["clip_id"]: (row["start_seconds"], row["duration_seconds"]) for row in found}
    assert segments["clip_4"] == (0.5, 1.0)
    assert segments["clip_3"] == (None, None)


def test_the_nearest_caption_comes_along_once_it_is_known(run: Run):
    text_CD = run.write_neighbours()
    for row in search(run.output, "a loud siren", 7):
        cosine_C = text_CD @ run.audio_AD[int(row["clip_id"][-1])]
        assert row["caption"] == TEXTS[int(cosine_C.argmax())]
        assert row["caption_similarity"] == pytest.approx(cosine_C.max(), abs=1e-6)


def test_a_run_that_was_moved_is_searched_with_its_own_weights(run: Run, tmp_path: Path):
    before = [row["clip_id"] for row in search(run.output, "a cat", 3)]
    Path(run.output).rename(tmp_path / "moved")
    assert [row["clip_id"] for row in search(str(tmp_path / "moved"), "a cat", 3)] == before


def test_embeddings_of_the_present_recipe_come_first_then_the_newest(run: Run):
    run.write_embeddings("e1", np.roll(run.audio_AD, 1, axis=0), finished="2026-03-01T00:00:00Z")
    run.write_embeddings("e2", np.roll(run.audio_AD, 2, axis=0), finished="2026-02-01T00:00:00Z")
    path = run.rows[0]["audio"]["path"]
    assert search(run.output, path, 1)[0]["clip_id"] == "clip_0"
    run.write_plan("not_embedded_yet")
    assert search(run.output, path, 1)[0]["clip_id"] == "clip_1"


def test_what_cannot_be_searched_is_one_clear_line(run: Run, tmp_path: Path):
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(RATE), RATE)
    (tmp_path / "text.wav").write_text("no sound")
    for query, message in [
        (str(silent), "silent.wav: cannot be searched for .silent: peak 0"),
        (str(tmp_path / "text.wav"), "cannot be searched for .undecodable"),
        ("dog.wav", "dog.wav: no such file"),
        ("  ", "the query is empty"),
    ]:
        with pytest.raises(UserError, match=message):
            search(run.output, query, 3)
    with pytest.raises(UserError, match="-k 0: at least one clip"):
        search(run.output, "rain", 0)


def test_a_folder_that_is_no_run_and_a_run_without_embeddings_are_named(run: Run, tmp_path: Path):
    with pytest.raises(UserError, match=r"no run\.json there; not the output of a run"):
        search(str(tmp_path), "rain", 1)
    storage.delete(run.at("embed/wild/e0/_done.json"))
    with pytest.raises(UserError, match="no finished embeddings to search; run the job up to them first"):
        search(run.output, "rain", 1)


def test_other_weights_than_those_of_the_embeddings_are_refused(run: Run):
    other = build_clap(run.model.settings, seed=1)
    save_model(run.at("teacher/t0/model"), other)
    with pytest.raises(UserError, match="these weights have fingerprint"):
        search(run.output, "rain", 1)
    storage.delete(run.at("teacher/t0"))
    with pytest.raises(UserError, match="the run's teacher is gone"):
        search(run.output, "rain", 1)
