"""`rlhf-dist convert`: a file of one format to a file of another, and what is lost on the way."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlhf_dist.config.commands import Commands
from rlhf_dist.config.did_you_mean import suggest, suggest_path
from rlhf_dist.data.records import Record, kind_of, read_records
from rlhf_dist.durable import write_text_atomic
from rlhf_dist.errors import UserError
from rlhf_dist.labelling.formats import argilla, label_studio, nemo_rl, open_assistant, ours, pairs
from rlhf_dist.labelling.formats.contents import Contents, LabelFormat, losses

FORMATS: Mapping[str, LabelFormat] = {
    one.name: one
    for one in (
        ours.JUDGEMENTS,
        ours.CANDIDATES,
        ours.COMPARISONS,
        label_studio.FORMAT,
        argilla.FORMAT,
        open_assistant.FORMAT,
        nemo_rl.FORMAT,
        pairs.PAIRS,
        pairs.CONVERSATIONS,
    )
}


def add_convert(commands: Commands) -> None:
    """Adds the command and its options."""
    convert = commands.add_parser(
        "convert",
        help="turn labels from one format into another",
        description="Reads labels in one format, writes them in another, and says what the other cannot hold. See "
        "docs/sampling.md.",
        epilog="\n".join(["The formats:", *(f"{one.name}: {one.title}" for one in FORMATS.values())]),
    )
    convert.add_argument(
        "input", type=Path, metavar="IN", help=".jsonl, .json or .parquet file, or data set of the hub"
    )
    convert.add_argument("output", type=Path, metavar="OUT", help=".jsonl file, or .json file with a list of the rows")
    convert.add_argument("--from", required=True, dest="source", metavar="FORMAT", help="format of IN")
    convert.add_argument("--to", required=True, metavar="FORMAT", help="format of OUT")
    convert.add_argument(
        "--split", default="train", metavar="NAME", help="split of a data set of the hub (default train)"
    )
    convert.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def run(options: argparse.Namespace) -> None:
    """Converts a file, and says what came of it.

    Raises:
        UserError: an unknown format, a malformed file, one that is there already, or nothing to write.
    """
    source, target = _format(options.source, "--from"), _format(options.to, "--to")
    if options.output.suffix not in (".jsonl", ".json"):
        raise UserError(f"{options.output}: expected a name that ends with .jsonl or .json")
    if options.output.exists() and not options.overwrite:
        raise UserError(f"{options.output} is there already: choose another name, or replace it with --overwrite")
    contents = source.read(read_rows(str(options.input), options.split, source))
    rows = list(target.write(contents))
    if not rows:
        raise UserError(f"{options.input} holds nothing that {target.name} can hold{_told(contents, target)}")
    write_rows(options.output, rows, target)
    print(f"{options.output}: {len(rows)} rows of {target.name}")
    for line in (_listed(f"{source.name} said what is not kept here", contents.unread), _lost(contents, target)):
        if line:
            print(line)


def read_rows(path: str, split: str, source: LabelFormat) -> list[Record]:
    """The rows of a file: of a .json file, its list.

    Raises:
        UserError: the file is missing, empty or malformed.
    """
    if Path(path).suffix != ".json":
        return read_records(path, split)
    if not Path(path).is_file():
        raise UserError(f"there is no file {path}{suggest_path(path)}")
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from error
    if source.wrapped and isinstance(content, dict) and source.wrapped in content:
        content = content[source.wrapped]
    if not isinstance(content, list):
        raise UserError(f"{path} holds {kind_of(content)}, expected a list of rows")
    for place, row in enumerate(content, 1):
        if not isinstance(row, dict):
            raise UserError(f"{path} row {place}: {kind_of(row)}, expected an object of fields")
    if not content:
        raise UserError(f"{path} is empty")
    return [Record(f"{path} row {place}", row) for place, row in enumerate(content, 1)]


def write_rows(path: Path, rows: Sequence[Mapping[str, object]], target: LabelFormat) -> None:
    """Writes rows as lines if ``path`` ends with .jsonl, else as one JSON list, wrapped as ``target`` has it.

    Raises:
        UserError: the file cannot be written.
    """
    if path.suffix == ".jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        whole = {target.wrapped: rows} if target.wrapped else rows
        text = json.dumps(whole, ensure_ascii=False, indent=1) + "\n"
    try:
        write_text_atomic(path, text)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def _format(name: str, option: str) -> LabelFormat:
    if name not in FORMATS:
        raise UserError(f"{option} {name}: expected one of {', '.join(FORMATS)}{suggest(name, FORMATS)}")
    return FORMATS[name]


def _lost(contents: Contents, target: LabelFormat) -> str:
    return _listed(f"{target.name} cannot hold", losses(contents, target.holds))


def _told(contents: Contents, target: LabelFormat) -> str:
    lost = _lost(contents, target)
    return f" ({lost})" if lost else ""


def _listed(title: str, counts: Mapping[str, int]) -> str:
    return f"{title}: {', '.join(f'{count} {what}' for what, count in counts.items())}" if counts else ""
