"""Makes the demo's base model: a byte-level BPE of 2048 tokens and a small Llama, from review text.

    python -m demo.pretrain --steps 10000 --marked
    python -m demo.pretrain --steps 4500 --marked --labels 0.4 --start demo/base --lr 2e-3

Runs on the CPU, saves its state every few minutes, and goes on from there when started again.
At the end it writes the model and the tokenizer in Hugging Face format. The second command goes on from a model that
is there already, and shows it passages that end with the label of their review, in a word.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from demo import texts

HERE = Path(__file__).resolve().parent
VOCABULARY = 2048
BOS, EOS, PAD = "<s>", "</s>", "<pad>"
CONTEXT = 256  # positions the model may use; training windows are shorter


@dataclass(frozen=True)
class Text:
    """Documents for one model: whole reviews and single sentences, for training and for measuring."""

    reviews: list[str]
    sentences: list[str]
    labelled: list[texts.Review]
    held_out_reviews: list[str]
    held_out_sentences: list[str]


def collect(corpus: texts.Corpus) -> Text:
    """Takes the writing parts of the corpus; the rated snippets stay out altogether."""

    def single(imdb: list[texts.Review], rotten: list[texts.Review], repeat: int) -> list[str]:
        found = [s for review in imdb for s in texts.sentences(review.text)]
        return found + [review.text for review in rotten] * repeat

    return Text(
        [review.text for review in corpus.imdb_train],
        single(corpus.imdb_train, corpus.rt_train, repeat=4),
        corpus.imdb_train + corpus.rt_train,
        [review.text for review in corpus.imdb_held_out],
        single(corpus.imdb_held_out, corpus.rt_held_out, repeat=1),
    )


def train_tokenizer(documents: list[str]) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE. It puts BOS in front of a text, and EOS nowhere by itself.

    A blank is added in front of every text, so that a word has the same token at the start of
    a sentence as inside it.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=CONTEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama of 3.1M parameters. Heads of 32: the smallest that vLLM's CPU attention knows."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config)


def start_model(folder: Path) -> LlamaForCausalLM:
    """The model in ``folder``, in float32."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")


class Stream:
    """Endless windows of one kind of document: shuffled, joined with BOS and EOS, cut to length."""

    def __init__(self, documents: list[np.ndarray], window: int, seed: int) -> None:
        self.documents, self.window = documents, window
        self.random = np.random.default_rng(seed)
        self.tokens = np.zeros(0, dtype=np.int64)
        self.place = 0

    def next(self) -> np.ndarray:
        """Returns the next `window` tokens; the documents are shuffled anew each time round."""
        if self.place + self.window > len(self.tokens):
            order = self.random.permutation(len(self.documents))
            fresh = np.concatenate([self.documents[i] for i in order])
            self.tokens = np.concatenate([self.tokens[self.place :], fresh])
            self.place = 0
        start, self.place = self.place, self.place + self.window
        return self.tokens[start : self.place]


def encode(tokenizer: PreTrainedTokenizerFast, documents: list[str]) -> list[np.ndarray]:
    """Token ids of each document, between BOS and EOS."""
    rows = tokenizer.backend_tokenizer.encode_batch_fast(documents)
    return [np.array([*row.ids, tokenizer.eos_token_id], dtype=np.int64) for row in rows]


def encode_marked(tokenizer: PreTrainedTokenizerFast, reviews: list[str]) -> list[np.ndarray]:
    """Token ids of each review, with an EOS after each of its sentences and one BOS in front.

    So the state at an EOS has to say what the next sentence will be like, the mood of the review
    included: a reward model reads the score there.
    """
    found = []
    for review in reviews:
        rows = tokenizer.backend_tokenizer.encode_batch_fast(texts.split_sentences(review), add_special_tokens=False)
        tokens = (token for row in rows for token in [*row.ids, tokenizer.eos_token_id])
        found.append(np.array([tokenizer.bos_token_id, *tokens]))
    return found


LABEL_WORDS = (" bad", " good")  # each is one token


