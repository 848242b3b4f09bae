"""Whatever a table, a corpus or a checkpoint brings is read as data; if not, each test springs a real trap."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
import yaml

from raysem import storage
from raysem.config import Settings, load_recipe, parse_override
from raysem.corpora.macs import read_macs
from raysem.corpora.parquet import ParquetOptions, read_parquet
from raysem.corpora.webdataset import read_webdataset
from raysem.errors import ConfigError, DataError, UserError
from raysem.models.checkpoint import load_model
from raysem.models.importers.ast import load_ast
from raysem.models.importers.clap2022 import load_clap2022
from raysem.models.importers.hf_clap import load_hf_clap
from raysem.models.importers.pth import read_state_dict
from raysem.text.encoder import TextEncoder, TextEncoderSettings
from raysem.training.checkpoints import CheckpointFolder

SOURCES = Path(storage.__file__).parent


def torch_file(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def with_data_pickle(bomb: bytes) -> bytes:
    """A torch file whose own `data.pkl` is the bomb."""
    whole, changed = zipfile.ZipFile(io.BytesIO(torch_file({"a": torch.zeros(2)}))), io.BytesIO()
    with zipfile.ZipFile(changed, "w") as out:
        for member in whole.infolist():
            out.writestr(member.filename, bomb if member.filename.endswith("data.pkl") else whole.read(member))
    return changed.getvalue()


FORMS: dict[str, Callable] = {
    "pickle": lambda trap, bomb: bomb,
    "torch": lambda trap, bomb: torch_file({"model": {"a": torch.zeros(2)}, "args": trap}),
    "data.pkl": lambda trap, bomb: with_data_pickle(bomb),
    "legacy": lambda trap, bomb: b"".join(
        pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, trap, [])
    ),
}


@pytest.mark.parametrize("suffix", ["pth", "pt", "ckpt", "bin"])
@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_checkpoint_of_others_runs_no_code(trap, bomb: bytes, tmp_path: Path, form: str, suffix: str):
    file = tmp_path / f"model.{suffix}"
    file.write_bytes(FORMS[form](trap, bomb))
    with pytest.raises(DataError, match=r"cannot be read with weights_only=True"):
        read_state_dict(str(file), key="teacher.location")


def test_an_array_of_objects_within_a_checkpoint_runs_no_code(trap, tmp_path: Path):
    objects = np.empty(1, dtype=object)
    objects[0] = trap
    (tmp_path / "a.pth").write_bytes(torch_file({"sampler": objects}))
    with pytest.raises(DataError, match="weights_only=True"):
        read_state_dict(str(tmp_path / "a.pth"), key="k")


def test_arrays_that_panns_keeps_beside_its_weights_are_still_read(tmp_path: Path):
    (tmp_path / "a.pth").write_bytes(torch_file({"model": {"a": torch.ones(2)}, "sampler": {"i": np.arange(5)}}))
    assert read_state_dict(str(tmp_path / "a.pth"), key="k")["a"].tolist() == [1, 1]


def test_the_importer_of_clap_2022_refuses_code(trap, bomb: bytes, tmp_path: Path):
    (tmp_path / "clap.pth").write_bytes(FORMS["torch"](trap, bomb))
    with pytest.raises(DataError, match="weights_only"):
        load_clap2022(str(tmp_path / "clap.pth"))


@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_text_encoder_with_a_pickle_for_weights_runs_no_code(
    trap, bomb: bytes, tmp_path: Path, bert_folder: Path, form: str
):
    folder = shutil.copytree(bert_folder, tmp_path / "bert")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(FORMS[form](trap, bomb))
    with pytest.raises(DataError, match="the weights cannot be loaded"):
        TextEncoder(TextEncoderSettings(name=str(folder), max_tokens=30))


@pytest.mark.parametrize(
    "load",
    [lambda folder: TextEncoder(TextEncoderSettings(name=folder)), load_ast, load_hf_clap],
    ids=["text", "ast", "clap"],
)
def test_a_model_that_brings_its_own_code_is_refused_without_a_question(
    tmp_path: Path, bert_folder: Path, load: Callable, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # what transformers would ask for when nothing is said
    folder = shutil.copytree(bert_folder, tmp_path / "bert")
    mark = tmp_path / "sprung"
    (folder / "own.py").write_text(
        "from transformers import BertConfig\nfrom pathlib import Path\n"
        f"Path({str(mark)!r}).touch()\nclass Own(BertConfig):\n    model_type = 'own'\n"
    )
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="cannot be read"):
        load(str(folder))
    assert not mark.exists()


def test_a_checkpoint_of_training_runs_no_code(trap, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = tmp_path / "checkpoints/step_00000001"
    folder.mkdir(parents=True)
    contents = {
        "trained.safetensors": safetensors.torch.save({"a": torch.zeros(1)}),
        "training_state.pt": torch_file({"optimizer": trap}),
        "state.json": b'{"step": 1}',
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    (folder / "complete.json").write_text(json.dumps(digests))
    logger = logging.getLogger("raysem.training.checkpoints")
    logger.addHandler(caplog.handler)  # a job's own set-up may have cut raysem's loggers off the root
    try:
        assert CheckpointFolder(str(tmp_path / "checkpoints")).latest() is None
    finally:
        logger.removeHandler(caplog.handler)
    assert "training_state.pt: holds more than tensors; refused" in caplog.text


def test_a_model_of_ours_with_a_pickle_for_weights_is_refused(trap, bomb: bytes, tmp_path: Path, bert_folder: Path):
    (tmp_path / "model").mkdir()
    config = {"format": "raysem-clap-1", "settings": {}, "weights_sha256": "", "extra": {}}
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    (tmp_path / "model/model.safetensors").write_bytes(bomb)
    shutil.copytree(bert_folder, tmp_path / "model/text_encoder")
    with pytest.raises(UserError):
        load_model(str(tmp_path / "model"))


@pytest.mark.parametrize("place", ["column", "within a list", "within a struct"])
def test_a_parquet_column_of_pickles_is_refused_when_ray_data_would_open_them(bomb: bytes, tmp_path: Path, place: str):
    pytest.importorskip("ray.data")  # its import registers the type, and with it the unpickling
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType

    kind = ArrowPythonObjectType()
    pickles = kind.wrap_array(pa.array([bomb], pa.large_binary()))
    if place == "within a list":
        pickles = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), pickles)
    elif place == "within a struct":
        pickles = pa.StructArray.from_arrays([pickles], ["bytes"])
    pq.write_table(pa.table({"audio": pickles, "text": ["x"]}), tmp_path / "x.parquet")
    said = r"x\.parquet: column 'audio' is of the type ray\.data\.arrow_pickled_object, which runs code to be read"
    with pytest.raises(DataError, match=said):
        list(read_parquet(str(tmp_path / "x.parquet"), ParquetOptions(caption_column="text")))
    for read in (storage.read_table, storage.count_rows, lambda file: storage.read_rows(file, 0, 1)):
        with pytest.raises(DataError, match=said):
            read(str(tmp_path / "x.parquet"))


def test_metadata_of_ray_tensors_is_not_unpickled(bomb: bytes, tmp_path: Path):
    pytest.importorskip("ray.data")
    for name in (b"ray.data.arrow_tensor", b"ray.data.arrow_tensor_v2", b"ray.data.arrow_variable_shaped_tensor"):
        field = pa.field(
            "audio",
            pa.list_(pa.float32()),
            metadata={b"ARROW:extension:name": name, b"ARROW:extension:metadata": bomb},
        )
        schema = pa.schema([field])
        with pytest.raises((ValueError, TypeError)):  # said by Arrow as it meets the type, and by Ray for it
            _round_trip(pa.Table.from_arrays([pa.array([[1.0]], pa.list_(pa.float32()))], schema=schema), tmp_path)


def _round_trip(table: pa.Table, folder: Path) -> None:
    pq.write_table(table, folder / "t.parquet")
    storage.read_table(str(folder / "t.parquet"))


def test_members_of_a_tar_that_others_would_unpickle_are_passed_over(bomb: bytes, tmp_path: Path):
    import tarfile

    objects = io.BytesIO()
    np.save(objects, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    members = {"a.wav": b"RIFF", "a.pyd": bomb, "a.pickle": bomb, "a.pkl": bomb, "a.pth": bomb, "a.npy": bomb}
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name, content in (members | {"a.npz": objects.getvalue()}).items():
            information = tarfile.TarInfo(name)
            information.size = len(content)
            archive.addfile(information, io.BytesIO(content))
    (clip,) = read_webdataset(str(tmp_path))
    assert (clip.content, clip.captions, clip.labels) == (b"RIFF", (), ())


class Recipe(Settings):
    name: str = "x"


@pytest.mark.parametrize("tag", ["python/object/apply:pathlib.Path.touch", "python/object/new:pathlib.Path"])
def test_yaml_makes_no_objects(tmp_path: Path, tag: str):
    mark = tmp_path / "sprung"
    text = f"!!{tag} [!!{tag} [{mark}]]"
    (tmp_path / "r.yaml").write_text(f"name: {text}\n")
    with pytest.raises(ConfigError, match=r"r\.yaml: line 1: not valid YAML"):
        load_recipe(Recipe, tmp_path / "r.yaml")
    assert parse_override(f"name={text}") == ("name", text)
    (tmp_path / "audio").mkdir()
    (tmp_path / "MACS.yaml").write_text(f"files:\n- filename: {text}\n  annotations: []\n")
    with pytest.raises(DataError, match=r"MACS\.yaml: not valid YAML"):
        list(read_macs(str(tmp_path)))
    assert not mark.exists()
    with pytest.raises(yaml.YAMLError):
        yaml.load(text, Loader=yaml.SafeLoader)


@pytest.mark.parametrize(
    "word", ["pickle.load", "np.load(", "trust_remote_code=True", "weights_only=False", "allow_pickle"]
)
def test_no_file_of_ours_asks_for_unpickling(word: str):
    assert [file.name for file in SOURCES.rglob("*.py") if word in file.read_text()] == []


def test_every_torch_load_says_weights_only():
    for file in SOURCES.rglob("*.py"):
        for line in re.findall(r"(?<![\w.])torch\.load\(.*", file.read_text()):
            assert "weights_only=True" in line, file
