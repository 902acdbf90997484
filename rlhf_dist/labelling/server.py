"""The web server of the labellers' page and of the operator's: HTTP on one side, the desk on the other."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from rlhf_dist.labelling.candidates import Ranking
from rlhf_dist.labelling.desk import AlreadyJudged, Desk, NotYours, Sheet
from rlhf_dist.labelling.guard import add_headers, refusal, same_site_only
from rlhf_dist.labelling.judgements import Judgement
from rlhf_dist.labelling.links import OPERATOR, Links
from rlhf_dist.labelling.overview import overview
from rlhf_dist.labelling.rendering import as_html
from rlhf_dist.labelling.submission import Malformed, letters

PAGE = Path(__file__).with_name("page")
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_LARGEST_REQUEST = 1 << 20  # bytes
_COOKIE_S = 90 * 24 * 3600
_COMPLAIN_EVERY_S = 60.0  # about a full disk, on the terminal


@dataclass(frozen=True)
class Site:
    """What the server serves.

    Attributes:
        desk: the labelling.
        links: who comes in by which token.
        known: the rankings that are held to be right, by the prompt's id.
        guidelines: what stands beside the task, Markdown; "" for nothing.
        hosts: the names and addresses that the server goes by, in lower case.
        origin: `https://name` by which browsers know it, where a proxy stands in front; None without one.
    """

    desk: Desk
    links: Links
    known: Mapping[str, Ranking]
    guidelines: str
    hosts: frozenset[str]
    origin: str | None = None


def make_app(site: Site) -> web.Application:
    """The application; whoever made the site closes its desk."""
    app = web.Application(
        client_max_size=_LARGEST_REQUEST, middlewares=[_errors(), same_site_only(site.hosts, site.origin)]
    )
    app.on_response_prepare.append(add_headers)
    pages = {path.name: (path.read_bytes(), _TYPES[path.suffix]) for path in PAGE.iterdir() if path.suffix in _TYPES}
    api = _Api(site)

    async def page(request: web.Request) -> web.Response:
        name = request.match_info.get("name") or ("operator.html" if request.path == "/operator" else "label.html")
        if name not in pages:
            return refusal("There is no such page.", 404)
        body, kind = pages[name]
        return web.Response(body=body, content_type=kind, charset="utf-8")

    app.router.add_get("/", page)
    app.router.add_get("/operator", page)
    app.router.add_get("/page/{name}", page)
    app.router.add_post("/api/join", api.join)
    app.router.add_get("/api/start", api.start)
    app.router.add_get("/api/task", api.task)
    app.router.add_post("/api/judgements/{id}", api.judge)
    app.router.add_post("/api/alive", api.alive)
    app.router.add_get("/api/overview", api.overview)
    return app


class _Api:
    """The requests of the pages' scripts."""

    def __init__(self, site: Site) -> None:
        self.site, self.desk = site, site.desk
        self.names = self.desk.assignments.labellers
        self._overview: tuple[int, dict[str, object]] | None = None  # as of so many judgements

    async def join(self, request: web.Request) -> web.Response:
        """Takes the token of a link, and gives it to the browser as a cookie that no script can read."""
        body = await _json(request)
        token = body.get("token") if isinstance(body, dict) else None
        holder = self.site.links.holder(token if isinstance(token, str) else "", [OPERATOR, *self.names])
        if holder is None:
            return refusal("This link is not valid. Ask whoever invited you for a new one.", 403)
        response = web.json_response({"operator": holder == OPERATOR})
        response.set_cookie(
            self._cookie(holder == OPERATOR),
            self.site.links.tokens[holder],
            max_age=_COOKIE_S,
            httponly=True,
            samesite="Strict",
            secure=(self.site.origin or "").startswith("https:"),
        )
        return response

    async def start(self, request: web.Request) -> web.Response:
        """What the page needs once: who it is for, and what is asked."""
        return web.json_response(
            {
                "labeller": self._labeller(request),
                "task": self.desk.task,
                "questions": [question.to_json() for question in self.desk.questions],
                "guidelines": as_html(self.site.guidelines) if self.site.guidelines else "",
            }
        )

    async def task(self, request: web.Request) -> web.Response:
        """What is to be judged now; with `before`, what was judged before that."""
        labeller = self._labeller(request)
        if "before" in request.query:
            sheet = self.desk.sheet_before(labeller, request.query["before"])
        else:
            sheet = self.desk.sheet(labeller)
        history = self.desk.history(labeller)
        progress = {"done": len(history), "expected": self.desk.assignments.expected()}
        shown = None if sheet is None else _shown(sheet) | {"first": history[:1] in ([], [sheet.assignment])}
        return web.json_response({"sheet": shown, "progress": progress})

    async def judge(self, request: web.Request) -> web.Response:
        """Keeps a judgement; it is on the disk when this answers."""
        labeller = self._labeller(request)
        body = await _json(request)
        try:
            fresh = self.desk.save(labeller, request.match_info["id"], body)
        except Malformed as error:
            return refusal(f"This was not kept: {error}.", 400)
        except NotYours:
            return refusal("This task was not given to you. Open your own link again, and reload the page.", 404)
        except AlreadyJudged:
            return refusal("You have already judged this in another tab; that judgement holds.", 409)
        return web.json_response({"saved": True, "again": not fresh})

    async def alive(self, request: web.Request) -> web.Response:
        """Somebody is at work: what is in hand stays there."""
        self.desk.assignments.renew(self._labeller(request), self.desk.clock())
        return web.json_response({})

    async def overview(self, request: web.Request) -> web.Response:
        """What the operator sees."""
        if self._holder(request, [OPERATOR]) is None:
            return refusal("Open the operator's link again.", 401)
        if self._overview is None or self._overview[0] != self.desk.saved:
            self._overview = self.desk.saved, overview(self.desk, self.site.known)
        return web.json_response(self._overview[1])

    def _cookie(self, operator: bool) -> str:
        return f"rlhf-{'operator' if operator else 'label'}-{self.site.links.mark}"

    def _holder(self, request: web.Request, names: Sequence[str]) -> str | None:
        token = request.cookies.get(self._cookie(OPERATOR in names), "")
        return self.site.links.holder(token, names)

    def _labeller(self, request: web.Request) -> str:
        name = self._holder(request, self.names)
        if name is None:
            raise _Stranger
        return name


