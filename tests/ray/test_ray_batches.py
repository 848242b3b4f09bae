"""Batches through Ray Data: the bits of the threads' batches, from any step, on any rank, with their errors."""

from __future__ import annotations

import gc
import io
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import soundfile
import torch

from raysem import tables
from raysem.audio.augment import AugmentSettings
from raysem.audio.load import AudioSettings
from raysem.audio.logmel import LogMelSettings
from raysem.errors import RaysemError, StorageError
from raysem.models.checkpoint import load_model
from raysem.models.clap import ClapSettings
from raysem.text.encoder import TextEncoderSettings
from raysem.training import ray_batches
from raysem.training.clips import ClipLoader
from raysem.training.examples import CaptionedCrops, Examples
from raysem.training.loader import BatchLoader, ClipBatch
from raysem.training.plan import BatchPlan, StepPlan
from raysem.training.ray_batches import ClusterBatches, cpus_per_task
from raysem.training.ray_worker import WorkerSettings, run_training
from raysem.training.settings import TrainingSettings
from raysem.training.spec import TrainingSpec, train_in_process
from raysem.training.table import TextColumn, TrainingTable
from raysem.training.tag_examples import MixupSettings, TaggedCrops

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

SAMPLE_RATE, CROP_SAMPLES, BATCH, STEPS = 8000, 2000, 24, 9
AUDIO = AudioSettings(sample_rate=SAMPLE_RATE)


def wav_bytes(seconds: float, seed: int) -> bytes:
    generator, time_T = np.random.default_rng(seed), np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    samples_T = 0.2 * np.sin(2 * np.pi * 200 * (1 + seed % 7) * time_T) + 0.05 * generator.standard_normal(len(time_T))
    buffer = io.BytesIO()
    soundfile.write(buffer, samples_T, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def write_clips(path: Path, num_clips: int, **instead: dict[str, Any]) -> str:
    """Clips of 0.2 to 0.4 s with two captions and two labels, in row groups of 5; `instead` by clip id."""
    rows = []
    for index in range(num_clips):
        name = f"{path.stem}_{index:03d}"
        content = wav_bytes(0.2 + 0.05 * (index % 5), index)
        row = {"clip_id": name, "audio": {"bytes": content, "path": None}}
        texts = [f"a {('dog', 'cat', 'rain')[index % 3]} sounds loud", f"the {('siren', 'dog')[index % 2]} falls"]
        rows.append(row | {"captions": texts, "labels": texts} | instead.get(name, {}))
    table = tables.conform(pa.Table.from_pylist(rows), tables.CLIPS, str(path))
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table, path, row_group_size=5)
    return str(path)


def loader(*files: str, texts: TextColumn = "captions", memory_mib: int = 64) -> ClipLoader:
    found = [TrainingTable([file], texts=texts, memory_mib=memory_mib, name=Path(file).stem) for file in files]
    return ClipLoader(found, audio=AUDIO, cache_mib=64)


def captioned(clips: ClipLoader) -> CaptionedCrops:
    return CaptionedCrops(clips, CROP_SAMPLES, 5)


def plan_of(clips: ClipLoader, *, batch_size: int = BATCH, parts: int = 1) -> StepPlan:
    """Of one table, or of a main table and a replay set that serves half of the steps."""
    assert all(isinstance(table, TrainingTable) for table in clips.tables)
    plans = [
        BatchPlan(seed=7, block_rows=table.block_rows, batch_size=batch_size, parts=parts,
                  window_blocks=table.window_blocks)  # type: ignore[attr-defined]
        for table in clips.tables
    ]  # fmt: skip
    replay = plans[1] if len(plans) > 1 else None
    return StepPlan(plans[0], replay, seed=3, num_steps=100, replay_probability=0.5 if replay else 0.0)


def assert_same(one: list[ClipBatch], two: list[ClipBatch]) -> None:
    for left, right in zip(one, two, strict=True):
        assert left.waveform_BT.numpy().tobytes() == right.waveform_BT.numpy().tobytes()
        assert [list(texts.items()) for texts in left.texts] == [list(texts.items()) for texts in right.texts]
        assert (left.clip_ids, left.source, left.unusable, left.num_mixed) == (
            right.clip_ids, right.source, right.unusable, right.num_mixed
        )  # fmt: skip


