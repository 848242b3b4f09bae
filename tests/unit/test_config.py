from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field, model_validator

from raysem.config import (
    Settings,
    build,
    differences,
    digest,
    load_recipe,
    parse_override,
    plain,
    read_yaml,
    to_yaml,
    with_overrides,
)
from raysem.errors import ConfigError


class Optimizer(Settings):
    learning_rate: float = Field(1e-4, gt=0)
    steps: int = 10
    name: Literal["adam", "adamw"] = "adam"
    clip: float | None = None


class Source(Settings):
    root: str
    folds: tuple[int, ...] = ()


class Recipe(Settings):
    seed: int = 0
    title: str = ""
    quick: bool = False
    optimizer: Optimizer = Optimizer()
    warm: Optimizer | None = None
    sources: tuple[Source, ...] = ()
    sets: dict[str, Source] = Field(default_factory=dict)
    variants: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_titled_when_quick(self) -> Recipe:
        if self.quick and not self.title:
            raise ValueError("a quick run needs a title")
        return self


def message(content: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as error:
        build(Recipe, content)
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith("recipe: ")
    return text.removeprefix("recipe: ")


def read(text: str) -> Recipe:
    return build(Recipe, read_yaml(text, "test"))


def test_a_number_that_yaml_reads_as_text_becomes_the_number_its_field_declares():
    assert read_yaml("a: 8e-5", "test") == {"a": "8e-5"}
    assert read("optimizer: {learning_rate: 8e-5}").optimizer.learning_rate == 8e-5
    assert read("optimizer: {learning_rate: '1e-3', steps: '7'}").optimizer.steps == 7


def test_on_and_no_and_dates_stay_text_until_the_declared_type_decides():
    assert read("title: on\nquick: on").title == "on"
    assert read("title: no").title == "no"
    assert read("title: 2024-01-31").title == "2024-01-31"
    assert read("title: x\nquick: true").quick is True


def test_true_is_no_number_and_no_text():
    assert message({"optimizer": {"steps": True}}) == "optimizer.steps: expected no true or false, got True"
    assert "title" in message({"title": False})


@pytest.mark.parametrize("text", [".nan", ".inf", "-.inf"])
def test_numbers_are_finite(text: str):
    assert "finite" in message(read_yaml(f"optimizer: {{clip: {text}}}", "test"))


def test_an_unknown_key_names_the_one_that_was_meant_and_those_that_exist():
    text = message({"optimizer": {"learning_rat": 1}})
    assert text == (
        "optimizer.learning_rat: no such key (did you mean learning_rate?); there are clip, learning_rate, name, steps"
    )


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ({"warm": {"stepz": 1}}, "warm.stepz: no such key (did you mean steps?)"),
        ({"sources": [{"root": "a"}, {"root": "b", "fold": 1}]}, "sources.1.fold: no such key (did you mean folds?)"),
        ({"sets": {"esc": {"rot": "a", "root": "b"}}}, "sets.esc.rot: no such key (did you mean root?)"),
    ],
)
def test_unknown_keys_are_explained_below_lists_mappings_and_optional_sections(content: dict, where: str):
    assert message(content).startswith(where)


def test_wrong_values_are_named_with_what_was_expected():
    assert message({"sets": {"esc": {}}}) == "sets.esc.root: is missing and has no default"
    assert message({"optimizer": {"steps": "many"}}) == "optimizer.steps: expected a valid integer, got 'many'"
    assert message({"optimizer": {"name": "sgd"}}) == "optimizer.name: expected 'adam' or 'adamw', got 'sgd'"
    assert message({"optimizer": {"learning_rate": 0}}) == "optimizer.learning_rate: expected greater than 0, got 0"
    assert message({"title": 2024}) == "title: expected text, got 2024, put it in quotes"
    assert message({"quick": True}) == "a quick run needs a title"
    assert message({"variants": {"a": None}}) == "variants.a: expected a mapping, got None"


def test_all_wrong_keys_are_named_at_once_on_one_line():
    text = message({"seeed": 1, "optimizer": {"steps": "x"}})
    assert "optimizer.steps: expected a valid integer, got 'x'; seeed: no such key" in text


def test_a_long_wrong_value_does_not_flood_the_line():
    assert len(message({"title": ["x" * 5000]})) < 300


def test_a_key_written_twice_is_refused_with_its_line():
    with pytest.raises(ConfigError, match=r"recipe\.yaml: seed: written twice \(line 3\)"):
        read_yaml("seed: 1\ntitle: x\nseed: 2\n", "recipe.yaml")
    with pytest.raises(ConfigError, match=r"steps: written twice"):
        read_yaml("optimizer: {steps: 1, steps: 2}", "recipe.yaml")


def test_anchors_and_merges_work_and_a_merged_key_may_be_changed():
    content = read_yaml("a: &x {b: 1, c: 2}\nd:\n  <<: *x\n  b: 3\ne: *x\n", "test")
    assert content == {"a": {"b": 1, "c": 2}, "d": {"b": 3, "c": 2}, "e": {"b": 1, "c": 2}}
    content["e"]["b"] = 9
    assert content["a"]["b"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "a: [1",
        "a: *nothing",
        "a: &x [*x]",
        "? [1]\n: 2",
        "- 1",
        "word",
        "a: 1\n---\nb: 2",
        "a: !!python/object/apply:os.getcwd []",
        "a: \x00",
        "a: !!binary aGVsbG8=",
        "\ta: 1",
    ],
)
def test_what_is_no_recipe_is_one_line_with_the_file(text: str):
    with pytest.raises(ConfigError, match=r"^bad\.yaml: ") as error:
        read_yaml(text, "bad.yaml")
    assert "\n" not in str(error.value)


