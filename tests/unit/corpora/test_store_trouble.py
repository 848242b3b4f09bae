"""A store that refuses is named as such by the readers of tables, not taken for a damaged file."""

from __future__ import annotations

from collections.abc import Callable

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from raysem.corpora.sources import open_parquet, open_text
from raysem.corpora.webdataset import read_webdataset
from raysem.errors import StorageError


class Refusing(MemoryFileSystem):
    protocol = "refusing"

    def _open(self, path, *arguments, **options):  # type: ignore[no-untyped-def]
        raise PermissionError("no access to this bucket")


@pytest.fixture(autouse=True)
def _scheme() -> None:
    fsspec.register_implementation("refusing", Refusing, clobber=True)


def _text(location: str) -> None:
    with open_text(location):
        pass


def _parquet(location: str) -> None:
    with open_parquet(location):
        pass


@pytest.mark.parametrize(
    ("read", "name"),
    [(_text, "a.csv"), (_parquet, "a.parquet"), (lambda location: list(read_webdataset(location)), "a.tar")],
)
def test_a_store_that_refuses_is_not_a_damaged_file(read: Callable[[str], None], name: str):
    with pytest.raises(StorageError, match=r"cannot be reached or used .*no access to this bucket"):
        read(f"refusing://bucket/{name}")
