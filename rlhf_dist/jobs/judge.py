"""`rlhf-dist judge`: a function, a reward model or another model judges answers in a labeller's place."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from urllib.parse import urlsplit

from transformers.utils import logging

from rlhf_dist.config.paths import check_model_path
from rlhf_dist.config.schema import FrozenRoleConfig, ModelConfig
from rlhf_dist.controller.trainer import writing
from rlhf_dist.data.chat import ChatPrompt
from rlhf_dist.data.preferences import RankedAnswers
from rlhf_dist.data.records import Record
from rlhf_dist.data.tokenizer import load_tokenizer
from rlhf_dist.device import resolve
from rlhf_dist.engine.chat_judge import TEMPLATE, ChatJudge, check_template
from rlhf_dist.engine.function_reward import FunctionScorer
from rlhf_dist.engine.text_reward import check_scores
from rlhf_dist.errors import RunError, UserError
from rlhf_dist.jobs.reward_scores import checked_model, reward_engine, reward_scores
from rlhf_dist.labelling.candidates import Answer, Candidates, Ranking, load_candidates
from rlhf_dist.labelling.judgements import JudgementLog, Source, Task
from rlhf_dist.labelling.judging import (
    Verdict,
    both_ways,
    judged,
    judgement_id,
    ranking_by_pairs,
    ranking_by_scores,
    tasks_of,
)
from rlhf_dist.labelling.sample_request import named_model

_BATCH = 16  # judgements that are made, and written, at a time
_UNREADABLE = 8  # verdicts that cannot be read, none before them being one: then the judge is none

_Asked = tuple[Candidates, tuple[Answer, ...]]
_Rank = Callable[[Sequence[_Asked]], list[Ranking]]


@dataclass(frozen=True)
class _Judge:
    """Who judges.

    Attributes:
        labeller: the name.
        source: what it is.
        rank: the rankings of answers; empty where there is no verdict.
    """

    labeller: str
    source: Source
    rank: _Rank


def run(options: argparse.Namespace) -> None:
    """The command `judge`, with the options of its command line: judges what it has not judged in the file before.

    Raises:
        UserError: a mistake in the options, the candidates or the function.
        RunError: the function or the endpoint failed; what was judged is kept.
    """
    logging.disable_progress_bar()
    for name, least in (("max_tokens", 1), ("parallel", 1), ("retries", 0), ("timeout", 0.001)):
        if not getattr(options, name) >= least:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: expected {least} or more")
    rows = load_candidates(options.candidates, options.split)
    task: Task = options.task
    with _judge(options) as judge, JudgementLog(options.out) as log:
        there = {one.id for one in log.standing}
        asked = [(row, answers) for row in rows for answers in tasks_of(row, task)]
        left = [one for one in asked if judgement_id(*one, task, judge.labeller) not in there]
        if not asked:
            raise UserError(f"{options.candidates} has no prompt with two answers or more: there is nothing to judge")
        told: Counter[str] = Counter()
        for start in range(0, len(left), _BATCH):
            batch = left[start : start + _BATCH]
            for (row, answers), ranking in zip(batch, judge.rank(batch), strict=True):
                with writing(options.out):
                    log.append(judged(row, answers, task, judge.labeller, judge.source, ranking))
                told["without a verdict"] += not ranking
                told["with a tie"] += any(len(tied) > 1 for tied in ranking)
            print(f"{judge.labeller}: {len(asked) - len(left) + start + len(batch)} of {len(asked)}", flush=True)
    counts = ", ".join(f"{count} {what}" for what, count in told.items() if count)
    print(f"{options.out}: {len(left)} judgements of {judge.labeller}" + (f" ({counts})" if counts else ""))


def judge_name(options: argparse.Namespace) -> str:
    """The labeller's name in the judgements: the one that was given, else the function's or the model's."""
    if options.name:
        return str(options.name)
    if options.function is not None:
        return str(options.function.rpartition(":")[2])
    return str(options.model) if options.reward_model is None else named_model(options.reward_model)[0]


@contextmanager
def _judge(options: argparse.Namespace) -> Iterator[_Judge]:
    if options.function is not None:
        scorer = FunctionScorer(options.function, options.timeout, "judge", "--timeout")
        yield _Judge(judge_name(options), "function", lambda asked: _by_function(scorer, asked))
    elif options.reward_model is not None:
        with _reward_model(options) as rank:
            yield _Judge(judge_name(options), "model", rank)
    else:
        judge = _chat_judge(options)
        yield _Judge(judge_name(options), "endpoint", _Endpoint(judge).rank)


