"""Loads a tokenizer, and refuses one that cannot serve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_dist.config.paths import check_model_path, read_json
from rlhf_dist.data.hub import from_hub, hub_reachable
from rlhf_dist.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


def load_tokenizer(path: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model directory or hub name. Its pad token is the end-of-sequence token where it has none.

    A hub name is read from the local cache where the hub cannot be reached.

    Raises:
        UserError: there is no such directory, it holds no tokenizer, the hub does not give one, or the tokenizer has
            no end-of-sequence token.
    """
    check_model_path(path, "tokenizer", _FILES)
    local = Path(path).is_dir()
    online = not local and hub_reachable()
    tokenizer = _load(path, trust_remote_code, local, online)
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer of {path} has no end-of-sequence token: set eos_token in its tokenizer_config.json, "
            "as responses could never end"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _load(path: str, trust_remote_code: bool, local: bool, online: bool) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    def load() -> PreTrainedTokenizerBase:
        return AutoTokenizer.from_pretrained(
            path, trust_remote_code=trust_remote_code, local_files_only=local or not online
        )

    try:
        return from_hub(path, "tokenizer", load) if online else load()
    except UserError:
        raise
    except Exception as error:  # whatever a broken file raises in three libraries: the user sees one line
        if local or online:
            reason = (str(error).splitlines() or [""])[0]
            raise UserError(f"the tokenizer of {path} cannot be loaded: {type(error).__name__}: {reason}") from error
        raise UserError(
            f"there is no directory {path}, and it cannot be looked up on the Hugging Face hub: the hub cannot "
            "be reached and the local cache does not hold it"
        ) from error


def stop_tokens(path: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids that end an answer: the tokenizer's end-of-sequence token, and those of generation_config.json.

    Args:
        path: of the model; of a hub name, only the tokenizer's is known.
        tokenizer: the model's.
    """
    named = (read_json(Path(path) / "generation_config.json") or {}).get("eos_token_id")
    others = named if isinstance(named, list) else [] if named is None else [named]
    return list(dict.fromkeys([tokenizer.eos_token_id, *others]))
