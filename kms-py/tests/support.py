"""Helpers of several tests: the asynchronous interface, called synchronously, and programs in other processes."""

from __future__ import annotations

import ast
import asyncio
import inspect
import io
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mini_kms
from mini_kms import AsyncKms, AsyncSession

ROOT_KEY = bytes(range(32))
REPOSITORY = Path(__file__).resolve().parents[2]
FULL = os.environ.get("KMS_TEST_MODE") == "full"
SECONDS = 90
"""The time limit of a program, in seconds."""


class Driven:
    """An asynchronous handle, or its class; calls run their coroutine to its end."""

    def __init__(self, handle: Any, runner: asyncio.Runner) -> None:
        self.handle = handle
        self.runner = runner

    def __getattr__(self, name: str) -> Any:
        member = getattr(self.handle, name)
        if not callable(member):
            return member

        def call(*args: Any, **kwargs: Any) -> Any:
            result = member(*args, **kwargs)
            if inspect.iscoroutine(result):
                result = self.runner.run(result)
            return Driven(result, self.runner) if isinstance(result, AsyncKms | AsyncSession) else result

        return call

    def __repr__(self) -> str:
        return repr(self.handle)

    def __enter__(self) -> Driven:
        self.runner.run(self.handle.__aenter__())
        return self

    def __exit__(self, *problem: Any) -> None:
        self.runner.run(self.handle.__aexit__(*problem))


def start(source: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Starts a Python program in another process."""
    command = [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(source), *map(str, arguments)]
    variables = os.environ | environment
    # It gets its own process group, so that its children can be killed with it.
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables, start_new_session=True
    )


def finish(process: subprocess.Popen[str], seconds: float = SECONDS) -> subprocess.CompletedProcess[str]:
    """Waits for a program that was started, and fails if it hangs."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        try:
            _, err = process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            err = ""
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"the program hangs\n{err}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run(source: str, *arguments: object, seconds: float = SECONDS) -> str:
    """Runs a program to its end, and returns its output."""
    ended = finish(start(source, *arguments), seconds)
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def open_among_others(url: str) -> mini_kms.Kms:
    """Opens a store that others open at the same time, and repeats retryable errors: on a slow machine, another opening
    can hold the lock for longer than this one waits."""
    for _ in range(100):
        try:
            return mini_kms.Kms.open(url, root_key=ROOT_KEY)
        except mini_kms.KmsError as error:
            if not error.retryable:
                raise
    raise AssertionError("the store stays locked")


def edit(url: str, statement: str) -> None:
    """Edits the file of a store in another process, since this one must not open it with another copy of SQLite."""
    source = """
        import sqlite3, sys
        with sqlite3.connect(sys.argv[1]) as database:
            for trigger, in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                database.execute(f'DROP TRIGGER "{trigger}"')
            database.execute(sys.argv[2])
    """
    run(source, url.removeprefix("sqlite:"), statement)


VALUES: dict[str, Any] = {
    "algorithm": "RSASSA_PSS_SHA_256",
    "allow": ["encrypt"],
    "beginning": b"x",
    "buffer": bytearray(4_096),
    "ciphertext": b"x",
    "dst": io.BytesIO(),
    "generation": 1,
    "grant": "00000000-0000-4000-8000-000000000000",
    "key": "users",
    "name": "new",
    "not_after": datetime(2099, 1, 1, tzinfo=UTC),
    "payload": b"x",
    "plaintext": b"x",
    "principal": "bob",
    "signature": b"x",
    "source": "sqlite:none.db",
    "src": io.BytesIO(),
    "version": 1,
}
"""Valid values of arguments, by name, for tests that are about another argument."""


def arguments(kind: str) -> Iterator[tuple[str, ast.arg, list[str]]]:
    """Lists the arguments of all methods of a class in the stubs: the method, the argument, and the names of the other
    arguments that the method needs."""
    stubs = ast.parse((Path(mini_kms.__file__).parent / "_native.pyi").read_text())
    (found,) = (node for node in stubs.body if isinstance(node, ast.ClassDef) and node.name == kind)
    for method in found.body:
        if not isinstance(method, ast.FunctionDef) or method.name.startswith("__"):
            continue
        given = [argument for argument in method.args.args if argument.arg != "self"]
        needed = [argument.arg for argument in given[: len(given) - len(method.args.defaults)]]
        for argument in [*given, *method.args.kwonlyargs]:
            yield method.name, argument, [name for name in needed if name != argument.arg]
