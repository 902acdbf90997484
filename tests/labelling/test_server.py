"""The page's server, in this process: who may ask for what, what a browser is told, and what it never is."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from rlhf_dist.labelling.assignments import Rules
from rlhf_dist.labelling.candidates import Answer, Candidates, Prompt
from rlhf_dist.labelling.desk import Desk
from rlhf_dist.labelling.items import items_of
from rlhf_dist.labelling.judgements import Task, load_judgements
from rlhf_dist.labelling.links import OPERATOR, Links, read_links
from rlhf_dist.labelling.server import Site, make_app

SECRET_MODEL, SECRET_ID = "the-secret-model", "secret-id"
INJECTION = "<script>alert(1)</script><img src=x onerror=alert(2)>[x](javascript:alert(3))![y](http://outside/z)"


def candidates(count: int = 4) -> list[Candidates]:
    found = []
    for place in range(count):
        messages = ({"role": "user", "content": f"prompt {place} {INJECTION}"},)
        answers = tuple(
            Answer(f"{SECRET_ID}-{name}", f"answer {name} {INJECTION}", f"{SECRET_MODEL}-{name}", {"seed": 4711})
            for name in "xyz"
        )
        known = ((f"{SECRET_ID}-x",), (f"{SECRET_ID}-y", f"{SECRET_ID}-z")) if place == 0 else None
        found.append(Candidates(Prompt(f"p{place}", messages, None), answers, known))
    return found


class World:
    """A labelling with its server, and browsers that ask it."""

    def __init__(self, out: Path, task: Task, **more: Any) -> None:
        rows = candidates()
        names = more.pop("labellers", ["ann", "bob"])
        items = items_of(rows, task, more.pop("shared", 0.0), False, 0)
        rules = Rules(0, more.pop("known", 0.0), more.pop("lease_s", 1800.0))
        self.out, self.desk = out, Desk(out, task, items, names, rules)
        self.links: Links = read_links(out.with_suffix(".links.json"), names, {})
        known = {row.prompt.id: row.known for row in rows if row.known}
        self.site = Site(self.desk, self.links, known, "# Be kind", frozenset({"127.0.0.1"}), **more)

    @asynccontextmanager
    async def browsers(self, *names: str) -> AsyncIterator[list[TestClient[Any, Any]]]:
        """One browser a name, signed in; one that is not, for None."""
        server = TestServer(make_app(self.site), host="127.0.0.1")
        await server.start_server()
        clients = [TestClient(server, cookie_jar=aiohttp.CookieJar(unsafe=True)) for _ in names]
        try:
            for client, name in zip(clients, names, strict=True):
                if name != "stranger":
                    answer = await client.post("/api/join", json={"token": self.links.tokens[name]})
                    assert answer.status == 200
            yield clients
        finally:
            for client in clients:
                await client.close()
            self.desk.__exit__()


Test = Callable[..., Awaitable[None]]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., World]:
    """Runs a test with browsers of these names against a labelling."""

    def go(test: Test, *names: str, task: Task = "rank", **more: Any) -> World:
        world = World(tmp_path / "out.jsonl", task, **more)

        async def inside() -> None:
            async with world.browsers(*names) as browsers:
                await test(world, *browsers)

        asyncio.run(inside())
        return world

    return go


RANKED = {"ranking": [["C"], ["A", "B"]], "seconds": 3}


async def judge(browser: TestClient[Any, Any], **fields: Any) -> dict[str, Any]:
    """Judges what is next, and returns the sheet."""
    shown = (await (await browser.get("/api/task")).json())["sheet"]
    answer = await browser.post(f"/api/judgements/{shown['id']}", json=RANKED | fields)
    assert answer.status == 200, await answer.text()
    return dict(shown)


def test_two_labellers_get_different_prompts_and_their_judgements_are_kept(run: Callable[..., World]) -> None:
    async def test(world: World, ann: Any, bob: Any) -> None:
        seen = [(await judge(browser))["messages"][0]["text"] for browser in (ann, bob, ann)]
        assert len(set(seen)) == 3
        assert (await (await ann.get("/api/task")).json())["progress"]["done"] == 2

    world = run(test, "ann", "bob")
    assert [one.labeller for one in load_judgements(str(world.out))] == ["ann", "bob", "ann"]


@pytest.mark.parametrize("task", ["rank", "compare", "rate", "demonstrate"])
def test_nothing_that_a_browser_gets_tells_an_answers_model_id_or_place(run: Callable[..., World], task: Task) -> None:
    async def test(world: World, ann: Any) -> None:
        shown = await ann.get("/api/task")
        told = await shown.text() + str(shown.headers) + await (await ann.get("/api/start")).text()
        for secret in (SECRET_MODEL, SECRET_ID, "4711", "known", "bob"):
            assert secret not in told

    run(test, "ann", task=task)


def test_what_others_do_changes_nothing_in_what_a_labeller_sees(run: Callable[..., World]) -> None:
    async def test(world: World, ann: Any, bob: Any) -> None:
        before = await (await ann.get("/api/task")).json()
        for _ in range(2):
            await judge(bob, note="from bob", flag="bob's flag")
        assert await (await ann.get("/api/task")).json() == before
        back = await (await ann.get("/api/task", params={"before": before["sheet"]["assignment"]})).json()
        assert back["sheet"] is None

    run(test, "ann", "bob", shared=0.5)


def test_injected_html_arrives_as_text(run: Callable[..., World]) -> None:
    async def test(world: World, ann: Any) -> None:
        shown = (await (await ann.get("/api/task")).json())["sheet"]
        for text in shown["messages"] + shown["answers"]:
            assert INJECTION in text["text"]
            for harm in ("<script", "<img", "<a "):
                assert harm not in text["html"]
            assert "&lt;script&gt;" in text["html"]

    run(test, "ann")


@pytest.mark.parametrize(
    ("method", "path"),
    [("get", "/api/start"), ("get", "/api/task"), ("get", "/api/overview"), ("post", "/api/alive")]
    + [("post", "/api/judgements/1")],
)
def test_a_stranger_gets_nothing(run: Callable[..., World], method: str, path: str) -> None:
    async def test(world: World, stranger: Any) -> None:
        for cookie in ({}, {"Cookie": f"rlhf-label-{world.links.mark}=wrong; rlhf-operator-{world.links.mark}="}):
            more = {"json": {}} if method == "post" else {}
            answer = await getattr(stranger, method)(path, headers=cookie, **more)
            assert answer.status == 401 and "link again" in (await answer.json())["error"]

    run(test, "stranger")


def test_a_labeller_is_no_operator_and_the_operator_no_labeller(run: Callable[..., World]) -> None:
    async def test(world: World, ann: Any, operator: Any) -> None:
        assert (await ann.get("/api/overview")).status == 401
        assert (await operator.get("/api/task")).status == 401
        stolen = {"Cookie": f"rlhf-operator-{world.links.mark}={world.links.tokens['ann']}"}
        assert (await ann.get("/api/overview", headers=stolen)).status == 401
        assert (await operator.get("/api/overview")).status == 200

    run(test, "ann", OPERATOR)


@pytest.mark.parametrize("token", ["", "wrong", None, 7, "\u00fc", "\ud800"])
def test_a_wrong_link_is_refused(run: Callable[..., World], token: Any) -> None:
    async def test(world: World, stranger: Any) -> None:
        answer = await stranger.post("/api/join", json={"token": token})
        assert answer.status == 403 and "Set-Cookie" not in answer.headers

    run(test, "stranger")


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(run: Callable[..., World]) -> None:
    async def test(world: World, stranger: Any) -> None:
        answer = await stranger.post("/api/join", json={"token": world.links.tokens["ann"]})
        cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
        assert ("Secure" in cookie) == (world.site.origin is not None)

    run(test, "stranger")
    run(test, "stranger", origin="https://label.example.org")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
    ],
)
def test_another_sites_page_cannot_judge_with_the_labellers_cookie(
    run: Callable[..., World], headers: dict[str, str]
) -> None:
    async def test(world: World, ann: Any) -> None:
        shown = (await (await ann.get("/api/task")).json())["sheet"]
        sent = {"Content-Type": "application/json"} | headers
        answer = await ann.post(f"/api/judgements/{shown['id']}", data=b'{"skipped": "x"}', headers=sent)
        assert answer.status in (403, 415) and not world.desk.standing

    run(test, "ann")


def test_the_pages_own_origin_and_the_proxys_may_judge(run: Callable[..., World]) -> None:
    async def test(world: World, browser: Any) -> None:
        cookie = {"Cookie": f"rlhf-label-{world.links.mark}={world.links.tokens['ann']}"}
        for origin in (f"http://127.0.0.1:{browser.port}", "https://label.example.org"):
            headers = cookie | {"Origin": origin, "Sec-Fetch-Site": "same-origin"}
            assert (await browser.post("/api/alive", json={}, headers=headers)).status == 200

    run(test, "stranger", origin="https://label.example.org")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[", "localhost@evil"]
)
@pytest.mark.parametrize("path", ["/", "/page/label.js", "/api/task"])
def test_a_name_that_was_made_to_point_here_is_not_answered(run: Callable[..., World], host: str, path: str) -> None:
    async def test(world: World, ann: Any) -> None:
        answer = await ann.get(path, headers={"Host": host})
        assert answer.status in (400, 403)

    run(test, "ann")


@pytest.mark.parametrize("path", ["/", "/operator", "/page/label.js", "/page/none", "/nowhere", "/api/task"])
def test_every_answer_forbids_scripts_and_loads_from_elsewhere(run: Callable[..., World], path: str) -> None:
    async def test(world: World, ann: Any) -> None:
        headers = (await ann.get(path)).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "script-src 'self';" in policy and "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy and headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer" and headers["Cache-Control"] == "no-store"

    run(test, "ann")


@pytest.mark.parametrize("name", ["..%2fserver.py", "..%2f..%2f__main__.py", "%2fetc%2fpasswd", "questions.yaml"])
def test_no_other_file_is_served(run: Callable[..., World], name: str) -> None:
    async def test(world: World, ann: Any) -> None:
        assert (await ann.get(f"/page/{name}")).status == 404

    run(test, "ann")


def test_the_pages_have_no_inline_script_or_style(run: Callable[..., World]) -> None:
    async def test(world: World, ann: Any) -> None:
        for path in ("/", "/operator"):
            page = await (await ann.get(path)).text()
            assert "style=" not in page and "<style" not in page and " on" not in page.split("<body>")[0]
            assert page.count("<script") == 1 and 'src="/page/' in page

    run(test, "ann")


def test_a_judgement_sent_again_is_one_and_another_under_its_id_is_refused(run: Callable[..., World]) -> None:
    async def test(world: World, ann: Any) -> None:
        shown = await judge(ann)
        again = await ann.post(f"/api/judgements/{shown['id']}", json=RANKED | {"seconds": 9})
        assert await again.json() == {"saved": True, "again": True}
        other = await ann.post(f"/api/judgements/{shown['id']}", json={"skipped": "no"})
        assert other.status == 409 and "another tab" in (await other.json())["error"]

    assert len(load_judgements(str(run(test, "ann").out))) == 1


def test_one_goes_back_and_changes_a_judgement(run: Callable[..., World]) -> None:
    async def test(world: World, ann: Any) -> None:
        first = await judge(ann, note="one")
        current = (await (await ann.get("/api/task")).json())["sheet"]
        assert not current["first"] and current["given"] is None
        back = (await (await ann.get("/api/task", params={"before": current["assignment"]})).json())["sheet"]
        assert back["first"] and back["given"]["ranking"] == RANKED["ranking"] and back["given"]["note"] == "one"
        assert back["messages"] == first["messages"] and back["answers"] == first["answers"]
        assert (await ann.post(f"/api/judgements/{back['id']}", json=RANKED | {"note": "two"})).status == 200
        assert (await (await ann.get("/api/task")).json())["sheet"]["id"] == current["id"]

    (kept,) = load_judgements(str(run(test, "ann").out))
    assert kept.note == "two"


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b'"x"', b"{}"])
def test_what_is_no_judgement_is_refused_in_a_sentence(run: Callable[..., World], body: bytes) -> None:
    async def test(world: World, ann: Any) -> None:
        shown = (await (await ann.get("/api/task")).json())["sheet"]
        sent = {"Content-Type": "application/json"}
        answer = await ann.post(f"/api/judgements/{shown['id']}", data=body, headers=sent)
        assert answer.status == 400 and (await answer.json())["error"].startswith("This was not")

    run(test, "ann")


def test_too_large_a_request_is_refused(run: Callable[..., World]) -> None:
    async def test(world: World, ann: Any) -> None:
        answer = await ann.post("/api/alive", json={"x": "x" * (1 << 21)})
        judged = await ann.post("/api/judgements/x", json={"x": "x" * (1 << 21)})
        assert answer.status in (200, 413) and judged.status == 413

    run(test, "ann")


def test_a_full_disk_is_said_and_the_judgement_is_kept_when_there_is_room(
    run: Callable[..., World], capsys: pytest.CaptureFixture[str]
) -> None:
    async def test(world: World, ann: Any) -> None:
        shown = (await (await ann.get("/api/task")).json())["sheet"]
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
        try:
            answers = [await ann.post(f"/api/judgements/{shown['id']}", json=RANKED) for _ in range(2)]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert [answer.status for answer in answers] == [507, 507]
        assert "cannot write to its disk (File too large)" in (await answers[0].json())["error"]
        assert (await ann.post(f"/api/judgements/{shown['id']}", json=RANKED)).status == 200

    assert len(load_judgements(str(run(test, "ann").out))) == 1
    assert capsys.readouterr().err == "cannot write: File too large; labellers wait, and nothing is lost\n"


def test_the_operator_sees_progress_agreement_and_remarks(run: Callable[..., World]) -> None:
    async def test(world: World, ann: Any, bob: Any, operator: Any) -> None:
        assert (await (await operator.get("/api/overview")).json())["done"] == 0
        for _ in range(4):
            await judge(ann, note="<b>bold</b>", seconds=10)
        shown = (await (await bob.get("/api/task")).json())["sheet"]
        await bob.post(f"/api/judgements/{shown['id']}", json={"skipped": "broken", "flag": "look"})
        await judge(bob, seconds=20)
        seen = await (await operator.get("/api/overview")).json()
        assert (seen["task"], seen["items"], seen["done"]) == ("rank", 4, 4)
        one, other = seen["labellers"]
        assert (one["name"], one["judged"], one["skipped"], one["seconds"]) == ("ann", 4, 0, 10)
        assert (other["name"], other["judged"], other["skipped"], other["flagged"]) == ("bob", 1, 1, 1)
        assert seen["agreement"] == one["agreement"] == other["agreement"]
        assert 0 <= seen["agreement"]["share"] <= 1
        assert (seen["agreement"]["pairs"], seen["agreement"]["tied_by_one"]) in ((3, 0), (3, 2))  # each ties one
        assert one["known"]["pairs"] == 3 and other["known"] is None
        assert [remark["flag"] for remark in seen["remarks"] if remark["labeller"] == "bob"] == ["look"]
        assert seen["remarks"][-1]["note"] == "<b>bold</b>"

    run(test, "ann", "bob", OPERATOR, shared=1.0, known=0.5)


def test_a_mistake_of_the_servers_own_is_said_and_it_goes_on(
    run: Callable[..., World], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def test(world: World, ann: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(world.desk, "sheet", lambda labeller: 1 / 0)
            answer = await ann.get("/api/task")
        assert answer.status == 500 and "made a mistake" in (await answer.json())["error"]
        assert (await ann.get("/api/task")).status == 200

    world = run(test, "ann")
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said and not any(token in said for token in world.links.tokens.values())
