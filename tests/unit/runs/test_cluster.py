from __future__ import annotations

import socket

import pytest

from raysem.errors import UserError
from raysem.runs.cluster import ClusterSettings, check_reachable, check_workers


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "localhost:{}"])
def test_an_address_where_nobody_listens_is_one_line(free_port: int, form: str):
    address = form.format(free_port)
    with pytest.raises(UserError, match=f"^cluster.address {address}: nobody answers there"):
        check_workers(ClusterSettings(address=address))


def test_the_environment_s_address_is_named_as_such(free_port: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port}")
    with pytest.raises(UserError, match=r"^RAY_ADDRESS 127\."):
        check_reachable(ClusterSettings())


def test_a_port_that_cannot_be_is_one_line_too():
    with pytest.raises(UserError, match="nobody answers"):
        check_reachable(ClusterSettings(address="127.0.0.1:99999"))


def test_an_address_where_somebody_listens_passes():
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_reachable(ClusterSettings(address=f"127.0.0.1:{server.getsockname()[1]}"))


def test_a_form_that_only_ray_knows_is_left_to_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for address in ("auto", "local", None):
        check_reachable(ClusterSettings(address=address))