def _by_function(scorer: FunctionScorer, asked: Sequence[_Asked]) -> list[Ranking]:
    prompts = [_text(row) for row, answers in asked for _ in answers]
    scores = check_scores(scorer, prompts, [answer.text for _, answers in asked for answer in answers])
    return _rankings(asked, scores)


def _rankings(asked: Sequence[_Asked], scores: Sequence[float]) -> list[Ranking]:
    rankings, start = [], 0
    for _, answers in asked:
        rankings.append(ranking_by_scores(answers, scores[start : start + len(answers)]))
        start += len(answers)
    return rankings


def _text(row: Candidates) -> str:
    return _chat(row).text


def _chat(row: Candidates) -> ChatPrompt:
    return ChatPrompt(Record(f"prompt {row.prompt.id}", {}), list(row.prompt.messages), row.prompt.plain)


@contextmanager
def _reward_model(options: argparse.Namespace) -> Iterator[_Rank]:
    path, trust = options.reward_model, options.trust_remote_code
    check_model_path(path, "--reward-model")
    tokenizer, most = load_tokenizer(path, trust), checked_model(path, trust, None)
    role = FrozenRoleConfig(model=ModelConfig(path=path, trust_remote_code=trust))
    with reward_engine(role, resolve(options.device)) as engine:

        def rank(asked: Sequence[_Asked]) -> list[Ranking]:
            rows = [
                RankedAnswers(
                    _chat(row),
                    [answer.text for answer in answers],
                    list(range(1, len(answers) + 1)),
                    None,
                    [answer.model for answer in answers],
                )
                for row, answers in asked
            ]
            scores = reward_scores(engine, rows, tokenizer, most, False)
            return _rankings(asked, [score for given in scores for score in given])

        yield rank


def _chat_judge(options: argparse.Namespace) -> ChatJudge:
    parts = urlsplit(options.endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError("--endpoint: expected an http or https URL, such as http://localhost:8000/v1")
    if options.model is None:
        raise UserError("--endpoint needs --model NAME, the name by which the endpoint knows the model")
    token = None
    if options.token_env is not None:
        token = os.environ.get(options.token_env, "").strip()
        if not token:
            raise UserError(f"--token-env {options.token_env}: there is no such environment variable, or it is empty")
    template = TEMPLATE
    if options.template is not None:
        try:
            template = Path(options.template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--template {options.template} cannot be read: {error}") from error
        check_template(template, f"--template {options.template}")
    return ChatJudge(
        options.endpoint,
        options.model,
        template,
        options.timeout,
        options.retries,
        token,
        options.max_tokens,
        options.parallel,
    )


class _Endpoint:
    """Ranks by the verdicts of an endpoint on each pair, asked for in both orders."""

    def __init__(self, judge: ChatJudge) -> None:
        self._judge = judge
        self._read, self._unread = 0, 0

    def rank(self, asked: Sequence[_Asked]) -> list[Ranking]:
        """The rankings; RunError where the endpoint fails, or says nothing that is a verdict."""
        pairs = [(row, pair) for row, answers in asked for pair in combinations(answers, 2)]
        there = [(_text(row), first.text, second.text) for row, (first, second) in pairs]
        back = [(text, second, first) for text, first, second in there]
        said = [None if word is None else Verdict(word) for word in self._judge.verdicts([*there, *back])]
        self._count(said)
        verdicts = iter(map(both_ways, said[: len(pairs)], said[len(pairs) :]))
        rankings = []
        for _, answers in asked:
            of = {(first.id, second.id): next(verdicts) for first, second in combinations(answers, 2)}
            rankings.append(ranking_by_pairs(answers, of))
        return rankings

    def _count(self, said: Sequence[Verdict | None]) -> None:
        self._read += sum(verdict is not None for verdict in said)
        self._unread += sum(verdict is None for verdict in said)
        if not self._read and self._unread >= _UNREADABLE:
            raise RunError(
                f"{self._judge.name} gave {self._unread} replies and no verdict: the last line must be A, B or TIE; "
                f"one reply ends with {self._judge.last_unread!r}"
            )
