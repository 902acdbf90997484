"""The file that sampled answers go to, prompt by prompt, and what a second call needs to go on with it.

Beside `candidates.jsonl` stands `candidates.sampling.jsonl`. Its first line says how the answers were sampled; where
there are several models, what all but the last of them have answered follows, until the prompt is whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlhf_dist.data.records import Record
from rlhf_dist.errors import UserError
from rlhf_dist.labelling.candidates import Answer, Candidates, Prompt, read_answers, read_candidates
from rlhf_dist.labelling.lines import LineLog
from rlhf_dist.labelling.sampling import SampledModel, SampleSettings, Wanted, same_text, share

_OPTIONS = {
    "answers": "--k",
    "temperature": "--temperature",
    "top_p": "--top-p",
    "top_k": "--top-k",
    "max_tokens": "--max-tokens",
    "seed": "--seed",
    "backend": "--backend",
    "redraws": "--redraws",
}


class SampleFile:
    """The two files, opened for going on. A context manager.

    Args:
        out: the file of candidates.
        settings: of the sampling.
        models: that are sampled from, in this order.
        prompts: to be answered, in this order, each once.
        overwrite: begin anew, whatever is there.

    Raises:
        UserError: what is there was sampled otherwise; the text says what differs. Or it cannot be written.
    """

    def __init__(
        self,
        out: Path,
        settings: SampleSettings,
        models: Sequence[SampledModel],
        prompts: Sequence[Prompt],
        overwrite: bool,
    ) -> None:
        if out.suffix != ".jsonl":
            raise UserError(f"--out {out}: expected a name that ends with .jsonl")
        self.out, self.settings, self.models, self.prompts = out, settings, tuple(models), tuple(prompts)
        self._rows = LineLog(out)
        try:
            self._notes = LineLog(out.with_suffix(".sampling.jsonl"))
            try:
                self._open(overwrite)
            except BaseException:
                self._notes.close()
                raise
        except BaseException:
            self._rows.close()
            raise

    def __enter__(self) -> SampleFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._notes.close()
        self._rows.close()

    @property
    def whole(self) -> int:
        """How many prompts are whole."""
        return len(self._whole)

    @property
    def short(self) -> list[int]:
        """The numbers of answers of those prompts that have fewer than were wanted."""
        return [len(row.answers) for row in self._whole if len(row.answers) < self.settings.answers]

    def pending(self, model: int) -> list[int]:
        """The numbers of the prompts that a model, the first is 0, has not answered."""
        name = self.models[model].name
        return [row for row in range(self.whole, len(self.prompts)) if (self.prompts[row].id, name) not in self._parts]

    def wanted(self, model: int, row: int) -> Wanted:
        """What a model is to answer to a prompt, the models before it having answered."""
        prompt = self.prompts[row]
        taken = {same_text(answer.text) for answer in self._answers_before(model, prompt)}
        return Wanted(prompt, share(self.settings.answers, len(self.models), model, row), taken)

    def add(self, model: int, answers: Mapping[int, tuple[Answer, ...]]) -> None:
        """Keeps what a model answered: by the prompt's number, in order. It is on the disk then.

        Raises:
            OSError: the disk is full, or gone.
        """
        if model == len(self.models) - 1:
            rows = [
                Candidates(self.prompts[row], (*self._answers_before(model, self.prompts[row]), *given))
                for row, given in answers.items()
            ]
            self._rows.append(*(row.to_json() for row in rows))
            self._whole += rows
            return
        name = self.models[model].name
        self._notes.append(
            *(
                {"prompt_id": self.prompts[row].id, "model": name, "answers": [answer.to_json() for answer in given]}
                for row, given in answers.items()
            )
        )
        self._parts |= {(self.prompts[row].id, name): given for row, given in answers.items()}

    def _answers_before(self, model: int, prompt: Prompt) -> list[Answer]:
        return [answer for before in self.models[:model] for answer in self._parts[prompt.id, before.name]]

    def _open(self, overwrite: bool) -> None:
        self._whole: list[Candidates] = []
        self._parts: dict[tuple[str, str], tuple[Answer, ...]] = {}
        if overwrite:
            self._rows.clear()
            self._notes.clear()
        notes, rows = self._notes.rows(), self._rows.rows()
        if rows and not notes:
            raise UserError(
                f"{self.out} is there already, and {self._notes.path}, which would say how it was sampled, is not: "
                "choose another --out, or replace it with --overwrite"
            )
        if not rows and len(notes) <= 1:  # a call that ended before the first answer binds nobody
            self._notes.clear()
            self._notes.append(self._header())
            return
        self._check_same(notes[0])
        for note in notes[1:]:
            prompt, model = note.text("prompt_id"), note.text("model")
            self._parts[prompt, model] = read_answers(note, prompt)
        self._whole = [read_candidates(row) for row in rows]
        self._check_prompts(rows)

    def _header(self) -> dict[str, object]:
        return {"settings": asdict(self.settings), "models": [asdict(model) for model in self.models]}

    def _check_same(self, header: Record) -> None:
        before, now = header.object("settings"), asdict(self.settings)
        differs = [
            f"{option} {before.get(name)}, now {now[name]}"
            for name, option in _OPTIONS.items()
            if before.get(name) != now[name]
        ]
        differs += _other_models(header.list("models"), [asdict(model) for model in self.models])
        if differs:
            raise UserError(
                f"{self.out} was sampled otherwise: {'; '.join(differs)}: use the same, choose another --out, or "
                "replace it with --overwrite"
            )

    def _check_prompts(self, rows: Sequence[Record]) -> None:
        """What is whole must answer the first of the prompts; of more than are asked for now, there may be answers."""
        for row, there, prompt in zip(rows, self._whole, self.prompts, strict=False):
            if there.prompt.id != prompt.id:
                raise row.error(
                    "this answers another prompt than --prompts has in its place: use the same prompts, choose another "
                    "--out, or replace it with --overwrite"
                )


def _other_models(before: Sequence[Any], now: Sequence[Mapping[str, Any]]) -> list[str]:
    """What differs between two lists of models; a path may change, as long as the model behind it is the same."""
    names = [[model["name"] for model in models] for models in (before, now)]
    if names[0] != names[1]:
        return [f"--model {', '.join(names[0])}, now {', '.join(names[1])}"]
    return [
        f"--model {then['name']} has other weights or configuration now"
        for then, here in zip(before, now, strict=True)
        if then["fingerprint"] != here["fingerprint"]
    ]