def assert_same_batches(plan: StepPlan, examples: Examples, first: int, end: int, **how: Any) -> list[ClipBatch]:
    ours = ClusterBatches(plan, examples, **how).batches(first, end)
    seen: list[ClipBatch] = []
    for step in zip(ours, BatchLoader(plan, examples, **how).batches(first, end), strict=True):
        assert_same(*step)
        seen += step[0]
    return seen


@pytest.mark.parametrize("rank", [0, 1])
def test_pairs_of_two_ranks_are_those_of_threads_also_where_executions_meet(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ray_batches, "CLIPS_PER_EXECUTION", 5 * BATCH // 2)
    clips = loader(write_clips(tmp_path / "main.parquet", 40), write_clips(tmp_path / "replay.parquet", 30))
    plan = plan_of(clips, parts=2)
    seen = assert_same_batches(plan, captioned(clips), 0, STEPS, rank=rank, world_size=2, parts=2)
    assert len(seen) == 2 * STEPS
    assert {batch.source for batch in seen} == {0, 1}


def test_tags_with_mixup_of_a_table_read_by_row_group_go_on_from_a_step_in_the_middle(tmp_path: Path):
    clips = loader(write_clips(tmp_path / "main.parquet", 40), texts="labels", memory_mib=0)
    assert not clips.tables[0].in_memory  # type: ignore[attr-defined]
    augmentation = AugmentSettings(gain_db=(-6.0, 6.0), time_shift_seconds=0.02)
    examples = TaggedCrops(clips, CROP_SAMPLES, 5, augmentation, MixupSettings(probability=0.5))
    seen = assert_same_batches(plan_of(clips), examples, 4, STEPS)
    assert len(seen) == STEPS - 4
    assert all(0 < batch.num_mixed < BATCH for batch in seen)


def test_a_clip_that_cannot_be_used_is_replaced_and_counted_alike(tmp_path: Path):
    broken = {f"main_{index:03d}": {"audio": {"bytes": b"no audio", "path": None}} for index in (3, 4, 17)}
    for memory_mib in (64, 0):
        clips = loader(write_clips(tmp_path / "main.parquet", 25, **broken), memory_mib=memory_mib)
        seen = assert_same_batches(plan_of(clips), captioned(clips), 0, 4)
        assert {clip.clip_id for batch in seen for clip in batch.unusable} == set(broken)


@pytest.mark.fault
def test_a_clip_that_kills_its_decoder_is_replaced_like_one_that_is_not_there(tmp_path: Path):
    found, expected = (
        loader(write_clips(tmp_path / name / "main.parquet", 25, main_003={"audio": {"bytes": None, "path": path}}))
        for name, path in (("crashes", "faulty://abort/a"), ("absent", "/no/such/file.wav"))
    )
    plan = plan_of(found)
    ours, others = ClusterBatches(plan, captioned(found)), BatchLoader(plan, captioned(expected))
    outcomes: set[str] = set()
    for (batch,), (other,) in zip(ours.batches(0, 2), others.batches(0, 2), strict=True):
        assert batch.waveform_BT.numpy().tobytes() == other.waveform_BT.numpy().tobytes()
        assert batch.clip_ids == other.clip_ids
        assert [clip.clip_id for clip in batch.unusable] == [clip.clip_id for clip in other.unusable]
        outcomes |= {clip.outcome for clip in batch.unusable}
    assert outcomes == {"crashed_decoder"}


def test_what_cannot_be_reached_is_one_error_at_the_step_that_needs_it(tmp_path: Path):
    away = {"main_013": {"audio": {"bytes": None, "path": "nosuchscheme://bucket/a.wav"}}}
    clips = loader(write_clips(tmp_path / "main.parquet", 40, **away))
    plan = plan_of(clips, batch_size=4)

    def until_the_error(batches: Iterator[list[ClipBatch]]) -> tuple[int, type, str]:
        steps: list[Any] = []
        with pytest.raises(RaysemError) as raised:
            deque(map(steps.append, batches), maxlen=0)
        return len(steps), type(raised.value), str(raised.value)

    expected = until_the_error(BatchLoader(plan, captioned(clips)).batches(0, 10))
    assert expected[1] is StorageError
    assert expected[0] > 0
    assert until_the_error(ClusterBatches(plan, captioned(clips)).batches(0, 10)) == expected
    gone = loader(write_clips(tmp_path / "gone.parquet", 40), memory_mib=0)
    (tmp_path / "gone.parquet").unlink()
    found = until_the_error(ClusterBatches(plan_of(gone), captioned(gone)).batches(0, 10))
    assert found == until_the_error(BatchLoader(plan_of(gone), captioned(gone)).batches(0, 10))
    assert "gone.parquet: no such file" in found[2]


def stored_bytes() -> float:
    """In the object store, now that no task runs."""
    gc.collect()  # a pipeline of another test that failed holds its actors until then
    for _ in range(150):
        free, whole = ray.available_resources(), ray.cluster_resources()
        if free.get("CPU") == whole["CPU"]:
            return whole["object_store_memory"] - free["object_store_memory"]
        time.sleep(0.2)
    raise AssertionError(f"of {whole} only {free} are free")


def settled_bytes() -> float:
    """The same once nothing goes any more of what other tests left there."""
    found = stored_bytes()
    for _ in range(30):
        time.sleep(2)
        before, found = found, stored_bytes()
        if found == before:
            return found
    raise AssertionError(f"{before} and then {found} bytes")


def wait_until(is_so: Callable[[], bool]) -> None:
    """For half a minute: what Ray says of its store comes late."""
    for _ in range(150):
        if is_so():
            return
        time.sleep(0.2)
    raise AssertionError(stored_bytes())


def test_closing_the_batches_gives_back_what_they_held(tmp_path: Path):
    clips = loader(write_clips(tmp_path / "main.parquet", 40), memory_mib=0)
    batch_bytes = BATCH * CROP_SAMPLES * 4
    before, free = settled_bytes(), ray.available_resources().get("CPU", 0.0)
    batches = ClusterBatches(plan_of(clips), captioned(clips)).batches(0, 100)
    assert len(list(islice(batches, 2))) == 2
    wait_until(lambda: stored_bytes() > before + 3 * batch_bytes)
    held = stored_bytes()
    assert held < before + 20 * batch_bytes, "a few are made ahead, not all 100"
    batches.close()
    # When the store lets its blocks go is for Ray's garbage collection to say.
    wait_until(lambda: ray.available_resources().get("CPU", 0.0) >= free)
    assert list(ClusterBatches(plan_of(clips), captioned(clips)).batches(5, 5)) == []


def test_tasks_take_a_whole_cpu_where_the_ranks_leave_one(caplog: pytest.LogCaptureFixture):
    assert cpus_per_task(64, 8) == cpus_per_task(2, 1) == 1
    assert cpus_per_task(2, 1.5) == 0.5
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert cpus_per_task(2, 2) == 1
    assert "the training processes reserve all 2 CPUs" in caplog.text


def test_a_training_decoded_by_the_cluster_leaves_the_weights_of_one_that_decodes_itself(
    tmp_path: Path, bert_folder: Path
):
    broken = {"main_003": {"audio": {"bytes": b"no audio", "path": None}}}

    def spec(decode: str) -> TrainingSpec:
        return TrainingSpec(
            output=str(tmp_path / decode),
            sources=(write_clips(tmp_path / "main.parquet", 24, **broken),),
            held_out=(write_clips(tmp_path / "held_out.parquet", 8),),
            seed=3,
            model=ClapSettings(
                audio_encoder="cnn14_tiny", audio_channels=(4, 4, 4, 8, 16, 32), embedding_dropout=0.1,
                log_mel=LogMelSettings(
                    sample_rate=SAMPLE_RATE, window_samples=256, hop_samples=160, num_mels=32, max_hz=SAMPLE_RATE / 2
                ),
                crop_seconds=0.8, embedding_width=16, text=TextEncoderSettings(name=str(bert_folder), max_tokens=16),
            ),
            training=TrainingSettings(
                steps=4, batch_size=8, learning_rate=1e-3, evaluate_every_steps=2, checkpoint_every_steps=2,
                torch_threads=1, tensorboard=False, max_unusable_share=0.5, decode=decode,
            ),
        )  # fmt: skip

    alone = train_in_process(spec("worker"), device="cpu")
    found = run_training(spec("cluster"), WorkerSettings(cpus_per_worker=0.5, max_failures=0))
    expected = load_model(alone.model).state_dict()
    for name, tensor in load_model(found.model).state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert found.history == alone.history
    assert (found.clips_loaded, found.clips_unusable) == (alone.clips_loaded, alone.clips_unusable)
    assert np.isfinite(found.best_metrics["held_out_loss"])
