"""A process reward model: where steps end, what each of them scores, and which token is rewarded for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rlhf_dist.config.algorithms import LAYOUTS
from rlhf_dist.config.schema import ModelConfig, PPOConfig, RewardSourceConfig
from rlhf_dist.controller.ppo import PPO, RewardSource
from rlhf_dist.controller.trace import Timer
from rlhf_dist.data.tokenizer import load_tokenizer
from rlhf_dist.device import CPU
from rlhf_dist.engine.process_reward import ProcessRewardEngine, step_ends, token_texts
from rlhf_dist.engine.scalar import RewardEngine
from rlhf_dist.types import Experience, Sequences
from tests.tiny import VOCABULARY, write_model, write_reward_model

EOS, BIAS, NEVER = "<eos>", 0.25, "never written"
EOS_ID, NEWLINE, A, SPACE, FILM = 2, 201, 67, 223, 272  # of the tiny tokenizer
TWO_BYTES = [130, 105]  # é
TOKENS = [NEWLINE, NEWLINE, A, SPACE, FILM, *TWO_BYTES, EOS_ID]
SEPARATORS = ["\n\n", "\n", "il", "m\n", "é", EOS]  # over several tokens, one, inside one, from inside one on, ...

responses = st.lists(st.sampled_from(TOKENS), min_size=1, max_size=14)
batches = st.lists(st.tuples(st.integers(1, 4), responses), min_size=1, max_size=4)  # prompt's tokens, response


@dataclass(frozen=True)
class Models:
    """A policy's directory and that of a reward model with a bias; what plain transformers make of it."""

    policy: Path
    reward: Path

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(str(self.policy))

    @cached_property
    def plain(self) -> Any:
        return AutoModelForSequenceClassification.from_pretrained(self.reward, dtype=torch.float32)

    def process(self, separator: str, **settings: Any) -> ProcessRewardEngine:
        source = RewardSourceConfig(kind="process", step_separator=separator, **settings)
        return ProcessRewardEngine(replace(source, model=self.config), CPU, str(self.policy), False)

    @property
    def config(self) -> ModelConfig:
        return ModelConfig(path=str(self.reward))

    def score(self, tokens: list[int]) -> float:
        """That of a sequence by itself, from plain transformers."""
        with torch.no_grad():
            return float(self.plain(torch.tensor([tokens])).logits[0, 0]) + BIAS


@pytest.fixture(scope="module")
def made(alone: None, tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("process")
    write_model(folder / "policy")
    write_reward_model(folder / "reward", folder / "policy")
    file = folder / "reward" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"score_bias": BIAS}))
    return Models(folder / "policy", folder / "reward")


def sequences(rows: list[tuple[int, list[int]]], seed: int = 0) -> Sequences:
    """Random prompts of the given numbers of tokens, with the responses."""
    generator = torch.Generator().manual_seed(seed)
    flat = [[*torch.randint(3, VOCABULARY, (count,), generator=generator).tolist(), *row] for count, row in rows]
    lengths = torch.tensor([len(row) for _, row in rows])
    size, ids = int(lengths.sum()), torch.arange(len(rows))
    finished = torch.tensor([row[-1] == EOS_ID for _, row in rows])
    return Sequences(
        tokens=torch.tensor([token for row in flat for token in row]),
        prompt_lengths=torch.tensor([count for count, _ in rows]),
        response_lengths=lengths,
        rollout_logprobs=torch.zeros(size),
        loss_mask=torch.ones(size, dtype=torch.bool),
        finished=finished,
        weight_version=ids * 0,
        rows=ids,
        ids=ids,
    )


def naive_ends(tokenizer: PreTrainedTokenizerBase, response: list[int], separator: str) -> list[int]:
    """The response read again from its start after each token, as far as its characters are whole."""
    ends: list[int] = []
    text, begun = "", 0
    for place in range(len(response)):
        text = tokenizer.decode(response[: place + 1])
        if place + 1 < len(response):
            text = text.rstrip("\ufffd")
        while separator in text[begun:]:
            step, _, _ = text[begun:].partition(separator)
            if step.replace(EOS, "").strip() and place not in ends:
                ends.append(place)
            begun += len(step) + len(separator)
    if (text[begun:].replace(EOS, "").strip() or not ends) and len(response) - 1 not in ends:
        ends.append(len(response) - 1)
    return ends


def naive_scores(made: Models, batch: Sequences, separator: str) -> list[float]:
    """Each step's score by a pass of its own over all that stands before its end."""
    flat: list[float] = []
    for prompt, response in zip(batch.prompt_lists(), batch.response_lists(), strict=True):
        scores = [0.0] * len(response)
        for end in naive_ends(made.tokenizer, response, separator):
            scores[end] = made.score(prompt + response[: end + 1])
        flat += scores
    return flat


