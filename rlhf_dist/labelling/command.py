"""`rlhf-dist label`: reads the files, starts the server, prints the links, and stops at Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import getpass
import logging
import signal
import socket
from dataclasses import replace
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

import psutil
from aiohttp import web

from rlhf_dist.config.did_you_mean import suggest, suggest_path
from rlhf_dist.errors import UserError
from rlhf_dist.labelling.assignments import Rules
from rlhf_dist.labelling.candidates import Candidates, load_candidates
from rlhf_dist.labelling.desk import Desk
from rlhf_dist.labelling.items import FEWEST_ANSWERS, Item, items_of
from rlhf_dist.labelling.judgements import Task
from rlhf_dist.labelling.links import OPERATOR, Links, read_links, write_links
from rlhf_dist.labelling.questions import DEFAULT, load_questions
from rlhf_dist.labelling.server import Site, make_app

_ANYWHERE = ("0.0.0.0", "::")  # addresses that mean every one of this machine
_SHUTDOWN_S = 2.0  # for requests under way when the server stops
_LONGEST_NAME = 60


def run(options: argparse.Namespace) -> None:
    """Runs the server until Ctrl-C.

    Raises:
        UserError: a file, an option, or the port will not do.
    """
    task = _task(options.task)
    labellers = _labellers(options.labellers)
    _check(options, task)
    rows = load_candidates(options.candidates)
    items = _items(rows, task, options)
    questions = load_questions(options.questions or DEFAULT) if task == "rate" else ()
    guidelines = _guidelines(options.guidelines)
    path = options.out.with_suffix(".links.json")
    settings = {"task": task, "seed": options.seed, "all_pairs": options.all_pairs}
    links = read_links(path, labellers, settings)
    rules = Rules(options.seed, options.known, options.lease * 60)
    known = {row.prompt.id: row.known for row in rows if row.known is not None}
    with Desk(options.out, task, items, labellers, rules, questions) as desk, _listen(options, links) as listener:
        links = replace(links, port=listener.getsockname()[1])
        write_links(path, links)
        site = Site(desk, links, known, guidelines, _hosts(options), _origin(options.url))
        greeting = _greeting(options, site, len({item.prompt.id for item in items}), path)
        asyncio.run(_serve(site, listener, greeting))
        print(f"Stopped. {len(desk.standing)} judgements stand in {options.out}", flush=True)


def _task(name: str) -> Task:
    for task in get_args(Task):
        if name == task:
            return task  # type: ignore[no-any-return]
    raise UserError(f"--task {name}: expected one of {', '.join(get_args(Task))}{suggest(name, get_args(Task))}")


def _labellers(text: str | None) -> list[str]:
    if text is None:
        try:
            return [getpass.getuser()]
        except (OSError, KeyError):  # a user without a name, as in some containers
            return ["labeller"]
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if not name or not name.isprintable() or len(name) > _LONGEST_NAME:
            raise UserError(f"--labellers {text}: expected names with commas between them, such as ann,bob")
        if names.count(name) > 1:
            raise UserError(f"--labellers {text}: {name} stands there twice, and each labeller needs a name")
    return names


def _check(options: argparse.Namespace, task: Task) -> None:
    for name in ("shared", "known"):
        if not 0 <= getattr(options, name) <= 1:
            raise UserError(f"--{name} {getattr(options, name)}: expected a share from 0 to 1")
    if not options.lease > 0:
        raise UserError(f"--lease {options.lease}: expected minutes, more than 0")
    if not 0 <= options.port <= 65535:
        raise UserError(f"--port {options.port}: expected a number up to 65535, or 0 for any that is free")
    if options.questions is not None and task != "rate":
        raise UserError(f"--questions is for --task rate, not for {task}")
    if options.out.suffix != ".jsonl":
        raise UserError(f"--out {options.out}: expected a name that ends in .jsonl")
    if options.url is not None and _origin(options.url) is None:
        raise UserError(f"--url {options.url}: expected http(s)://name, without a path")


def _items(rows: list[Candidates], task: Task, options: argparse.Namespace) -> list[Item]:
    items = items_of(rows, task, options.shared, options.all_pairs, options.seed)
    fewest = FEWEST_ANSWERS[task]
    left_out = sum(len(row.answers) < fewest for row in rows)
    needed = "an answer" if fewest == 1 else f"{fewest} answers"
    if not items:
        raise UserError(f"{options.candidates}: no prompt has {needed}, which the task {task} needs")
    if left_out:
        print(f"{left_out} of {len(rows)} prompts are left out: the task {task} needs {needed}")
    return items


def _guidelines(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path} of guidelines{suggest_path(path)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from error


def _listen(options: argparse.Namespace, links: Links) -> socket.socket:
    """A socket at the port that was asked for, else at the one of the last start, else at any."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(options.host, 0, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UserError(f"--host {options.host}: no such address ({error.strerror or error})") from error
    for port in [options.port] if options.port else [links.port, 0]:
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address[0], port, *address[2:]))
            listener.listen()
            return listener
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRINUSE and not options.port:
                continue
            raise UserError(_no_port(options, error)) from error
    raise UserError(f"no port is free at {options.host}")


