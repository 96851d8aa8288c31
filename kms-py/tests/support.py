"""Helpers of several tests: the asynchronous interface driven synchronously, and programs of their own."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from mini_kms import AsyncKms, AsyncSession

ROOT_KEY = bytes(range(32))
REPOSITORY = Path(__file__).resolve().parents[2]
FULL = os.environ.get("KMS_TEST_MODE") == "full"
SECONDS = 90
"""How long a program of a test may take."""


class Driven:
    """An asynchronous handle, or the class of one, whose coroutines are run to their end."""

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
    """Starts a program in a process of its own."""
    command = [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(source), *map(str, arguments)]
    variables = os.environ | environment
    # Its own process group, so that its children end with it.
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables, start_new_session=True
    )


def finish(process: subprocess.Popen[str], seconds: float = SECONDS) -> subprocess.CompletedProcess[str]:
    """Waits for a program that was started; one that hangs fails the test."""
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
    """Runs a program to its end, and gives what it printed."""
    ended = finish(start(source, *arguments), seconds)
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def edit(url: str, statement: str) -> None:
    """Edits a store's file behind its back, in another process: never with another SQLite in this one."""
    source = """
        import sqlite3, sys
        with sqlite3.connect(sys.argv[1]) as database:
            for trigger, in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                database.execute(f'DROP TRIGGER "{trigger}"')
            database.execute(sys.argv[2])
    """
    run(source, url.removeprefix("sqlite:"), statement)