def test_an_empty_file_is_a_recipe_of_defaults():
    assert read("") == Recipe()
    assert read("# only a comment\n") == Recipe()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=1", 1),
        ("a.b=8e-5", "8e-5"),
        ("a.b=[1, 2]", [1, 2]),
        ("a.b={x: 1}", {"x": 1}),
        ("a.b=null", None),
        ("a.b=true", True),
        ("a.b=on", "on"),
        ("a.b=", ""),
        ("a.b=x=y", "x=y"),
        ("a.b=a: b", "a: b"),
        (" a.b = 1", 1),
        ("a.b=[1", "[1"),
    ],
)
def test_an_override_is_a_dotted_key_and_a_yaml_value(text: str, value: Any):
    assert parse_override(text) == ("a.b", value)


@pytest.mark.parametrize("text", ["seed", "=1", "", "a..b=1", ".a=1", "a.=1"])
def test_an_override_without_key_or_equals_is_refused(text: str):
    with pytest.raises(ConfigError, match=r"^--set .*expected dotted\.key=value"):
        parse_override(text)


def test_an_override_with_a_key_written_twice_is_refused():
    with pytest.raises(ConfigError, match="--set a: x: written twice"):
        parse_override("a={x: 1, x: 2}")


def test_overrides_reach_into_sections_that_are_absent_or_null_and_into_lists():
    content = {"warm": None, "sources": [{"root": "a"}, {"root": "b"}]}
    changed = with_overrides(
        content, [("warm.steps", 3), ("optimizer.clip", 1.0), ("sources.1.root", "c"), ("sources.0", {"folds": [1]})]
    )
    assert changed == {
        "warm": {"steps": 3},
        "optimizer": {"clip": 1.0},
        "sources": [{"root": "a", "folds": [1]}, {"root": "c"}],
    }
    assert content == {"warm": None, "sources": [{"root": "a"}, {"root": "b"}]}


def test_a_mapping_changes_the_keys_it_names_and_an_empty_one_empties():
    content = {"optimizer": {"steps": 5, "clip": 2.0}}
    assert with_overrides(content, [("optimizer", {"steps": 6})]) == {"optimizer": {"steps": 6, "clip": 2.0}}
    assert with_overrides(content, [("optimizer", {})]) == {"optimizer": {}}
    assert with_overrides(content, [("optimizer", None)]) == {"optimizer": None}


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("seed.x", "seed.x: seed is a value, it has no keys"),
        ("sources.5.root", "sources.5.root: sources is a list of 1, expected a place from 0 and got '5'"),
        ("sources.root", "sources.root: sources is a list of 1"),
    ],
)
def test_an_override_below_a_value_is_refused(key: str, reason: str):
    with pytest.raises(ConfigError) as error:
        with_overrides({"seed": 0, "sources": [{"root": "a"}]}, [(key, 1)])
    assert str(error.value).startswith(reason)


def test_the_last_override_of_a_key_counts():
    assert with_overrides({}, [("a", 1), ("a", 2)]) == {"a": 2}


def test_a_recipe_is_read_with_its_overrides(tmp_path: Path):
    path = tmp_path / "recipe.yaml"
    path.write_text("seed: 3\noptimizer: {steps: 4}\n")
    recipe = load_recipe(Recipe, path, ["optimizer.learning_rate=2e-3", "title=x"])
    assert (recipe.seed, recipe.optimizer.steps, recipe.optimizer.learning_rate) == (3, 4, 2e-3)


def test_a_recipe_that_cannot_be_read_says_so(tmp_path: Path):
    (tmp_path / "other.yaml").write_text("")
    (tmp_path / "latin.yaml").write_bytes(b"title: \xe9\n")
    with pytest.raises(ConfigError, match=r"no such file; in that folder there are \['latin.yaml', 'other.yaml'\]"):
        load_recipe(Recipe, tmp_path / "recipe.yaml")
    with pytest.raises(ConfigError, match="no such file"):
        load_recipe(Recipe, tmp_path / "nowhere" / "recipe.yaml")
    with pytest.raises(ConfigError, match="is a directory"):
        load_recipe(Recipe, tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(Recipe, tmp_path / "latin.yaml")


def test_a_resolved_recipe_read_back_is_the_same():
    recipe = read("title: 'on'\nsources: [{root: ä, folds: [1, 2]}]\noptimizer: {learning_rate: 8e-5}\nsets: {}")
    again = read(to_yaml(recipe))
    assert again == recipe
    assert digest(again) == digest(recipe)


def test_a_digest_follows_content_and_not_the_order_of_keys():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": [1, 2]}) != digest({"a": [2, 1]})
    assert digest(Recipe()) == digest(plain(Recipe()))
    assert len(digest({}, 16)) == 16


def test_differences_name_each_leaf_that_changed():
    before, after = plain(Recipe()), plain(Recipe(seed=2, optimizer=Optimizer(steps=3)))
    assert differences(before, after) == ["seed: 0 -> 2", "optimizer.steps: 10 -> 3"]
    assert differences({"a": 1}, {"b": 2}) == ["a: 1 -> None", "b: None -> 2"]
    assert differences(before, before) == []


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Recipe().seed = 1  # type: ignore[misc]
