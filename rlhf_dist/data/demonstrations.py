"""The demonstrations of SFT: prompts with the answers a model should imitate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_dist.data.chat import ChatPrompt, read_messages, read_prompt, require_answer
from rlhf_dist.data.encode import Tokens, encode_answers, encode_prompts, flatten, lengths_of, require_tokens
from rlhf_dist.data.fit import fit
from rlhf_dist.data.records import Record, read_records
from rlhf_dist.types import Demonstrations

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_demonstrations(
    path: str, split: str, tokenizer: PreTrainedTokenizerBase, max_tokens: int, truncate: bool
) -> Demonstrations:
    """The whole data set as one ragged batch. Rows have `prompt` and `response`, or `messages`; see docs/data.md.

    Every response ends with the end-of-sequence token, exactly once, unless it was truncated.

    Args:
        path: .jsonl file, .parquet file or hub name.
        split: of a hub name.
        tokenizer: its chat template is applied where it has one.
        max_tokens: most tokens of prompt and response together.
        truncate: cut what is longer, instead of refusing it.

    Raises:
        UserError: the data is missing, empty or malformed, or an example is too long.
    """
    examples = [_read(record) for record in read_records(path, split)]
    prompts = [prompt for prompt, _ in examples]
    rendered, prompt_rows = encode_prompts(tokenizer, prompts)
    require_tokens(prompts, prompt_rows)
    answer_rows = encode_answers(tokenizer, prompts, rendered, [answer for _, answer in examples])
    kept_prompts: list[Tokens] = []
    kept_answers: list[Tokens] = []
    for prompt, tokens, answer in zip(prompts, prompt_rows, answer_rows, strict=True):
        tokens, (answer,) = fit(prompt.record, tokens, [answer], max_tokens, truncate)
        kept_prompts.append(tokens)
        kept_answers.append(answer)
    both = (part for row in zip(kept_prompts, kept_answers, strict=True) for part in row)
    return Demonstrations(flatten(both), lengths_of(kept_prompts), lengths_of(kept_answers))


def _read(record: Record) -> tuple[ChatPrompt, str]:
    """The prompt and the answer. A row with `messages` and without `response` is a chat that ends with the answer."""
    if record.has("messages") and not record.has("response"):
        return require_answer(record, read_messages(record))
    return read_prompt(record), record.text("response")
