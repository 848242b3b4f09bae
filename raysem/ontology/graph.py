"""An ontology of sound classes in the JSON form that AudioSet's is published in. Gemmeke et al., ICASSP 2017.

A list of nodes: `id`, `name`, `description`, `child_ids`, `restrictions` (`abstract`: a heading that no clip is given
with; `blacklist`: not used as a label). A node may have several parents; AudioSet has 632 nodes, 670 edges and 7 top
nodes. Only `id` and `name` must be there.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from raysem import storage
from raysem.errors import DataError
from raysem.ontology.distances import OntologyDistances


@dataclass(frozen=True, slots=True)
class OntologyNode:
    """One class; `parent_ids` are in the order of the file."""

    id: str
    name: str
    description: str = ""
    child_ids: tuple[str, ...] = ()
    parent_ids: tuple[str, ...] = ()
    restrictions: tuple[str, ...] = ()


class Ontology:
    """The nodes by id, in the order of the file; immutable.

    Args:
        content: the parsed JSON.
        where: the file, for messages.

    Raises:
        DataError: an id or edge that cannot be: twice, unknown, in a circle.
    """

    def __init__(self, content: Sequence[Mapping[str, Any]], where: str = "ontology"):
        self._where = where
        self.nodes: Mapping[str, OntologyNode] = _linked(content, where)
        self._ids_of_name: dict[str, list[str]] = {}
        for node in self.nodes.values():
            self._ids_of_name.setdefault(node.name, []).append(node.id)
        self._refuse_circles()

    @property
    def tops(self) -> tuple[OntologyNode, ...]:
        """The nodes without a parent."""
        return tuple(node for node in self.nodes.values() if not node.parent_ids)

    @property
    def num_edges(self) -> int:
        """Parent-child edges."""
        return sum(len(node.child_ids) for node in self.nodes.values())

    def find(self, name_or_id: str) -> OntologyNode:
        """The node with this id or name; capitals and spaces around do not matter where it is clear what is meant.

        Raises:
            DataError: none, with the names that look like it; or several nodes of that name.
        """
        if name_or_id in self.nodes:
            return self.nodes[name_or_id]
        wanted = name_or_id.strip().lower()
        ids = self._ids_of_name.get(name_or_id) or [
            id for name, ids in self._ids_of_name.items() if name.lower() == wanted for id in ids
        ]
        if len(ids) == 1:
            return self.nodes[ids[0]]
        if ids:
            raise DataError(f"{self._where}: {name_or_id!r} is the name of {', '.join(ids)}; say the id")
        by_lower = {name.lower(): name for name in self._ids_of_name}
        close = [by_lower[name] for name in difflib.get_close_matches(wanted, by_lower, n=3)]
        close += [name for name in self._ids_of_name if wanted and wanted in name.lower() and name not in close][:3]
        hint = f"; near it are {', '.join(map(repr, close))}" if close else ""
        raise DataError(f"{self._where}: no class {name_or_id!r}{hint}")

    def paths_to(self, node: OntologyNode) -> list[tuple[OntologyNode, ...]]:
        """Every way from a top node down to `node`, both included."""
        if not node.parent_ids:
            return [(node,)]
        return [(*path, node) for parent in node.parent_ids for path in self.paths_to(self.nodes[parent])]

    def shortest_path(self, one: OntologyNode, other: OntologyNode) -> list[OntologyNode]:
        """Nodes from `one` to `other`, both included, one edge apart (or one root apart, see `OntologyDistances`)."""
        path = [one]
        while path[-1].id != other.id:
            here = path[-1]
            left = self.distances.distance(here.id, other.id)
            beside = [*here.parent_ids, *here.child_ids]
            steps = [id for id in beside if self.distances.distance(id, other.id) == left - 1]
            steps = steps or [top.id for top in self.tops if self.distances.distance(top.id, other.id) == left - 2]
            path.append(self.nodes[steps[0]])
        return path

    @cached_property
    def distances(self) -> OntologyDistances:
        """Between all nodes; computed once (a quarter of a second for AudioSet's)."""
        return OntologyDistances.of_graph({node.id: node.child_ids for node in self.nodes.values()})

    def _refuse_circles(self) -> None:
        waiting = {node.id: len(node.parent_ids) for node in self.nodes.values()}
        free = [id for id, count in waiting.items() if not count]
        while free:
            for child in self.nodes[free.pop()].child_ids:
                waiting[child] -= 1
                if not waiting[child]:
                    free.append(child)
        circular = [self.nodes[id].name for id, count in waiting.items() if count]
        if circular:
            raise DataError(
                f"{self._where}: {circular[0]!r} is below itself ({len(circular)} nodes are in or below it)"
            )


def read_ontology(location: str) -> Ontology:
    """The ontology in a JSON file, local or remote."""
    return Ontology(read_nodes(location), location)


def read_nodes(location: str) -> list[dict]:
    """The nodes as published, not linked."""
    try:
        content = storage.read_json(location)
    except FileNotFoundError:
        raise DataError(f"{location}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{location}: not valid JSON ({error})") from error
    if not isinstance(content, list) or not all(
        isinstance(node, dict) and {"id", "name"} <= set(node) for node in content
    ):
        raise DataError(f"{location}: expected a list of nodes with id and name")
    return content


def _linked(content: Sequence[Mapping[str, Any]], where: str) -> dict[str, OntologyNode]:
    if not content:
        raise DataError(f"{where}: holds no class")
    parents: dict[str, list[str]] = {}
    for index, node in enumerate(content):
        if not all(isinstance(node[key], str) and node[key].strip() for key in ("id", "name")):
            raise DataError(
                f"{where}: node {index}: id and name must be texts, got {node['id']!r} and {node['name']!r}"
            )
        if node["id"] in parents:
            raise DataError(f"{where}: node {index}: the id {node['id']!r} was used before")
        parents[node["id"]] = []
    for node, children in ((node, _texts(node, "child_ids", where)) for node in content):
        for child in children:
            if child not in parents:
                raise DataError(f"{where}: {node['name']!r} has a child {child!r} that is no node")
            parents[child].append(node["id"])
    return {node.id: node for node in _nodes(content, parents, where)}


def _nodes(
    content: Sequence[Mapping[str, Any]], parents: Mapping[str, list[str]], where: str
) -> Iterator[OntologyNode]:
    for node in content:
        description = node.get("description") or ""
        if not isinstance(description, str):
            raise DataError(f"{where}: the description of {node['name']!r} is {description!r}, expected a text")
        yield OntologyNode(
            id=node["id"],
            name=node["name"],
            description=" ".join(description.split()),
            child_ids=_texts(node, "child_ids", where),
            parent_ids=tuple(parents[node["id"]]),
            restrictions=_texts(node, "restrictions", where),
        )


def _texts(node: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    values = node.get(key) or []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise DataError(f"{where}: {key} of {node['name']!r} is {values!r}, expected a list of texts")
    if len(set(values)) < len(values):
        raise DataError(f"{where}: {key} of {node['name']!r} names something twice")
    return tuple(values)
