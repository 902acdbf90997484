"""The schema as keys with comments, and the suggestions that are made from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

import pytest
from omegaconf import MISSING

from rlhf_dist.config.did_you_mean import near_keys, suggest
from rlhf_dist.config.keys import schema_keys, schema_sections
from rlhf_dist.config.schema import PPOConfig, RewardModelConfig, SFTConfig


@dataclass
class Inner:
    """A section."""

    size: int = 3  # how large
    share: Optional[float] = None  # in brackets
    long: str = "#a"  # begins here
    # and goes on
    bare: bool = False


@dataclass
class Derived(Inner):
    name: str = MISSING  # who
    size: int = 4  # how much larger


@dataclass
class Outer:
    part: Derived = field(default_factory=Derived)
    numbers: list[float] = field(default_factory=lambda: [1.0])


def test_keys_are_dotted_and_know_type_default_and_comment() -> None:
    keys = schema_keys(Outer)
    assert set(keys) == {"part.size", "part.share", "part.long", "part.bare", "part.name", "numbers"}
    assert (keys["part.size"].default, keys["part.size"].comment) == (4, "how much larger")
    assert (keys["part.share"].base, keys["part.share"].optional) == (float, True)
    assert keys["part.share"].comment == "in brackets"
    assert keys["part.long"].comment == "begins here and goes on"
    assert keys["part.bare"].comment == ""
    assert keys["part.name"].required
    assert (keys["numbers"].base, keys["numbers"].default) == (list, [1.0])
    assert not keys["numbers"].required


def test_sections_are_dotted_too() -> None:
    assert list(schema_sections(PPOConfig))[:3] == ["run", "data", "pretrain"]
    assert "ppo.kl" in schema_sections(PPOConfig)


@pytest.mark.parametrize("kind", [PPOConfig, SFTConfig, RewardModelConfig])
def test_every_key_of_the_schema_can_say_what_it_expects(kind: type) -> None:
    for key in schema_keys(kind).values():
        assert key.expected


def test_a_right_leaf_in_the_wrong_place_is_found() -> None:
    keys = schema_keys(PPOConfig)
    assert near_keys("critic.lr", keys)[0] == "critic.optim.lr"
    assert near_keys("actor.model.pth", keys) == ["actor.model.path"]
    assert near_keys("prompt_per_step", keys) == ["ppo.prompts_per_step"]
    assert near_keys("zzz.qqq", keys) == []


def test_suggestions_ignore_case_and_may_be_none() -> None:
    assert suggest("Prompt", ["prompt", "response"]) == " (did you mean prompt?)"
    assert suggest("xyz", ["prompt", "response"]) == ""
