"""The corpora of a job by the parts that they play in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, PositiveInt, field_validator, model_validator

from raysem.config import Settings
from raysem.corpora.synthetic import SyntheticSettings
from raysem.runs.roles import CorpusSource


class PartSettings(Settings):
    """What every job's `corpora` has. A job adds its own parts, each a tuple of sources that are joined."""

    own_parts: ClassVar[tuple[str, ...]] = ()
    """The fields that are tuples of sources."""
    taken_names: ClassVar[tuple[str, ...]] = ()
    """Names that an evaluation set may not have."""

    roots: dict[str, str] = Field(default_factory=dict)
    """Folders by name; `{name}` in a source's root stands for one, so that a recipe moves with one `--set`."""
    evaluation: dict[str, CorpusSource] = Field(default_factory=dict)
    """Test sets by name."""
    synthetic: SyntheticSettings | None = None
    """The corpus made by arithmetic; sources with `corpus: synthetic` take their parts from it."""
    rows_per_shard: PositiveInt = 2000
    """Clips of one input shard: the unit of skipping and resuming."""

    @property
    def named_sources(self) -> Mapping[str, Sequence[CorpusSource]]:
        """The sources of every part, by its dotted name below `corpora`."""
        parts: dict[str, Sequence[CorpusSource]] = {name: getattr(self, name) for name in self.own_parts}
        return parts | {f"evaluation.{name}": (source,) for name, source in self.evaluation.items()}

    @field_validator("evaluation")
    @classmethod
    def _have_names_for_folders(cls, evaluation: dict[str, CorpusSource]) -> dict[str, CorpusSource]:
        for name in evaluation:
            check_name(name)
            if name in cls.taken_names:
                raise ValueError(f"{name}: the name is taken by a part of the run")
        return evaluation

    @model_validator(mode="before")
    @classmethod
    def _fill_in_roots(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        roots = content.get("roots") or {}

        def filled(source: Any) -> Any:
            root = source.get("root") if isinstance(source, dict) else None
            if not isinstance(root, str) or "{" not in root:
                return source
            name = root[root.index("{") + 1 :].partition("}")[0]
            if name not in roots:
                raise ValueError(f"roots: no root {name!r}, which a source names; there are {sorted(roots)}")
            return {**source, "root": root.replace(f"{{{name}}}", str(roots[name]))}

        changed = dict(content)
        for part in cls.own_parts:
            if isinstance(content.get(part), list | tuple):
                changed[part] = [filled(source) for source in content[part]]
        if isinstance(content.get("evaluation"), dict):
            changed["evaluation"] = {name: filled(source) for name, source in content["evaluation"].items()}
        return changed


def check_name(name: str) -> None:
    """ValueError unless a name can be that of a folder."""
    if not name or name.startswith(".") or not all(character.isalnum() or character in "-_+." for character in name):
        raise ValueError(f"{name!r}: a name of letters, digits and -_+. only, which does not begin with a dot")