@pytest.mark.parametrize(
    "texts,ends",
    [
        (["a", "\n\n", "b", EOS], [1, 3]),
        (["a", "\n", "\n", "b", EOS], [2, 4]),  # the separator over two tokens
        (["a.\n\nb", "c", EOS], [0, 2]),  # inside one
        (["a\n", "\nb", "\n", "\n", EOS], [1, 3]),  # ends in one that begins the next step; nothing behind the last one
        (["a", "\n\n", "\n\n", " \n\n", "b"], [1, 4]),  # no step in between
        (["\n\n", "a", "\n\n", EOS], [2]),
        (["a", "\n\n", "b", "\n"], [1, 3]),  # cut off by its length
        (["a", "b", EOS], [2]),
        (["a\n\nb\n\nc", EOS], [0, 1]),  # two steps that end in one token are one to the model
        (["a", "\n\nb"], [1]),
        ([EOS], [0]),
        (["\n\n", EOS], [1]),  # a response of nothing still has a score
        (["a", "\n\n\n\n\n"], [1]),
        (["a", "", "\n\n", "", "b", ""], [2, 5]),  # tokens without text, as halves of characters
    ],
)
def test_steps_end_where_their_separator_is_complete(texts: list[str], ends: list[int]) -> None:
    assert step_ends(texts, "\n\n", EOS) == ends


def test_a_special_token_may_end_a_step() -> None:
    assert step_ends(["a", EOS, "b", EOS], EOS, EOS) == [1, 3]
    assert step_ends(["a", "<step>", "b", "<step>", EOS], "<step>", EOS) == [1, 3]


@given(responses, st.sampled_from(SEPARATORS))
def test_steps_end_where_a_reader_who_begins_anew_after_each_token_finds_them(
    made: Models, response: list[int], separator: str
) -> None:
    ends = step_ends(token_texts(made.tokenizer, response), separator, EOS)
    assert ends == naive_ends(made.tokenizer, response, separator)


@given(st.lists(st.integers(0, VOCABULARY - 1), max_size=40))
def test_the_texts_of_any_tokens_are_their_whole_text_cut_where_characters_are_whole(
    made: Models, tokens: list[int]
) -> None:
    texts = token_texts(made.tokenizer, tokens)
    assert len(texts) == len(tokens)
    for count in range(len(tokens)):
        assert "".join(texts[:count]) == made.tokenizer.decode(tokens[:count]).rstrip("\ufffd")
    assert "".join(texts) == made.tokenizer.decode(tokens)


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """Marks spaces by a sign, drops the first one, and spells what it does not know in bytes, line breaks too."""
    words = ["<unk>", EOS, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁a", "b"]
    tokenizer = Tokenizer(models.BPE({word: at for at, word in enumerate(words)}, [], byte_fallback=True))
    cleaning = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(cleaning)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS)


@given(st.lists(st.sampled_from([["▁"], ["▁a"], ["b"], "\n", "\n\n", "é", "😀", [EOS]]), max_size=20))
def test_texts_are_right_where_spaces_are_marked_and_characters_spelt_in_bytes(pieces: list[str | list[str]]) -> None:
    tokenizer = sentencepiece_like()
    words = [part if isinstance(part, list) else [f"<0x{byte:02X}>" for byte in part.encode()] for part in pieces]
    tokens = [tokenizer.convert_tokens_to_ids(word) for part in words for word in part]
    texts = token_texts(tokenizer, tokens)
    assert "".join(texts) == tokenizer.decode(tokens)
    for begun, char in ((part, char) for part, char in zip(words, pieces, strict=True) if char in ("é", "😀")):
        at = next(i for i in range(len(tokens)) if tokens[i : i + len(begun)] == tokenizer.convert_tokens_to_ids(begun))
        assert texts[at : at + len(begun)] == [""] * (len(begun) - 1) + [char]


def test_a_policy_that_writes_no_whole_character_is_read_in_short_windows(made: Models) -> None:
    texts = token_texts(made.tokenizer, [TWO_BYTES[0]] * 300 + [NEWLINE, NEWLINE, A])
    assert step_ends(texts, "\n\n", EOS) == [301, 302]


@settings(max_examples=25)
@given(batches, st.sampled_from(SEPARATORS), st.sampled_from(sorted(LAYOUTS)), st.integers(0, 99))
def test_each_step_scores_what_the_model_says_of_all_up_to_its_end(
    engines: dict[tuple[str, str], ProcessRewardEngine],
    made: Models,
    rows: list[tuple[int, list[int]]],
    separator: str,
    layout: str,
    seed: int,
) -> None:
    batch = sequences(rows, seed)
    got = engines[separator, layout].token_scores(batch)
    torch.testing.assert_close(got, torch.tensor(naive_scores(made, batch, separator)), rtol=0, atol=2e-5)