class _Stranger(Exception):
    """Who asks has no valid cookie."""


def _errors() -> Middleware:
    complained = -_COMPLAIN_EVERY_S

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal complained
        try:
            return await handler(request)
        except _Stranger:
            return refusal("You are not signed in. Open your invitation link again.", 401)
        except Malformed as error:
            return refusal(f"This was not understood: {error}.", 400)
        except web.HTTPException as error:
            return refusal(f"{error.reason}.", error.status)
        except OSError as error:
            if time.monotonic() - complained >= _COMPLAIN_EVERY_S:
                complained = time.monotonic()
                print(f"cannot write: {error.strerror or error}; labellers wait, and nothing is lost", file=sys.stderr)
            return refusal(f"The server cannot write to its disk ({error.strerror or 'it is gone'}).", 507)
        except Exception:
            traceback.print_exc()
            return refusal("The server made a mistake; its terminal says which.", 500)

    return middleware


async def _json(request: web.Request) -> Any:
    try:
        return await request.json()
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed("no JSON") from error


def _shown(sheet: Sheet) -> dict[str, object]:
    """A sheet as the page gets it: nothing in it tells an answer's model, id, or place in the file."""
    names = letters(len(sheet.answers))
    by_id = {answer.id: name for name, answer in zip(names, sheet.answers, strict=True)}
    return {
        "id": sheet.id,
        "assignment": sheet.assignment,
        "messages": [
            {"role": message["role"], "text": message["content"], "html": as_html(message["content"])}
            for message in sheet.item.prompt.messages
        ],
        "answers": [
            {"letter": name, "text": answer.text, "html": as_html(answer.text)}
            for name, answer in zip(names, sheet.answers, strict=True)
        ],
        "given": None if sheet.given is None else _given(sheet.given, by_id),
    }


def _given(judgement: Judgement, names: Mapping[str, str]) -> dict[str, object]:
    return {
        "ranking": [[names[answer] for answer in tied] for tied in judgement.ranking],
        "ratings": {names[answer]: dict(given) for answer, given in judgement.ratings.items()},
        "strength": judgement.strength,
        "demonstration": judgement.demonstration,
        "skipped": judgement.skipped,
        "flag": judgement.flag,
        "note": judgement.note,
        "seconds": judgement.seconds,
    }
