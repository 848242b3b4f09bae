"""Recipes: strict YAML into frozen pydantic models, dotted overrides, digests. It knows no setting by name."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from raysem.credentials import holds_credentials
from raysem.errors import ConfigError


class Settings(BaseModel):
    """One section of a recipe: frozen, and closed to unknown keys. A docstring under a field says what it means."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and not _takes_bool(cls.model_fields[info.field_name or ""].annotation):
            raise ValueError(f"expected no true or false, got {value}")
        return value


SettingsT = TypeVar("SettingsT", bound=Settings)

MAX_VALUES = 1_000_000
"""Of a recipe with its anchors written out: ten lines of YAML can stand for more values than any memory holds."""


class _RecipeLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key written twice, and leaves `on`, `no` and dates as the text they are."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # `<<: *anchor`, resolved by the base class
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"line {key_node.start_mark.line + 1}: a key is a word, not a list or a mapping")
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise ConfigError(f"{key}: written twice (line {key_node.start_mark.line + 1})")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


# YAML 1.1 reads `on`, `y` and dates as values of their own; with them as text, the declared type decides.
_RecipeLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rsplit(":", 1)[-1] not in ("bool", "timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_RecipeLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|True|false|False)$"), list("tTfF"))


def read_yaml(text: str, where: str) -> dict[str, Any]:
    """The mapping in `text`; ConfigError with file and line otherwise."""
    try:
        content = yaml.load(text, Loader=_RecipeLoader)  # a SafeLoader
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{where}: not valid YAML: too many lists or mappings within each other") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{where}:{line} not valid YAML: {problem}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: a recipe is a mapping of sections, this is a {type(content).__name__}")
    if _num_values(content, {}) > MAX_VALUES:
        raise ConfigError(f"{where}: its anchors stand for more than {MAX_VALUES} values")
    try:
        return json.loads(json.dumps(content))  # keys become texts, and nothing is shared between two places
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: holds what a recipe cannot hold ({error})") from None


def _num_values(content: Any, known: dict[int, int]) -> int:
    """Values in `content` with each shared part counted where it is used; `known` holds those of parts, by identity."""
    if not isinstance(content, dict | list):
        return 1
    if id(content) not in known:
        known[id(content)] = 0  # a part within itself: json says so
        parts = content.values() if isinstance(content, dict) else content
        known[id(content)] = 1 + sum(_num_values(part, known) for part in parts)
    return known[id(content)]


def _refuse_credentials(content: Any, where: str, key: str = "") -> None:
    if isinstance(content, Mapping):
        for name, part in content.items():
            _refuse_credentials(part, where, f"{key}.{name}" if key else str(name))
    elif isinstance(content, list | tuple):
        for place, part in enumerate(content):
            _refuse_credentials(part, where, f"{key}.{place}")
    elif isinstance(content, str) and holds_credentials(content):
        raise ConfigError(
            f"{where}: {key}: holds a credential, which would be written beside the outputs; give it by the "
            "environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE) or by a role"
        )


def parse_override(text: str, option: str = "--set") -> tuple[str, Any]:
    """`a.b=value` into ("a.b", value), value as YAML reads it (`[1, 2]` is a list, `null` is None)."""
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise ConfigError(f"{option} {text}: expected dotted.key=value")
    try:
        return key, read_yaml(f"value: {value}", f"{option} {key}")["value"] if value.strip() else ""
    except ConfigError as error:
        if "written twice" in str(error):
            raise
        return key, value


