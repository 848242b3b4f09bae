from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from raysem.sweeps.trial import Trial, TrialRecord, TrialRecords

TRIAL = Trial({"a.b": 0.5, "c": [1, {"d": None}]}, 3)


@pytest.fixture
def records(tmp_path: Path) -> TrialRecords:
    return TrialRecords(str(tmp_path))


def test_a_record_reads_back_as_itself(records: TrialRecords):
    record = replace(
        TrialRecord.begun(TRIAL), status="finished", metric=0.25, curve=[{"step": 5, "metric": 0.25}],
        stages={"match": "reused"}, seconds=1.5, facts={"pairs": 3},
    )  # fmt: skip
    records.write(record)
    assert records.read(TRIAL.id) == record
    assert records.all() == {TRIAL.id: record}
    assert record.trial == TRIAL
    assert record.trial.id == TRIAL.id


def test_what_was_never_begun_or_was_cut_short_is_no_record(records: TrialRecords, tmp_path: Path):
    assert records.read(TRIAL.id) is None
    records.write(TrialRecord.begun(TRIAL))
    (tmp_path / "trials" / f"{TRIAL.id}.json").write_text('{"id": ')
    assert records.read(TRIAL.id) is None
    assert records.all() == {}


def test_a_stopped_trial_keeps_the_last_metric_and_is_not_tried_again(records: TrialRecords):
    records.write(TrialRecord.begun(TRIAL))
    curve = [{"step": 5, "metric": 0.5}, {"step": 10, "metric": 0.25}]
    ended = records.end(TRIAL.id, "stopped", "by the scheduler", curve)
    assert ended == records.read(TRIAL.id)
    assert ended is not None
    assert (ended.metric, ended.is_final, ended.curve) == (0.25, True, curve)


def test_a_failed_trial_has_no_metric_and_is_tried_again(records: TrialRecords):
    records.write(TrialRecord.begun(TRIAL))
    ended = records.end(TRIAL.id, "failed", "out of memory", [{"step": 5, "metric": 0.5}])
    assert ended is not None
    assert (ended.metric, ended.is_final, ended.reason) == (None, False, "out of memory")


def test_a_record_that_says_how_it_ended_is_left_as_it_is(records: TrialRecords):
    finished = replace(TrialRecord.begun(TRIAL), status="finished", metric=0.75)
    records.write(finished)
    assert records.end(TRIAL.id, "stopped", "by the scheduler", []) == finished
    assert records.read(TRIAL.id) == finished
    assert records.end("nobody", "failed", "x", []) is None


def test_settings_with_other_seeds_are_other_trials():
    assert len({Trial(TRIAL.params, seed).id for seed in (None, 0, 1)}) == 3
