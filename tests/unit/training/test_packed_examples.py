"""Examples as rows of a table: the same to the bit when they come out, and errors where they were."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tiny_training import run_tiny, tiny_settings, write_pairs

from raysem.errors import ConfigError, DataError, RaysemError, StageError, StorageError
from raysem.training.context import TrainingStorageError
from raysem.training.examples import Example
from raysem.training.packed_examples import PACKED, packed_examples, place_table, unpacked_examples
from raysem.training.rejects import UnusableClip
from raysem.training.settings import TrainingSettings

ODD_T = np.array([0.0, -0.0, np.nan, np.inf, 1e-45, np.float32(1) / 3], np.float32)
LOST = UnusableClip("clip-9", "undecodable", "a\nb")


@dataclass
class FewExamples:
    """Those that it is given by row; what is no example is raised."""

    found: dict[int, Any]
    clips: Any = None
    crop_samples: int = 6
    asked: list[tuple[int, int, int]] = field(default_factory=list)

    def reading(self, clips: Any) -> FewExamples:
        raise NotImplementedError

    def example(self, source: int, row: int, epoch: int) -> Example:
        self.asked.append((source, row, epoch))
        if isinstance(self.found[row], BaseException):
            raise self.found[row]
        return self.found[row]


GOOD = {
    0: Example(ODD_T, {"a dog": 1.0}, "clip-0", ()),
    1: Example(ODD_T[::-1].copy(), {"Rain": 0.25, "Bark": 1.0, "Ähm": 1 / 3}, "clip-1", (LOST, LOST), num_clips=2),
    2: Example(np.zeros(6, np.float32), {}, "clip-2", (LOST,)),
}


def packed(found: dict[int, Any], rows: list[int]) -> pa.Table:
    return packed_examples(FewExamples(found), place_table((0, row, 7) for row in rows))


def through_a_file(table: pa.Table) -> pa.Table:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return pa.ipc.open_stream(sink.getvalue()).read_all()


def test_examples_come_out_as_they_went_in_to_the_bit():
    table = through_a_file(packed(GOOD, [1, 0, 2, 1]))
    assert table.schema.equals(PACKED)
    for example, row in zip(unpacked_examples(table), [1, 0, 2, 1], strict=True):
        assert example.crop_T.dtype == np.float32
        assert example.crop_T.tobytes() == GOOD[row].crop_T.tobytes()
        assert list(example.texts.items()) == list(GOOD[row].texts.items())
        assert (example.clip_id, example.unusable, example.num_clips) == (
            GOOD[row].clip_id, GOOD[row].unusable, GOOD[row].num_clips
        )  # fmt: skip


def test_places_reach_the_examples_in_order():
    places = [(1, 2, 3 << 40), (0, 1, 5), (1, 0, 0)]
    examples = FewExamples(GOOD)
    packed_examples(examples, place_table(iter(places)))
    assert examples.asked == places
    assert packed([], []).num_rows == 0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (StageError("21 clips in a row"), StageError),
        (StorageError("s3://bucket: no credentials"), StorageError),
        (DataError("x.parquet: no column"), DataError),
        (TrainingStorageError("s3://bucket: gone"), StorageError),
    ],
)
def test_an_error_comes_where_its_example_would_have_and_as_itself(error: RaysemError, kind: type[RaysemError]):
    table = through_a_file(packed({**GOOD, 3: error}, [0, 1, 3, 2]))
    assert table.num_rows == 3, "nothing is made after it"
    found = unpacked_examples(table)
    assert [next(found).clip_id, next(found).clip_id] == ["clip-0", "clip-1"]
    with pytest.raises(kind) as raised:
        next(found)
    assert type(raised.value) is kind
    assert str(raised.value) == str(error)


def test_what_is_no_error_of_ours_is_raised_at_once():
    with pytest.raises(ZeroDivisionError):
        packed({0: ZeroDivisionError()}, [0])


def test_crops_of_another_type_are_refused():
    with pytest.raises(ValueError, match="crops are float32, got float64"):
        packed({0: Example(np.zeros(6), {}, "clip", ())}, [0])


def test_outside_a_cluster_its_cpus_are_refused_in_one_line(tmp_path: Path):
    write_pairs(tmp_path / "main.parquet", 16)
    write_pairs(tmp_path / "held_out.parquet", 8, prefix="held")
    with pytest.raises(ConfigError, match=r"^training\.decode: cluster needs a run on Ray"):
        run_tiny(tmp_path / "out", data=tmp_path, settings=tiny_settings(decode="cluster"))


def test_where_clips_are_decoded_does_not_count_as_another_run():
    assert TrainingSettings(decode="cluster").what_counts() == TrainingSettings().what_counts()
