"""The Python functions that a configuration names, such as a reward or the judge: found, and called with a deadline."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from rlhf_dist.config.did_you_mean import suggest, suggest_path
from rlhf_dist.errors import UserError

T = TypeVar("T")


class DeadlinePassed(Exception):
    """What was called did not return in time."""


def call_with_deadline(function: Callable[[], T], timeout_s: float) -> T:
    """What ``function()`` returns, or raises.

    It runs in a thread of its own, which nothing can end: one that hangs is left behind, and does not keep the process
    from ending.

    Args:
        function: to be called once, without arguments.
        timeout_s: seconds to wait for it.

    Raises:
        DeadlinePassed: it did not return in time.
    """
    answers: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((True, function()))
        except BaseException as error:  # `sys.exit` in a user's function must not end the process
            answers.put((False, error))

    threading.Thread(target=run, name="call with deadline", daemon=True).start()
    try:
        returned, answer = answers.get(timeout=timeout_s)
    except queue.Empty:
        raise DeadlinePassed from None
    if returned:
        return answer
    if isinstance(answer, Exception):
        raise answer
    raise RuntimeError(describe_error(answer)) from answer


def describe_error(error: BaseException) -> str:
    """An exception of the user's code in one line: its class, the first line of its text, and where it was raised."""
    text = (str(error).splitlines() or [""])[0]
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return type(error).__name__ + (f": {text}" if text else "") + place


def load_function(spec: str) -> Callable[..., Any]:
    """The function that ``spec`` names.

    Args:
        spec: "package.module:function", as Python would import it, or "path/file.py:function", from the current
            directory. A file is run once in a process.

    Raises:
        UserError: the module or file is not there, fails while it is imported, or has no such function.
    """
    home, separator, name = spec.rpartition(":")
    if not separator or not home or not name:
        raise UserError(f'{spec}: expected "package.module:function" or "path/file.py:function"')
    module = _load_file(home, spec) if home.endswith(".py") else _load_module(home, spec)
    if not hasattr(module, name):
        names = [other for other in vars(module) if callable(getattr(module, other)) and not other.startswith("__")]
        raise UserError(f"{spec}: {home} has no function {name}{suggest(name, names)}")
    function = getattr(module, name)
    if not callable(function):
        raise UserError(f"{spec}: {name} is {type(function).__name__}, expected a function")
    return function


def _load_module(name: str, spec: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise _broken(spec, error) from error  # the module is there, what it imports is not
        as_file = f"{name.replace('.', '/')}.py:{spec.rpartition(':')[2]}"
        hint = f" (a file is named by its path: {as_file})" if Path(as_file.rpartition(":")[0]).is_file() else ""
        raise UserError(f"{spec}: there is no module {error.name}{hint}") from error
    except Exception as error:  # the user's code may raise anything
        raise _broken(spec, error) from error


def _load_file(file: str, spec: str) -> ModuleType:
    path = Path(file)
    if not path.is_file():
        raise UserError(f"{spec}: there is no file {file}{suggest_path(file)}")
    name = f"{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    source = importlib.util.spec_from_file_location(name, path.resolve())
    if source is None or source.loader is None:
        raise UserError(f"{spec}: {file} is not a Python file")
    module = importlib.util.module_from_spec(source)
    sys.modules[name] = module  # dataclasses and pickle look their module up there
    try:
        source.loader.exec_module(module)
    except Exception as error:  # the user's code may raise anything
        del sys.modules[name]
        raise _broken(spec, error) from error
    return module


def _broken(spec: str, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [""])[0]
    return UserError(f"{spec}: fails while it is imported: {type(error).__name__}: {reason}")