def with_overrides(content: Mapping[str, Any], overrides: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A copy of `content` in which each dotted key has its new value.

    A mapping changes the keys that it names, as dotted keys for each would; an empty one empties. A part of a key that
    is a number is a place in a list: `corpora.wild.0.root`.
    """
    result = json.loads(json.dumps(content))
    for key, value in overrides:
        at: Any = result
        parts = key.split(".")
        for depth, part in enumerate(parts[:-1]):
            above = ".".join(parts[:depth])
            if isinstance(at, dict) and at.get(part) is None:
                at[part] = {}
            at = at[_place(at, part, key, above)]
        last = _place(at, parts[-1], key, ".".join(parts[:-1]))
        old = at.get(last) if isinstance(at, dict) else at[last]
        at[last] = _merged(old, value)
    return result


def _place(at: Any, part: str, key: str, above: str) -> Any:
    if isinstance(at, dict):
        return part
    if not isinstance(at, list):
        raise ConfigError(f"{key}: {above} is a value, it has no keys")
    if not part.isdecimal() or int(part) >= len(at):
        raise ConfigError(f"{key}: {above} is a list of {len(at)}, expected a place from 0 and got {part!r}")
    return int(part)


def _merged(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict) and new:
        return old | {key: _merged(old.get(key), value) for key, value in new.items()}
    return new


def build(settings: type[SettingsT], content: Mapping[str, Any], where: str = "recipe") -> SettingsT:
    """A validated `settings`, or a ConfigError with one line for each wrong key.

    A credential in any text is refused: every run writes its recipe beside its outputs.
    """
    _refuse_credentials(content, where)
    try:
        return settings.model_validate(content)
    except ValidationError as error:
        lines = [_explain(settings, details) for details in error.errors()]
        raise ConfigError(f"{where}: " + "; ".join(dict.fromkeys(lines))) from None


def load_recipe(settings: type[SettingsT], path: str | Path, overrides: Iterable[str] = ()) -> SettingsT:
    """The recipe at `path`, with `--set` overrides, validated."""
    where = str(path)
    if Path(path).is_dir():
        raise ConfigError(f"--recipe {path}: is a directory, expected a YAML file")
    try:
        text = Path(path).read_text()
    except FileNotFoundError:
        beside = sorted(p.name for p in Path(path).parent.glob("*.yaml")) if Path(path).parent.is_dir() else []
        raise ConfigError(f"--recipe {path}: no such file; in that folder there are {beside}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--recipe {path}: cannot be read ({error})") from None
    parsed = [parse_override(text) for text in overrides]
    return build(settings, with_overrides(read_yaml(text, where), parsed), where)


def plain(settings: Settings) -> dict[str, Any]:
    """Every setting with its resolved value, as JSON types."""
    return settings.model_dump(mode="json")


def completed(settings: type[Settings], content: Any) -> Any:
    """What `plain` gave at an earlier time, with today's defaults for the keys that there were not; else as it is."""
    try:
        return plain(settings.model_validate(content))
    except ValidationError:
        return content


def to_yaml(settings: Settings) -> str:
    """The resolved recipe; reading it back gives an equal one."""
    return yaml.safe_dump(plain(settings), sort_keys=False, allow_unicode=True, width=110)


def digest(content: Any, length: int = 12) -> str:
    """Hex digest of settings or of any JSON value: the same for equal content, whatever the order of keys."""
    if isinstance(content, Settings):
        content = plain(content)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def differences(before: Any, after: Any, prefix: str = "") -> list[str]:
    """One line `key: old -> new` for each leaf that differs."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        lines = []
        for key in [*before, *(k for k in after if k not in before)]:
            lines += differences(before.get(key), after.get(key), f"{prefix}.{key}" if prefix else str(key))
        return lines
    return [] if before == after else [f"{prefix}: {before!r} -> {after!r}"]


def _explain(settings: type[Settings], details: Mapping[str, Any]) -> str:
    location = [str(part) for part in details["loc"]]
    dotted = ".".join(location) or "recipe"
    kind = details["type"]
    if kind == "extra_forbidden":
        names = sorted(_section_at(settings, location[:-1]).model_fields)
        close = difflib.get_close_matches(location[-1], names, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        return f"{dotted}: no such key{hint}; there are {', '.join(names)}"
    if kind == "missing":
        return f"{dotted}: is missing and has no default"
    message = details["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return f"{dotted}: {message}" if location else message
    hint = ", put it in quotes" if kind == "string_type" and isinstance(details["input"], int | float) else ""
    expected = message.removeprefix("Input should be ").split(", got ")[0].split(", unable ")[0]
    expected = {"a valid string": "text", "a valid dictionary": "a mapping"}.get(expected, expected)
    return f"{dotted}: expected {expected}, got {_shortly(details['input'])}{hint}"


def _shortly(value: Any, length: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}..."


def _section_at(settings: type[Settings], location: list[str]) -> type[Settings]:
    """The model that holds the key: follows fields, optional ones, unions and mappings of sections."""
    current: type[Settings] = settings
    for part in location:
        field = current.model_fields.get(part)
        if field is not None:
            found = _models_in(field.annotation)
            current = found[0] if found else current
    return current


def _takes_bool(annotation: Any) -> bool:
    if annotation in (Any, bool) or isinstance(annotation, bool):
        return True
    return any(_takes_bool(argument) for argument in get_args(annotation))


def _models_in(annotation: Any) -> list[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