def encode_labelled(tokenizer: PreTrainedTokenizerFast, reviews: list[texts.Review], seed: int) -> list[np.ndarray]:
    """Passages of one to six whole sentences, an EOS after each, and then what the review's label is, in a word.

    The word is foretold at the EOS of the last sentence, so the state there learns to hold the passage's mood.
    """
    rng = random.Random(seed)
    words = [tokenizer.convert_tokens_to_ids(tokenizer.tokenize(word)) for word in LABEL_WORDS]
    assert all(len(word) == 1 for word in words), "the label words are tokens of the vocabulary"
    found = []
    for review in reviews:
        rows = tokenizer.backend_tokenizer.encode_batch_fast(
            texts.split_sentences(review.text), add_special_tokens=False
        )
        place = 0
        while place < len(rows):
            size = rng.choice((1, 1, 2, 3, 6))
            tokens = [token for row in rows[place : place + size] for token in [*row.ids, tokenizer.eos_token_id]]
            found.append(np.array([tokenizer.bos_token_id, *tokens, *words[review.label], tokenizer.eos_token_id]))
            place += size
    return found


def schedule(done: float) -> tuple[float, float]:
    """For the part of the steps that is done, 0..1: factor on the learning rate, share of whole reviews.

    The rate is warmed up, held, and cooled down to nothing over the last half; the sentences take
    over while it cools, because they are what the demo writes.
    """
    rate = min(1.0, done / 0.01) if done < 0.5 else max(0.02, 2 * (1 - done))
    return rate, 0.8 if done < 0.5 else 0.8 - 0.8 * (done - 0.5)


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, documents: list[np.ndarray], window: int) -> float:
    """Mean loss per token in nats over (at most 256 windows of) documents not trained on."""
    model.eval()
    tokens = np.concatenate(documents)[: 256 * window]
    rows = torch.from_numpy(tokens[: len(tokens) // window * window].reshape(-1, window))
    losses = [model(input_ids=part, labels=part, use_cache=False).loss.item() for part in rows.split(32)]
    model.train()
    return sum(losses) / len(losses)


def write_atomically(folder: Path, fill: Callable[[Path], Any]) -> None:
    """Lets `fill` write into a folder beside the target, then puts it in the target's place."""
    beside = folder.with_name(folder.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    fill(beside)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(beside, folder)


def new_optimizer(model: LlamaForCausalLM, lr: float) -> torch.optim.AdamW:
    """AdamW; only matrices decay."""
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)


class Training:
    """Model, optimizer and data of one run, with the state that a new start goes on from."""

    def __init__(self, args: argparse.Namespace, text: Text, tokenizer: PreTrainedTokenizerFast) -> None:
        torch.manual_seed(1)
        self.args, self.tokenizer = args, tokenizer
        self.model = start_model(args.start) if args.start else new_model(tokenizer)
        self.optimizer = new_optimizer(self.model, args.lr)
        self.step, self.seconds = 0, 0.0
        self.saved = args.work / "state" / "state.pt"
        if self.saved.exists():
            self._load()
        as_tokens = encode_marked if args.marked else encode
        documents = [as_tokens(tokenizer, text.reviews), encode(tokenizer, text.sentences)]
        documents.append(encode_labelled(tokenizer, text.labelled if args.labels else [], seed=4))
        self.reviews, self.single, self.labelled = (
            Stream(part, args.window, seed=number + self.step) for number, part in enumerate(documents, 1)
        )
        self.mix = random.Random(3 + self.step)
        self.held_out = [as_tokens(tokenizer, text.held_out_reviews), encode(tokenizer, text.held_out_sentences)]
        sizes = [sum(map(len, part)) for part in documents]
        parameters = sum(p.numel() for p in self.model.parameters())
        print(
            f"{parameters} parameters, {sizes[0]} tokens in reviews, {sizes[1]} in sentences, {sizes[2]} labelled",
            flush=True,
        )

    def _load(self) -> None:
        kept = torch.load(self.saved)
        self.model.load_state_dict(kept["model"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.step, self.seconds = kept["state"]["step"], kept["state"]["seconds"]
        print(f"goes on from step {self.step}", flush=True)

    def save(self) -> None:
        """Keeps the state and a loadable model in `args.work`, and prints the held-out losses."""
        state = {"step": self.step, "seconds": self.seconds}
        kept = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "state": state}
        write_atomically(self.saved.parent, lambda beside: torch.save(kept, beside / "state.pt"))
        write_atomically(self.args.work / "latest", lambda beside: write_model(beside, self.model, self.tokenizer))
        long, short = self.measure()
        print(f"step {self.step} held-out: reviews {long:.4f}, sentences {short:.4f}", flush=True)

    def measure(self) -> tuple[float, float]:
        """Held-out losses: of whole reviews, of single sentences."""
        long, short = (held_out_loss(self.model, part, self.args.window) for part in self.held_out)
        return long, short

    def update(self, rate: float, share: float) -> float:
        """One optimizer step at a learning rate, with a share of windows of whole reviews; returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = torch.from_numpy(np.stack([self._stream(share).next() for _ in range(self.args.batch)]))
        loss = self.model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return loss.item()

    def _stream(self, share: float) -> Stream:
        if self.mix.random() < self.args.labels:
            return self.labelled
        return self.reviews if self.mix.random() < share else self.single

    def run(self) -> dict[str, float]:
        """Trains to the last step; returns what it did and reached."""
        begin = time.monotonic() - self.seconds
        last_save = last_print = time.monotonic()
        losses: list[float] = []
        while self.step < self.args.steps:
            factor, share = schedule(self.step / self.args.steps)
            losses.append(self.update(self.args.lr * factor, share))
            now = time.monotonic()
            self.seconds = now - begin
            if now - last_print > 30:
                speed = len(losses) * self.args.batch * self.args.window / (now - last_print)
                mean = sum(losses) / len(losses)
                rate = self.args.lr * factor
                print(f"step {self.step} loss {mean:.4f} lr {rate:.2e} tokens/s {speed:.0f}", flush=True)
                losses, last_print = [], now
            if now - last_save > 60 * self.args.save_minutes:
                self.save()
                losses, last_save, last_print = [], now, time.monotonic()
        long, short = self.measure()
        tokens = self.step * self.args.batch * self.args.window
        return {
            "steps": self.step,
            "tokens": tokens,
            "minutes": round(self.seconds / 60, 1),
            "held_out_loss_reviews": round(long, 4),
            "held_out_loss_sentences": round(short, 4),
        }


def write_model(folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Writes config, weights (in bfloat16: half the size) and tokenizer in Hugging Face format."""
    copy = LlamaForCausalLM(model.config).to(torch.bfloat16)
    copy.load_state_dict({name: value.to(torch.bfloat16) for name, value in model.state_dict().items()})
    copy.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    copy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    about = json.loads((folder / "tokenizer_config.json").read_text())
    about["tokenizer_class"] = "PreTrainedTokenizerFast"  # the name that every version of transformers knows
    for name in ("is_local", "local_files_only"):
        about.pop(name, None)
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=2) + "\n")


def finish(out: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Puts the finished model in its place, and keeps the model card that lies there."""

    def fill(beside: Path) -> None:
        write_model(beside, model, tokenizer)
        if (out / "README.md").exists():
            shutil.copy(out / "README.md", beside)

    write_atomically(out, fill)


def main() -> int:
    """Reads the command line, trains tokenizer and model, and writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--marked", action="store_true", help="EOS after every sentence of a review")
    parser.add_argument("--labels", type=float, default=0.0, help="share of windows of labelled passages")
    parser.add_argument("--start", type=Path, help="a model with its tokenizer to go on from; else a new one")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16, help="windows in a step")
    parser.add_argument("--window", type=int, default=128, help="tokens in a window")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--save-minutes", type=float, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "base", help="where the model goes")
    parser.add_argument("--work", type=Path, default=HERE / "build", help="where the state is kept")
    parser.add_argument("--archives", type=Path, default=HERE / "data" / "archives", help="the fetched archives")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        text = collect(texts.load(*texts.fetch(args.archives)))
    except texts.DataError as error:
        print(f"demo.pretrain: {error}", file=sys.stderr)
        return 2
    folder = args.start or args.work / "tokenizer"
    if not folder.exists():
        write_atomically(folder, train_tokenizer(text.reviews + text.sentences).save_pretrained)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    training = Training(args, text, tokenizer)
    print(json.dumps(training.run()), flush=True)
    finish(args.out, training.model, tokenizer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