@pytest.fixture(scope="module")
def engines(made: Models) -> dict[tuple[str, str], ProcessRewardEngine]:
    return {
        (separator, layout): made.process(separator, layout=layout, micro_batch_tokens=24)
        for separator in SEPARATORS
        for layout in LAYOUTS
    }


ROWS = [
    (2, [A, NEWLINE, NEWLINE, FILM, A, NEWLINE, NEWLINE, NEWLINE, NEWLINE, A, EOS_ID]),
    (3, [A, FILM, NEWLINE, NEWLINE, A]),  # cut off
    (1, [FILM, A, EOS_ID]),
]
ENDS = [2, 6, 10, 14, 15, 18]  # of "\n\n", in the flat response tokens


def test_without_separators_the_score_is_that_of_the_response_as_an_outcome(made: Models) -> None:
    batch = sequences(ROWS)
    outcome = RewardEngine(RewardSourceConfig(model=made.config), CPU)
    assert torch.equal(made.process(NEVER).token_scores(batch), outcome.token_scores(batch))
    assert not torch.equal(made.process("\n\n").token_scores(batch), outcome.token_scores(batch))


@contextmanager
def together(timeout_s: float) -> Iterator[SimpleNamespace]:
    """Roles answer at once here."""
    yield SimpleNamespace(add=lambda answer: SimpleNamespace(value=answer))


def ppo(config: PPOConfig, sources: list[tuple[str, float, Any]]) -> PPO:
    """PPO with the engines of reward sources, by name and weight, and policies that agree with one another."""
    agreed = SimpleNamespace(logprobs=lambda batch: -torch.ones(int(batch.response_lengths.sum())))
    roles: Any = SimpleNamespace(
        actor=agreed,
        reference=agreed,
        critic=None,
        rewards=[RewardSource(*source) for source in sources],
        scheduler=SimpleNamespace(together=together),
    )
    return PPO(config, roles, lambda episodes: (episodes.rewards, None), None, Timer(), 1.0)


def rewarded(config: PPOConfig, batch: Sequences, *sources: tuple[str, float, Any]) -> tuple[Experience, Tensor]:
    """What the sources make of a batch, and the rewards ``[R]`` that come of it."""
    algorithm = ppo(config, list(sources))
    experience = algorithm.score(batch)
    return experience, algorithm.rewards(experience)[0]


def test_the_token_that_ends_a_step_is_rewarded_and_the_response_scores_their_sum(made: Models) -> None:
    batch, engine = sequences(ROWS), made.process("\n\n")
    experience, rewards = rewarded(PPOConfig(), batch, ("main", 1.0, engine))
    wanted = naive_scores(made, batch, "\n\n")
    assert torch.nonzero(rewards).flatten().tolist() == ENDS
    torch.testing.assert_close(rewards, torch.tensor(wanted), rtol=0, atol=2e-5)
    sums = [part.sum() for part in torch.split(torch.tensor(wanted), batch.response_lengths.tolist())]
    torch.testing.assert_close(experience.scores, torch.stack(sums), rtol=0, atol=5e-5)
    assert torch.equal(experience.source_scores[:, 0], experience.scores)


def test_scores_of_steps_and_of_outcomes_add_up_by_their_weights(made: Models) -> None:
    batch, engine = sequences(ROWS), made.process("\n\n")
    outcome = RewardEngine(RewardSourceConfig(model=made.config), CPU)
    steps, whole = engine.token_scores(batch), outcome.token_scores(batch)
    experience, rewards = rewarded(PPOConfig(), batch, ("main", 2.0, outcome), ("steps", -0.5, engine))
    torch.testing.assert_close(rewards, 2.0 * whole - 0.5 * steps)
    assert experience.source_scores.shape == (3, 2)
    torch.testing.assert_close(experience.scores, experience.source_scores @ torch.tensor([2.0, -0.5]))


def test_what_an_environment_wrote_is_read_and_its_steps_are_credited_to_the_policy_before_it(made: Models) -> None:
    batch = sequences(ROWS)
    batch.loss_mask[4:8] = False  # "a", and the end of the first response's second step
    experience, rewards = rewarded(PPOConfig(), batch, ("main", 1.0, made.process("\n\n")))
    assert torch.nonzero(rewards).flatten().tolist() == [2, 3, 10, 14, 15, 18]
    assert rewards[3] == experience.token_scores[6] != 0


def test_clipping_is_of_each_score_and_a_missing_end_is_paid_for_at_the_last_token(made: Models) -> None:
    batch, engine, config = sequences(ROWS), made.process("\n\n"), PPOConfig()
    scores = engine.token_scores(batch)
    limit = float(scores[ENDS].abs().median())
    config.ppo.score_clip, config.ppo.missing_eos_penalty = limit, 10.0
    _, rewards = rewarded(config, batch, ("main", 1.0, engine))
    wanted = scores.clamp(-limit, limit)
    wanted[15] -= 10.0  # the second response was cut off
    torch.testing.assert_close(rewards, wanted)
