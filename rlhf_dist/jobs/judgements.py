"""`rlhf-dist judgements`: what labellers said, how far they agree, and what their judgements become."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.text import Text

from rlhf_dist.durable import write_json_atomic, write_text_atomic
from rlhf_dist.errors import UserError, one_line
from rlhf_dist.jobs.outputs import check_outputs, console_for, guarded, written
from rlhf_dist.labelling.candidates import Ranking, load_candidates
from rlhf_dist.labelling.consensus import Choice, demonstrations_of, rankings_of
from rlhf_dist.labelling.estimates import Bootstrap
from rlhf_dist.labelling.judgements import Judgement, load_judgements, standing
from rlhf_dist.labelling.summary import summarize
from rlhf_dist.labelling.summary_tables import consensus_notes, headline, summary_tables
from rlhf_dist.labelling.tables import html_tables, print_tables
from rlhf_dist.page import escaped, page


def run(options: argparse.Namespace) -> None:
    """The command `judgements`, with the options of its command line.

    Raises:
        UserError: a file is missing or malformed, nothing was judged, or what was asked for cannot be made or written.
    """
    outputs = [path for path in (options.rankings, options.demonstrations, options.html, options.json) if path]
    check_outputs(outputs, [*options.judgements, *options.candidates])
    if options.resamples < 1:
        raise UserError("judgements: --resamples must be above 0")
    judgements = load_all(options.judgements)
    known = load_known(options.candidates, judgements)
    summary = summarize(judgements, known, Bootstrap(options.resamples, options.seed))
    tables, notes = summary_tables(summary), _written(options, judgements, known)

    console = console_for()
    console.print(Text(headline(summary)))
    console.print()
    print_tables(tables, console)
    for note in notes:
        console.print(Text(note), soft_wrap=not console.is_terminal)
    if options.json:
        written(options.json, lambda path: write_json_atomic(path, summary.to_json()), console)
    if options.html:
        paragraphs = "".join(f'<p class="note">{escaped(note)}</p>' for note in notes)
        files = ", ".join(Path(file).name for file in options.judgements)
        head = f'<h1>Judgements</h1>\n<p class="lead">{escaped(one_line(files))}: {escaped(headline(summary))}</p>'
        body = f"{head}\n{html_tables(tables)}\n" + (f"<h2>Written</h2>{paragraphs}" if notes else "")
        written(options.html, lambda path: write_text_atomic(path, page("Judgements", body)), console)


def load_all(paths: Iterable[str]) -> list[Judgement]:
    """The judgements of several files that hold, each once. UserError where there are none."""
    paths = list(paths)
    judgements = standing(one for path in paths for one in load_judgements(path))
    if not judgements:
        raise UserError(f"{', '.join(paths)}: no judgement stands there (yet)")
    return judgements


def load_known(paths: Iterable[str], judgements: Iterable[Judgement]) -> dict[str, Ranking]:
    """The known rankings of files of candidates, of the prompts that were judged."""
    judged = {one.prompt.id for one in judgements}
    rows = [row for path in paths for row in load_candidates(path)]
    return {row.prompt.id: row.known for row in rows if row.known is not None and row.prompt.id in judged}


def _written(options: argparse.Namespace, judgements: Sequence[Judgement], known: dict[str, Ranking]) -> list[str]:
    """Writes rankings and demonstrations where they are asked for. Returns what is to be said of them."""
    choice = Choice(options.source, options.keep_flagged, options.keep_calibration, known.keys())
    notes = []
    if options.rankings:
        consensus = rankings_of(judgements, choice)
        if not consensus.rows:
            left = ", ".join(f"{why}: {count}" for why, count in consensus.left_out.items())
            raise UserError(f"--rankings: no prompt has a ranking to write ({left or 'nothing was ranked'})")
        _write_rows(options.rankings, consensus.rows)
        notes += consensus_notes(consensus, str(options.rankings))
        if not options.candidates:
            notes.append("Prompts that calibrate labellers are known only where --candidates names their file.")
    if options.demonstrations:
        rows = demonstrations_of(judgements, choice)
        if not rows:
            raise UserError("--demonstrations: nobody wrote one")
        _write_rows(options.demonstrations, rows)
        notes.append(f"{options.demonstrations}: {len(rows):,} demonstration{'' if len(rows) == 1 else 's'}.")
    return notes


def _write_rows(path: Path, rows: Iterable[dict[str, object]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    guarded(path, lambda path: write_text_atomic(path, text))
