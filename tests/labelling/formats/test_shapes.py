"""Rows in the shapes that other tools write: read as what they say, and what cannot be kept is named."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rlhf_dist.__main__ import main
from rlhf_dist.data.records import Record
from rlhf_dist.errors import UserError
from rlhf_dist.labelling.formats.contents import Contents
from rlhf_dist.labelling.formats.convert import FORMATS
from rlhf_dist.labelling.judgements import Judgement, load_judgements
from tests.labelling.made import ranked
from tests.tiny import write_jsonl


def read(name: str, *rows: dict[str, Any]) -> Contents:
    return FORMATS[name].read([Record(f"file row {place}", row) for place, row in enumerate(rows, 1)])


def levels(judgement: Judgement) -> list[list[str]]:
    texts = {answer.id: answer.text for answer in judgement.answers}
    return [sorted(texts[name] for name in tied) for tied in judgement.ranking]


def studio(*results: dict[str, Any], **fields: Any) -> dict[str, Any]:
    items = [
        {"id": "m_1", "title": "First", "body": "Rain fell."},
        {"id": "m_2", "title": "Second", "body": "It rained."},
        {"id": "m_3", "title": "Third", "body": "Wet."},
    ]
    annotation = {
        "id": 41,
        "completed_by": 7,
        "lead_time": 12.5,
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": "2026-03-01T10:00:00.000000Z",
        "result": list(results),
    }
    return {
        "id": 3,
        "data": {"prompt": "Say that it rained.", "items": items},
        "annotations": [annotation | fields],
        "predictions": [],
    }


def ranker(value: dict[str, list[str]]) -> dict[str, Any]:
    return {"id": "aB3", "from_name": "rank", "to_name": "results", "type": "ranker", "value": {"ranker": value}}


def test_label_studios_ranker_is_a_ranking_with_its_annotator_and_time() -> None:
    (judgement,) = read("label-studio", studio(ranker({"rank": ["m_2", "m_1", "m_3"]}))).judgements
    assert levels(judgement) == [["It rained."], ["Rain fell."], ["Wet."]]
    assert (judgement.labeller, judgement.seconds, judgement.source) == ("7", 12.5, "person")
    assert judgement.at == "2026-03-01T10:00:00.000000Z"
    assert judgement.answers[0].details == {"title": "First"}


def test_label_studios_buckets_are_ranks_by_the_numbers_in_their_names() -> None:
    value = {"_": [], "tier10": ["m_1"], "tier2": ["m_2", "m_3"], "tier1": []}
    (judgement,) = read("label-studio", studio(ranker(value))).judgements
    assert levels(judgement) == [["It rained.", "Wet."], ["Rain fell."]]


def test_label_studios_buckets_without_an_order_are_refused() -> None:
    with pytest.raises(UserError, match="nobody can tell which bucket of bad, good is the best"):
        read("label-studio", studio(ranker({"good": ["m_1", "m_2"], "bad": ["m_3"], "_": []})))


def test_label_studios_unsorted_items_make_no_ranking_and_are_counted() -> None:
    contents = read("label-studio", studio(ranker({"_": ["m_3"], "rank_1": ["m_1"], "rank_2": ["m_2"]})))
    assert contents.judgements == [] and contents.unread["rankings that leave answers unsorted"] == 1


def test_label_studios_ratings_and_choices_belong_to_the_answer_of_their_control() -> None:
    results = [
        {"from_name": "quality_2", "to_name": "answer_2", "type": "rating", "value": {"rating": 5}},
        {"from_name": "harmful", "to_name": "m_1", "type": "choices", "value": {"choices": ["No"]}},
        {"from_name": "all", "to_name": "text", "type": "rating", "value": {"rating": 3}},
    ]
    contents = read("label-studio", studio(*results))
    (judgement,) = contents.judgements
    assert judgement.ratings == {"m_2": {"quality": 5}, "m_1": {"harmful": False}} and judgement.task == "rate"
    assert contents.unread == {"results of other kinds, or not of one answer": 1}


def test_label_studios_predictions_are_a_models_and_cancelled_ones_skipped() -> None:
    row = studio(was_cancelled=True)
    prediction = {"model_version": "judge-3", "result": [ranker({"rank": ["m_1", "m_2", "m_3"]})]}
    contents = read("label-studio", row | {"predictions": [prediction]})
    assert [(one.labeller, one.source, one.skipped) for one in contents.judgements] == [
        ("7", "person", "skipped"),
        ("judge-3", "model", ""),
    ]


def test_label_studio_is_told_of_annotators_by_address_alone_as_it_refuses_unknown_ones() -> None:
    """Label Studio 1.23.2 imports no file in which `completed_by` names somebody without an account."""
    contents = Contents([ranked("q", "ann@example.org", "a>b"), ranked("q", "bob", "b>a")])
    (task,) = FORMATS["label-studio"].write(contents)
    assert [one["completed_by"] for one in task["annotations"]] == [{"email": "ann@example.org"}, None]
    imported = task | {"annotations": [one | {"completed_by": 1} for one in task["annotations"]]}  # what it exports
    assert [one.labeller for one in read("label-studio", imported).judgements] == ["ann@example.org", "bob"]


def test_a_task_that_nobody_annotated_is_a_candidate() -> None:
    contents = read("label-studio", studio() | {"annotations": []})
    assert [len(one.answers) for one in contents.candidates] == [3] and contents.judgements == []


def argilla(values: dict[str, Any] | None, **fields: Any) -> dict[str, Any]:
    user = "c9a7a3f2-1d1e-4a9f-8e5e-000000000001"
    response = {
        "id": "c9a7a3f2-1d1e-4a9f-8e5e-0000000000aa",
        "values": values,
        "status": "submitted",
        "user_id": user,
        "inserted_at": "2026-03-01T10:00:00",
        "updated_at": "2026-03-01T10:05:00",
    }
    texts = {"prompt": "Say that it rained.", "answer_1": "Rain fell.", "answer_2": "It rained.", "answer_3": "Wet."}
    return {"id": "r", "fields": texts, "metadata": None, "external_id": "p-9", "responses": [response | fields]}


def ranks(*given: int | None) -> dict[str, Any]:
    return {"ranking": {"value": [{"value": f"answer_{n}", "rank": rank} for n, rank in enumerate(given, 1)]}}


def test_argillas_ranks_keep_their_ties() -> None:
    (judgement,) = read("argilla", argilla(ranks(2, 1, 1))).judgements
    assert levels(judgement) == [["It rained.", "Wet."], ["Rain fell."]]
    assert judgement.labeller == "c9a7a3f2-1d1e-4a9f-8e5e-000000000001" and judgement.prompt.id == "p-9"
    assert judgement.at == "2026-03-01T10:05:00"


def test_argillas_drafts_and_unfinished_rankings_are_counted_and_discarded_ones_skipped() -> None:
    contents = read(
        "argilla",
        argilla(ranks(1, 2, 3), status="draft"),
        argilla(ranks(1, 2, None)),
        argilla(None, status="discarded"),
        argilla({"quality_2": {"value": 4}, "safe_1": {"value": "yes"}, "topic": {"value": ["rain"]}}),
    )
    assert [one.skipped for one in contents.judgements] == ["", "skipped", ""]
    assert [rating for one in contents.judgements for rating in one.ratings.values()] == [
        {"quality": 4},
        {"safe": True},
    ]
    assert contents.unread == {"drafts": 1, "rankings that leave answers out": 1, "answers to other questions": 1}


def tree() -> dict[str, Any]:
    def reply(name: str, text: str, rank: int | None) -> dict[str, Any]:
        message = {"message_id": name, "parent_id": "root", "text": text, "role": "assistant", "lang": "en"}
        return message | {"replies": []} | ({} if rank is None else {"rank": rank})

    replies = [reply("r1", "Rain fell.", 1), reply("r2", "It rained.", 0), reply("r3", "Wet.", None)]
    root = {"message_id": "root", "text": "Say that it rained.", "role": "prompter", "replies": replies}
    return {"message_tree_id": "root", "tree_state": "ready_for_export", "prompt": root}


def test_open_assistants_events_are_rankings_in_the_order_they_were_shown() -> None:
    row = tree()
    row["prompt"]["events"] = {
        "ranking": [
            {"type": "ranking", "user_id": "u1", "ranking": [2, 0, 1], "ranked_message_ids": ["r3", "r1", "r2"]},
            {"type": "ranking", "user_id": "u2", "ranking": [], "ranked_message_ids": [], "not_rankable": True},
            {"type": "ranking", "user_id": "u3", "ranking": [0, 1], "ranked_message_ids": ["r1", "gone"]},
        ]
    }
    contents = read("open-assistant", row)
    first, second = contents.judgements
    assert levels(first) == [["Wet."], ["Rain fell."], ["It rained."]]
    assert [answer.id for answer in first.answers] == ["r1", "r2", "r3"] and first.labeller == "u1"
    assert (second.labeller, second.skipped, second.ranking) == ("u2", "not rankable", ())
    assert sum(contents.unread.values()) == 1


def test_open_assistants_published_ranks_are_the_judgement_of_the_consensus() -> None:
    (judgement,) = read("open-assistant", tree()).judgements
    assert levels(judgement) == [["It rained."], ["Rain fell."]] and judgement.labeller == "consensus"


def test_open_assistants_flat_messages_are_read_as_their_trees() -> None:
    root = {key: value for key, value in tree()["prompt"].items() if key != "replies"}
    follow = {"message_id": "more", "parent_id": "r1", "text": "Again.", "role": "prompter"}
    rows = [root, *tree()["prompt"]["replies"], follow]
    contents = read("open-assistant", *rows)
    assert levels(contents.judgements[0]) == [["It rained."], ["Rain fell."]]
    (leaf,) = contents.candidates
    assert [message["content"] for message in leaf.prompt.messages] == ["Say that it rained.", "Rain fell.", "Again."]


def test_nemo_rls_lowest_rank_is_the_best() -> None:
    def said(text: str, rank: int) -> dict[str, Any]:
        return {"rank": rank, "completion": [{"role": "assistant", "content": text}]}

    context = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say that it rained."}]
    row = {"context": context, "completions": [said("Wet.", 1), said("It rained.", 0)], "task_name": "t"}
    (judgement,) = read("nemo-rl", row).judgements
    assert levels(judgement) == [["It rained."], ["Wet."]] and list(judgement.prompt.messages) == context


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


CHOSEN, REJECTED = [user("Rain?"), assistant("Yes.")], [user("Rain?"), assistant("No.")]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Rain?", "chosen": "Yes.", "rejected": "No."},
        {"prompt": [user("Rain?")], "chosen": [assistant("Yes.")], "rejected": [assistant("No.")]},
        {
            "prompt": "Rain?",
            "chosen": [user("Rain?"), assistant("Yes.")],
            "rejected": [user("Rain?"), assistant("No.")],
        },
        {"chosen": [user("Rain?"), assistant("Yes.")], "rejected": [user("Rain?"), assistant("No.")]},
        {"chosen": "\n\nHuman: Rain?\n\nAssistant: Yes.", "rejected": "\n\nHuman: Rain?\n\nAssistant: No."},
    ],
)
def test_chosen_and_rejected_are_read_in_every_shape(row: dict[str, Any]) -> None:
    (judgement,) = read("pairs", row).judgements
    assert levels(judgement) == [["Yes."], ["No."]] and list(judgement.prompt.messages) == [user("Rain?")]


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("pairs", {"prompt": "a", "chosen": "b"}, "'rejected' is missing"),
        ("pairs", {"chosen": "b", "rejected": "c"}, "there is no 'prompt', and 'chosen' is no dialogue"),
        (
            "pairs",
            {"chosen": [user("a"), assistant("b")], "rejected": [user("z"), assistant("c")]},
            "answer different prompts",
        ),
        ("nemo-rl", {"context": [user("a")], "completions": [{"rank": 0, "completion": []}]}, "'messages' is empty"),
        ("label-studio", {"data": {"prompt": "a", "texts": ["b"]}}, "there is no list 'items' of objects with an id"),
        ("label-studio", studio(ranker({"rank": ["m_1", "m_9", "m_3"]})), "ranks m_1, m_9, m_3; the items are m_1"),
        ("argilla", {"fields": {"prompt": "a", "answer_2": "b"}}, "expected answer_1, answer_2 and so on"),
        ("argilla", argilla({"ranking": {"value": [{"value": "b", "rank": 1}]}}), "ranks 'b'; expected answer_1"),
        ("open-assistant", {"message_id": "a", "text": "b", "role": "judge"}, "is 'judge', expected prompter"),
        ("comparisons", {"prompt": "a", "responses": ["b"], "ranking": [1, 2]}, "has 2 entries for 1 responses"),
    ],
)
def test_a_malformed_row_is_named(name: str, row: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=r"^file row 1") as error:
        read(name, row)
    assert said in str(error.value)


def test_a_file_is_converted_and_what_is_lost_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export, ours, back = tmp_path / "export.json", tmp_path / "j.jsonl", tmp_path / "pairs.jsonl"
    value = {"rank_1": ["m_1", "m_2"], "rank_2": ["m_3"]}
    results = [ranker(value), {"from_name": "x", "to_name": "y", "type": "labels", "value": {"labels": ["z"]}}]
    export.write_text(json.dumps([studio(*results)]))
    assert main(["convert", str(export), str(ours), "--from", "label-studio", "--to", "judgements"]) == 0
    assert "said what is not kept here: 1 results of other kinds" in capsys.readouterr().out
    assert [levels(one) for one in load_judgements(str(ours))] == [[["It rained.", "Rain fell."], ["Wet."]]]
    assert main(["convert", str(ours), str(back), "--from", "judgements", "--to", "pairs"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{back}: 2 rows of pairs",
        "pairs cannot hold: 3 answers with how they were sampled, 1 labellers' names, 1 times, 1 rankings with ties, "
        "1 rankings of more than two answers as a whole (each pair is a row)",
    ]
    again = tmp_path / "again.json"
    assert main(["convert", str(ours), str(again), "--from", "judgements", "--to", "argilla"]) == 0
    assert json.loads(again.read_text()).keys() == {"items"}
    assert main(["convert", str(again), str(ours), "--from", "argilla", "--to", "judgements", "--overwrite"]) == 0
    assert [one.labeller for one in load_judgements(str(ours))] == ["7"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "in.jsonl out.jsonl --from label_studio --to pairs",
            "--from label_studio: expected one of .*did you mean label",
        ),
        ("in.jsonl out.csv --from pairs --to nemo-rl", "out.csv: expected a name that ends with .jsonl or .json"),
        ("in.jsonl in.jsonl --from pairs --to nemo-rl", "in.jsonl is there already"),
        ("in.json out.jsonl --from pairs --to nemo-rl", "there is no file in.json .did you mean in.jsonl"),
        ("in.jsonl out.jsonl --from candidates --to pairs", "holds nothing that pairs can hold .*1 prompts without"),
    ],
)
def test_a_mistake_of_convert_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "in.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c", "answers": []}])
    assert main(["convert", *words.split()]) == 2
    shown = capsys.readouterr().err
    assert re.search(said, shown) and len(shown.splitlines()) == 1
