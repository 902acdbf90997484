"""The schema as keys that know what they mean and may be, and the suggestions that are made from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import pytest
from omegaconf import MISSING

from rlhf_dist.config.did_you_mean import near_keys, suggest
from rlhf_dist.config.keys import keys_of, schema_keys, schema_sections, schema_tree, value_of, value_text
from rlhf_dist.config.schema import DPOConfig, PPOConfig, RewardModelConfig, RewardSourceConfig, SFTConfig
from rlhf_dist.config.schema.define import FACTS, FUNCTION, Facts, key, section

KINDS = [PPOConfig, SFTConfig, RewardModelConfig, DPOConfig]


@dataclass
class Inner:
    size: int = key(3, "how large", least=1, last=True)
    share: Optional[float] = key(None, "which part")
    bare: bool = key(False, "whether it is bare")


@dataclass
class Derived(Inner):
    name: str = key(MISSING, "who", choices={"me": "the one", "you": ""})
    size: int = key(4, "how much larger", last=True)


@dataclass
class Outer:
    part: Derived = section(Derived, "a part", unset={"name": "whoever is there"})
    needed: Derived = section(Derived, "a part that must be named")
    parts: dict[str, Inner] = section(Inner, "further parts", named=True)
    numbers: list[float] = key([1.0], "how many", length=1)


def test_keys_are_dotted_and_know_type_default_and_meaning() -> None:
    keys = schema_keys(Outer)
    inside = ["share", "bare", "name", "size"]  # what is last comes behind the keys of derived classes
    assert list(keys) == [*(f"part.{name}" for name in inside), *(f"needed.{name}" for name in inside), "numbers"]
    assert (keys["part.size"].default, keys["part.size"].description) == (4, "how much larger")
    assert (keys["part.share"].base, keys["part.share"].optional) == (float, True)
    assert keys["part.share"].type_name == "float or null"
    assert (keys["numbers"].base, keys["numbers"].default, keys["numbers"].type_name) == (list, [1.0], "[float, ...]")
    assert not keys["numbers"].required


def test_a_key_without_default_is_required_unless_something_counts_in_its_place() -> None:
    keys = schema_keys(Outer)
    assert keys["needed.name"].required and not keys["part.name"].required
    assert (keys["needed.name"].type_name, keys["part.name"].type_name) == ("string", "string or null")
    assert keys["needed.name"].description == "who: me (the one) | you"
    assert keys["part.name"].description == "who: me (the one) | you; null: whoever is there"


def test_the_keys_of_an_object_are_those_of_its_named_parts_too() -> None:
    config = Outer()
    config.parts["mine"] = Inner(size=7)
    assert "parts.mine.size" in keys_of(config) and "parts.mine.size" not in schema_keys(Outer)
    assert value_of(config, "parts.mine.size") == 7
    assert list(schema_sections(Outer)) == ["part", "needed", "parts"]


def test_a_default_list_is_each_objects_own() -> None:
    Outer().numbers.append(2.0)
    assert Outer().numbers == [1.0]


def test_a_field_of_which_nothing_is_said_is_a_mistake_of_the_schema() -> None:
    @dataclass
    class Silent(Inner):
        quiet: int = 1

    with pytest.raises(TypeError, match=r"Silent\.quiet"):
        schema_tree(Silent)


@pytest.mark.parametrize(
    ("facts", "words", "good", "bad"),
    [
        ({"least": 1}, "1 or more", [1, 7], [0, -1]),
        ({"above": 0}, "a number above 0", [0.5], [0, -1.0, float("nan"), float("inf")]),
        ({"least": 0, "most": 0.5}, "a number from 0 to 0.5", [0, 0.5], [0.51, -0.1]),
        ({"above": 0, "most": 1}, "a number above 0 and at most 1", [1], [0, 1.5]),
        ({"least": 0, "below": 1, "length": 2}, "2 numbers, each 0 or more and below 1", [[0, 0.9]], [[0], [0, 1]]),
        ({}, "a number", [0, -7.5, True, "text"], [float("inf"), float("nan")]),
        ({"choices": (0, 3)}, "0, 3", [0, 3], [1, 2]),
        ({"choices": ("a", "b"), "form": FUNCTION}, f"a, b, {FUNCTION.words}", ["a", "m:f", "f.py:g"], ["c", "m:"]),
        ({"form": FUNCTION}, FUNCTION.words, ["m:f", "a/b.py:f.g"], ["m", "m:1", ":f"]),
    ],
)
def test_a_range_is_said_in_words_and_held(facts: dict[str, Any], words: str, good: list[Any], bad: list[Any]) -> None:
    known = key(None, "any", **facts).metadata[FACTS]
    assert isinstance(known, Facts)
    assert known.expected == words
    assert [value for value in good if not known.admits(value)] == []
    assert [value for value in bad if known.admits(value)] == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_default_is_one_of_the_values_that_its_key_may_have(kind: type) -> None:
    for name, known in schema_keys(kind, ["rewards.mine.weight"] if kind is PPOConfig else []).items():
        assert not known.has_default or known.default is None or known.facts.admits(known.default), name
        assert known.has_default or not known.optional, name


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_and_section_says_what_it_is_in_a_phrase(kind: type) -> None:
    tree = schema_tree(kind)
    for what in (*schema_keys(RewardSourceConfig).values(), *tree.all_keys(), *tree.all_sections()):
        assert what.facts.meaning and what.facts.meaning == " ".join(what.facts.meaning.split()), what.name
        assert not what.facts.meaning.endswith((".", ";", ":")), what.name


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "null"), (True, "true"), (1e-5, "1.0e-5"), (1.5e-8, "1.5e-8"), (0.0, "0.0"), (10000, "10000")]
    + [([0.9, 0.95], "[0.9, 0.95]"), ([], "[]"), ("a", "a"), ("a\n", '"a\\n"'), (1e20, "1.0e+20")],
)
def test_a_value_is_written_as_in_yaml(value: object, text: str) -> None:
    assert value_text(value) == text


def test_sections_are_dotted_too() -> None:
    assert list(schema_sections(PPOConfig))[:3] == ["run", "data", "pretrain"]
    assert "ppo.kl" in schema_sections(PPOConfig)


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_of_the_schema_can_say_what_it_expects(kind: type) -> None:
    for known in schema_keys(kind).values():
        assert known.expected


def test_a_right_leaf_in_the_wrong_place_is_found() -> None:
    keys = schema_keys(PPOConfig)
    assert near_keys("critic.lr", keys)[0] == "critic.optim.lr"
    assert near_keys("actor.model.pth", keys) == ["actor.model.path"]
    assert near_keys("prompt_per_step", keys) == ["ppo.prompts_per_step"]
    assert near_keys("zzz.qqq", keys) == []


def test_suggestions_ignore_case_and_may_be_none() -> None:
    assert suggest("Prompt", ["prompt", "response"]) == " (did you mean prompt?)"
    assert suggest("xyz", ["prompt", "response"]) == ""
