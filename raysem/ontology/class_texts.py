"""What a text encoder reads for each class: the ontology's description, the name, a sentence, or the user's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import field_validator

from raysem import storage
from raysem.config import Settings
from raysem.errors import ConfigError, DataError
from raysem.ontology.csv_rows import csv_rows
from raysem.ontology.graph import OntologyNode
from raysem.text.prompts import DEFAULT_TEMPLATE, PromptSettings, prompt

TABLE_COLUMNS = ("class", "description")


class ClassTextSettings(Settings):
    """The text that stands for a class. SPA takes the ontology's descriptions."""

    source: Literal["description", "name", "prompt", "table"] = "description"
    """`name` is the class's name as it is written; `prompt` puts it into `template`; `table` reads `table`."""
    template: str = DEFAULT_TEMPLATE
    """A sentence with `{label}` in it."""
    table: str = ""
    """csv with the columns class (name or id) and description; it must hold every class."""

    @field_validator("template")
    @classmethod
    def _has_its_place(cls, template: str) -> str:
        return PromptSettings(template=template).template


def class_texts(
    classes: Sequence[OntologyNode], settings: ClassTextSettings | None = None, *, key: str = "class_texts"
) -> tuple[str, ...]:
    """One text per class, in the order of `classes`.

    Args:
        key: dotted key of the settings, for messages.

    Raises:
        ConfigError: no table is named.
        DataError: a class has no description, or the table is not right.
    """
    settings = settings or ClassTextSettings()
    if settings.source == "name":
        return tuple(node.name for node in classes)
    if settings.source == "prompt":
        return tuple(prompt(node.name, settings.template) for node in classes)
    if settings.source == "table":
        if not settings.table:
            raise ConfigError(f"{key}.table: source is table, but no csv is named")
        return _from_table(storage.absolute(settings.table), classes)
    silent = [node.name for node in classes if not node.description]
    if silent:
        raise DataError(
            f"{key}.source: {len(silent)} of {len(classes)} classes have no description in the ontology, the first is "
            f"{silent[0]!r}; take name, prompt or a table"
        )
    return tuple(node.description for node in classes)


def _from_table(location: str, classes: Sequence[OntologyNode]) -> tuple[str, ...]:
    known = {name: node.id for node in classes for name in (node.id, node.name)}
    found: dict[str, str] = {}
    for place, row in csv_rows(location, TABLE_COLUMNS):
        name, words = row["class"], " ".join(row["description"].split())
        if name not in known:
            continue  # a table of the whole ontology may serve a part of its classes
        if known[name] in found:
            raise DataError(f"{place}: class {name!r} was described before")
        if not words:
            raise DataError(f"{place}: the description of {name!r} is empty")
        found[known[name]] = words
    missing = [node.name for node in classes if node.id not in found]
    if missing:
        raise DataError(
            f"{location}: {len(missing)} of {len(classes)} classes are not there, the first is {missing[0]!r}"
        )
    return tuple(found[node.id] for node in classes)
