"""A small ontology in AudioSet's form, AudioSet's own where it is there, and the reference vectors of OmAP and OBCE."""

from __future__ import annotations

import json
import os
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faulty_store
import fsspec
import numpy as np
import pytest
from faulty_store import FaultyStore

REPOSITORY = Path(__file__).parents[2]


def node(id: str, name: str, children: str = "", restrictions: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "id": id,
        "name": name,
        "description": f"The sound of {name.lower()} in the air.",
        "citation_uri": "",
        "positive_examples": [],
        "child_ids": children.split(),
        "restrictions": list(restrictions),
    }


SMALL_ONTOLOGY = [
    node("/a", "Animal", "/dog /cat /hiss", ("abstract",)),
    node("/dog", "Dog", "/bark"),
    node("/bark", "Bark"),
    node("/cat", "Cat", "/hiss"),
    node("/hiss", "Hiss"),
    node("/t", "Things", "/siren /steam", ("abstract",)),
    node("/siren", "Siren"),
    node("/steam", "Steam", "/hiss"),
]
"""Two trees that `Hiss` joins; its parents are Animal, Cat and Steam."""


@pytest.fixture
def small_ontology_file(tmp_path: Path) -> Path:
    folder = tmp_path / "ontology"
    folder.mkdir()
    (folder / "ontology.json").write_text(json.dumps(SMALL_ONTOLOGY))
    return folder / "ontology.json"


@pytest.fixture(scope="session")
def audioset_metadata() -> Path:
    """The folder with AudioSet's ontology and class list, below RAYSEM_SHARED_DATA or ../shared/data."""
    folder = Path(os.environ.get("RAYSEM_SHARED_DATA", REPOSITORY.parent / "shared" / "data")) / "audioset"
    if not (folder / "ontology.json").exists():
        pytest.skip(f"AudioSet's ontology is not at {folder}; set RAYSEM_SHARED_DATA")
    return folder


@pytest.fixture(scope="session")
def audioset_distances(audioset_metadata: Path) -> np.ndarray:
    """distance_KK of the 527 classes."""
    from raysem.ontology.source import OntologySettings, load_classes, load_ontology

    settings = OntologySettings(file=str(audioset_metadata))
    ontology = load_ontology(settings)
    return ontology.distances.between([node.id for node in load_classes(ontology, settings)])


@pytest.fixture(scope="session")
def reference(audioset_metadata: Path) -> dict[str, np.ndarray]:
    """OmAP and OBCE by their authors' code; its key `note` says how."""
    file = audioset_metadata.parents[1] / "docs" / "reference" / "omap_reference_A.npz"
    if not file.exists():
        pytest.skip(f"the reference vectors are not at {file}; set RAYSEM_SHARED_DATA")
    with np.load(file) as vectors:
        return dict(vectors)


@pytest.fixture(scope="module")
def store_server() -> Iterator[FaultyStore]:
    """An S3 server on the loopback that fails when it is told to."""
    with faulty_store.started() as store:
        yield store


@pytest.fixture
def bucket(store_server: FaultyStore, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """A bucket of this test's own. Nothing but the loopback can be reached; nothing of the user's set-up is read."""
    store_server.enter(monkeypatch)
    look_up = socket.getaddrinfo

    def only_loopback(host: str, *arguments: Any, **keywords: Any) -> Any:
        assert host in ("127.0.0.1", b"127.0.0.1"), f"a test asked for {host}"
        return look_up(host, *arguments, **keywords)

    monkeypatch.setattr(socket, "getaddrinfo", only_loopback)
    fsspec.filesystem("s3").clear_instance_cache()
    yield store_server.create_bucket(f"b{zlib.crc32(request.node.name.encode())}")
    fsspec.filesystem("s3").clear_instance_cache()
