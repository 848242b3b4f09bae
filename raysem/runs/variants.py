"""Variants: several models from one recipe, each a set of dotted keys over it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from raysem import config
from raysem.config import Settings
from raysem.errors import ConfigError
from raysem.runs.part_settings import check_name

Overrides = dict[str, Any]
RecipeT = TypeVar("RecipeT", bound=Settings)


def check_variants(variants: Mapping[str, Overrides], may_set: Callable[[str], bool], what: str) -> None:
    """ValueError unless each name can be a folder's, and each key is one that a variant may set.

    Args:
        what: those keys, for the message.
    """
    for name, overrides in variants.items():
        check_name(name)
        for key in overrides or {}:
            if not may_set(key):
                raise ValueError(f"{name}: {key} is shared by all variants; a variant sets {what}")


def baseline_of(named: str, variants: Mapping[str, Overrides], *, alone: str) -> str:
    """The variant that the others are compared with: the named one, or where none is named the first.

    Raises:
        ConfigError: there is none of that name; the message begins with `evaluation.baseline`.
    """
    names = list(variants) or [alone]
    if named and named not in names:
        raise ConfigError(f"evaluation.baseline: no {alone} {named!r}; there are {', '.join(names)}")
    return named or names[0]


def variant_recipes(recipe: RecipeT, variants: Mapping[str, Overrides], *, alone: str) -> dict[str, RecipeT]:
    """The recipe of each variant by its name, with no variants of its own; without any, the recipe itself as `alone`.

    Raises:
        ConfigError: a variant's key or value is wrong; the message begins with `variants.<name>`.
    """
    base = config.plain(recipe) | {"variants": {}}
    if not variants:
        return {alone: config.build(type(recipe), base)}
    return {
        name: config.build(type(recipe), config.with_overrides(base, (overrides or {}).items()), f"variants.{name}")
        for name, overrides in variants.items()
    }