def _no_port(options: argparse.Namespace, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"--port {options.port} is taken: choose another one, or leave it out for any that is free"
    return f"cannot listen at {options.host}, port {options.port}: {error.strerror or error}"


def _hosts(options: argparse.Namespace) -> frozenset[str]:
    """The names and addresses that browsers may ask for, in lower case."""
    names = {"localhost", "127.0.0.1", "::1", options.host}
    if options.host in _ANYWHERE:
        names |= {found.address.partition("%")[0] for all_of in psutil.net_if_addrs().values() for found in all_of}
    if options.host not in ("127.0.0.1", "localhost", "::1"):
        names |= {socket.gethostname(), socket.getfqdn()}
    if options.url:
        names.add(urlsplit(options.url).hostname or "")
    return frozenset(name.lower() for name in names)


def _origin(url: str | None) -> str | None:
    parts = urlsplit(url or "")
    whole = parts.scheme in ("http", "https") and parts.hostname and parts.path in ("", "/")
    return f"{parts.scheme}://{parts.netloc}" if whole and not parts.query and not parts.fragment else None


def _address(options: argparse.Namespace, port: int) -> str:
    """What stands before the path in the links."""
    if options.url:
        return str(_origin(options.url))
    host = options.host
    if host in _ANYWHERE:
        reachable = [
            found.address
            for all_of in psutil.net_if_addrs().values()
            for found in all_of
            if found.family == socket.AF_INET and not found.address.startswith("127.")
        ]
        host = reachable[0] if reachable else socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _greeting(options: argparse.Namespace, site: Site, prompts: int, path: Path) -> str:
    address, names = _address(options, site.links.port), site.desk.assignments.labellers
    width = max(len(name) for name in [*names, "operator"])
    who = f"{len(names)} labeller{'' if len(names) == 1 else 's'}"
    lines = [f"Task {site.desk.task}: {prompts} prompts, {who}. Judgements: {options.out}"]
    lines += [f"  {name:{width}}  {address}/#{site.links.tokens[name]}" for name in names]
    lines += [f"  {'operator':{width}}  {address}/operator#{site.links.tokens[OPERATOR]}"]
    local = options.host in ("127.0.0.1", "localhost", "::1")
    if not local and not address.startswith("https:"):
        lines += ["Others on the network can read along: without HTTPS (a proxy, and --url) use a network you trust."]
    lines += [f"Each link is a secret, and good for one person. They stand in {path}, too. Ctrl-C stops."]
    return "\n".join(lines)


async def _serve(site: Site, listener: socket.socket, greeting: str) -> None:
    """Serves until a signal comes. ``greeting`` is printed once the page is there, and Ctrl-C ends it as it says."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stopped.set)
    # Lines of requests, and with them cookies, stand in no log, however logging is set up.
    silent = logging.getLogger("rlhf_dist.labelling.http")
    silent.disabled = True
    runner = web.AppRunner(make_app(site), access_log=None, logger=silent, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    with contextlib.closing(listener):
        await web.SockSite(runner, listener).start()
        print(greeting, flush=True)
        await stopped.wait()
        await runner.cleanup()
