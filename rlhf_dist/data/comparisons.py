"""The comparisons of the reward model: prompts with K answers, ranked best to worst."""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING, TypeVar

import torch

from rlhf_dist.data.chat import ChatPrompt, read_prompt
from rlhf_dist.data.encode import Tokens, encode_answers, encode_prompts, flatten, lengths_of
from rlhf_dist.data.fit import fit
from rlhf_dist.data.records import Record, kind_of, read_records
from rlhf_dist.errors import UserError
from rlhf_dist.types import Comparisons

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_log = logging.getLogger(__name__)

T = TypeVar("T")
Row = tuple[ChatPrompt, list[str], list[int]]
"""A prompt, its responses, and the rank of each: 1 is best, equal ranks are a tie."""


def load_comparisons(
    path: str, split: str, tokenizer: PreTrainedTokenizerBase, max_tokens: int, truncate: bool
) -> Comparisons:
    """The whole data set as one ragged batch. Rows have `prompt` (or `messages`), `responses` and `ranking`.

    `ranking[i]` is the rank of `responses[i]`, 1 is best, equal ranks are a tie; see docs/data.md. Each answer's
    sequence is the prompt's tokens, the answer's, and the end-of-sequence token. Rows whose answers all tie have no
    pair to learn from: they are left out, and a warning says how many.

    Args:
        path: .jsonl file, .parquet file or hub name.
        split: of a hub name.
        tokenizer: its chat template is applied where it has one.
        max_tokens: most tokens of prompt and answer together.
        truncate: cut what is longer, instead of refusing it.

    Raises:
        UserError: the data is missing, empty or malformed, a ranking is none, an example is too long, or every row is
            one tie.
    """
    rows = [read_comparison(record) for record in read_records(path, split)]
    ranked = [row for row in rows if len(set(row[2])) > 1]
    if not ranked:
        raise UserError(f"{path}: all answers tie in every row, so there is no pair to train on")
    if len(ranked) < len(rows):
        _log.warning(
            "%s: %d of %d rows skipped, because all their answers tie", path, len(rows) - len(ranked), len(rows)
        )
    return encode_comparisons(ranked, tokenizer, max_tokens, truncate)


def is_ranking(ranks: list[int]) -> bool:
    """Whether the numbers rank something: 1..K, or with ties 1, 2, 2, 3 (dense) or 1, 2, 2, 4 (competition)."""
    dense = set(ranks) == set(range(1, len(set(ranks)) + 1))
    return dense or all(rank == 1 + sum(other < rank for other in ranks) for rank in ranks)


def read_comparison(record: Record) -> Row:
    """A row with `responses` and `ranking`. UserError where it is malformed."""
    prompt = read_prompt(record)
    responses, ranking = record.list("responses"), record.list("ranking")
    _check_items(record, "responses", responses, str, "a string")
    _check_items(record, "ranking", ranking, int, "an integer")
    if len(responses) < 2:
        raise record.error(f"a comparison needs 2 or more 'responses', there are {len(responses)}")
    if len(ranking) != len(responses):
        raise record.error(f"'ranking' has {len(ranking)} entries for {len(responses)} responses")
    if not is_ranking(ranking):
        raise record.error(
            f"'ranking' {ranking} is not a permutation of 1..{len(ranking)}: expected the rank of each response, "
            "1 for the best, equal ranks for a tie"
        )
    return prompt, responses, ranking


def _check_items(record: Record, field: str, items: list[object], kind: type, expected: str) -> None:
    for number, item in enumerate(items, 1):
        if not isinstance(item, kind) or isinstance(item, bool):
            raise record.error(f"entry {number} of {field!r} is {kind_of(item)}, expected {expected}")


def encode_comparisons(
    rows: list[Row],
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    truncate: bool,
    settings: tuple[str, str] = ("data.max_tokens=", "data.truncate=true"),
) -> Comparisons:
    """Rows as one ragged batch; the arguments behind them as of :func:`rlhf_dist.data.fit.fit`.

    Raises:
        UserError: a row is too long.
    """
    prompts = [prompt for prompt, _, _ in rows]
    rendered, prompt_rows = encode_prompts(tokenizer, prompts)
    counts = [len(responses) for _, responses, _ in rows]
    answers = encode_answers(
        tokenizer,
        _repeat(prompts, counts),
        _repeat(rendered, counts),
        [response for _, responses, _ in rows for response in responses],
    )
    remaining = iter(answers)
    sequences: list[Tokens] = []
    prompt_counts: list[int] = []
    per_row: list[int] = []
    for prompt, tokens, count in zip(prompts, prompt_rows, counts, strict=True):
        own = list(itertools.islice(remaining, count))
        tokens, own = fit(prompt.record, tokens, own, max_tokens, truncate, settings)
        sequences += [tokens + answer for answer in own]
        prompt_counts += [len(tokens)] * count
        per_row.append(sum(len(tokens) + len(answer) for answer in own))
    return Comparisons(
        tokens=flatten(sequences),
        token_counts=lengths_of(sequences),
        prompt_counts=torch.tensor(prompt_counts),
        ranks=flatten(ranking for _, _, ranking in rows),
        answers=torch.tensor(counts),
        tokens_per_row=torch.tensor(per_row),
    )


def _repeat(items: list[T], counts: list[int]) -> list[T]:
    return [item for item, count in zip(items, counts, strict=True) for _ in range(count)]
