from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raysem.errors import DataError
from raysem.text import label_table as module
from raysem.text.encoder import TextEncoder, TextEncoderSettings
from raysem.text.label_table import LabelTable, label_table

NAMES, TEXTS = ("Dog", "Rain", "Siren"), ("a dog barks", "rain falls in the loud rain", "siren")


def settings(folder: Path, **changes: object) -> TextEncoderSettings:
    return TextEncoderSettings.model_validate({"name": str(folder), "max_tokens": 30} | changes)


def test_each_text_has_the_unit_vector_that_the_encoder_gives_it_alone(bert_folder: Path):
    table = label_table(NAMES, TEXTS, settings(bert_folder, trained=True))
    encoder = TextEncoder(settings(bert_folder)).eval()
    for text, row in zip(TEXTS, table.text_KD, strict=True):
        expected = F.normalize(encoder(encoder.tokenize([text])), dim=1)[0]
        torch.testing.assert_close(torch.from_numpy(row), expected, rtol=0, atol=1e-7)
    np.testing.assert_allclose(np.diag(table.similarity), 1, rtol=1e-6)


def test_the_table_is_made_once_and_then_read_to_the_bit(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = label_table(NAMES, TEXTS, settings(bert_folder), cache=str(tmp_path))
    monkeypatch.setattr(module, "TextEncoder", None)  # no encoder is loaded again
    again = label_table(NAMES, TEXTS, settings(bert_folder), cache=str(tmp_path))
    np.testing.assert_array_equal(again.text_KD, first.text_KD)
    assert (again.digest, again.names, again.texts) == (first.digest, NAMES, TEXTS)
    assert [file.name for file in tmp_path.iterdir()] == [f"{first.digest}.parquet"]


def test_other_words_another_encoder_or_another_pooling_make_another_table(bert_folder: Path, tmp_path: Path):
    copied = tmp_path / "copied"
    shutil.copytree(bert_folder, copied)
    base = label_table(NAMES, TEXTS, settings(bert_folder)).digest
    assert label_table(NAMES, TEXTS, settings(copied)).digest == base  # the same files elsewhere
    (copied / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    others = [
        label_table(NAMES, TEXTS, settings(copied)),
        label_table(NAMES, (*TEXTS[:2], "loud siren"), settings(bert_folder)),
        label_table(("Cat", *NAMES[1:]), TEXTS, settings(bert_folder)),
        label_table(NAMES, TEXTS, settings(bert_folder, pooling="cls")),
    ]
    assert len({base, *(table.digest for table in others)}) == 5


def test_neighbours_come_nearest_first_without_the_class_itself():
    text_KD = np.array([[1, 0], [0, 1], [0.6, 0.8], [0.8, 0.6]], dtype=np.float32)
    table = LabelTable(("a", "b", "c", "d"), ("", "", "", ""), text_KD, "")
    assert [(near.name, round(near.similarity, 6)) for near in table.neighbours("a", 2)] == [("d", 0.8), ("c", 0.6)]
    assert len(table.neighbours("a", 9)) == 3
    with pytest.raises(DataError, match="no class 'e'"):
        table.neighbours("e", 1)


def test_texts_that_are_cut_are_told(bert_folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch):
    monkeypatch.setattr(logging.getLogger("raysem"), "propagate", True)
    label_table(NAMES, TEXTS, settings(bert_folder, max_tokens=5))
    assert "2 of 3 class texts fill max_tokens (5)" in caplog.text


def test_a_cache_that_cannot_be_written_costs_time_only(bert_folder: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    table = label_table(NAMES, TEXTS, settings(bert_folder), cache=str(tmp_path / "file" / "folder"))
    assert table.text_KD.shape == (3, 32)


def test_names_and_texts_that_do_not_pair_up_are_refused(bert_folder: Path):
    with pytest.raises(ValueError, match="got 3 and 2"):
        label_table(NAMES, TEXTS[:2], settings(bert_folder))
    with pytest.raises(DataError, match="class 'Dog' is named twice"):
        label_table(("Dog", "Dog"), TEXTS[:2], settings(bert_folder))
