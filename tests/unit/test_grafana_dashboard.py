"""cluster/grafana: the dashboard asks for what raysem's workers count, and for metrics that Ray has."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from raysem.curation.ray_metrics import DECLARED

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "cluster" / "grafana" / "raysem.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
RAY_DASHBOARD = Path(ray.__file__).parent / "dashboard"


def metrics_of(query: str) -> set[str]:
    return set(re.findall(r"\bray_[a-z0-9_]+", query))


def test_the_dashboard_and_the_workers_name_the_same_metrics():
    asked = {name for query in QUERIES for name in metrics_of(query) if name.startswith("ray_raysem_")}
    assert asked <= {name for declared in DECLARED for name in declared.exported}
    assert [declared.name for declared in DECLARED if not asked & set(declared.exported)] == []


def test_a_query_groups_and_filters_by_tags_that_the_metric_has():
    tags = {name: set(declared.tags) for declared in DECLARED for name in declared.exported}
    for query in QUERIES:
        for name in metrics_of(query) & tags.keys():
            (grouped,) = re.findall(r"by \(([^)]*)\)", query)
            filtered = re.findall(r"(\w+)=~", query)
            assert {*grouped.split(", "), *filtered} <= tags[name] | {"le", "SessionName"}, query


def test_every_other_metric_is_one_of_the_installed_ray():
    known = (RAY_DASHBOARD / "modules" / "metrics" / "dashboards" / "default_dashboard_panels.py").read_text()
    reported = (RAY_DASHBOARD / "modules" / "reporter" / "reporter_agent.py").read_text()
    others = {name for query in QUERIES for name in metrics_of(query) if not name.startswith("ray_raysem_")}
    assert others
    absent = {
        name
        for name in others
        if not re.search(rf"\b{name}\b", known) and f'"{name.removeprefix("ray_")}"' not in reported
    }
    assert absent == set()


def test_counters_are_shown_as_rates_and_brackets_close():
    for query in QUERIES:
        assert query.count("(") == query.count(")")
        assert query.count("{") == query.count("}")
        for name in metrics_of(query):
            if name.startswith("ray_raysem_"):
                assert re.search(rf"rate\({name}{{[^}}]*}}\[\$__rate_interval\]\)", query), query


def test_the_data_source_is_a_variable_that_whoever_loads_it_chooses():
    assert (
        DASHBOARD["templating"]["list"][0] | {"type": "datasource", "query": "prometheus", "name": "datasource"}
        == (DASHBOARD["templating"]["list"][0])
    )
    sources = [part["datasource"] for part in [*PANELS, *DASHBOARD["templating"]["list"][1:]]]
    sources += [target["datasource"] for panel in PANELS for target in panel["targets"]]
    assert {source["uid"] for source in sources} == {"${datasource}"}
    used = set(re.findall(r'"\$(\w+)"', json.dumps(QUERIES).replace('\\"', '"')))
    assert used == {variable["name"] for variable in DASHBOARD["templating"]["list"][1:]}


def test_panels_have_numbers_of_their_own_and_do_not_overlap():
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    for one, other in itertools.combinations([panel["gridPos"] for panel in DASHBOARD["panels"]], 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y


@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_prometheus_finds_the_pods_by_labels_and_a_port_that_they_have(name: str):
    monitor, policy = yaml.safe_load_all((ROOT / "cluster" / "grafana" / "kuberay.yaml").read_text())
    spec = yaml.safe_load((ROOT / "cluster" / "kuberay" / f"{name}.yaml").read_text())["spec"]
    cluster = spec["rayClusterSpec"] if name == "rayjob" else spec
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert policy["spec"]["podSelector"]["matchLabels"] == wanted
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        assert wanted.items() <= group["template"]["metadata"]["labels"].items()
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"][:1]
    ports = {port["name"]: port["containerPort"] for port in head["ports"]}
    (scraped,) = monitor["spec"]["podMetricsEndpoints"]
    (opened,) = policy["spec"]["ingress"][0]["ports"]
    assert ports[scraped["port"]] == opened["port"]
