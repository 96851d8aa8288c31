"""Servers that programs run under: gunicorn with and without preload, uvicorn with uvloop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from mini_kms import Kms
from support import ROOT_KEY, SECONDS

WSGI = """
import functools, os
import mini_kms

@functools.cache
def alice():
    kms = mini_kms.Kms.open(os.environ["STORE"], root_key=bytes(range(32)))
    return kms.session("alice", "admin")

if os.environ.get("TOO_EARLY"):
    alice()

def app(environ, start_response):
    plaintext = environ["PATH_INFO"].encode()
    try:
        opened = alice().decrypt(alice().encrypt("users", plaintext).ciphertext).plaintext
    except mini_kms.UsedAfterFork as error:
        start_response("503 Service Unavailable", [])
        return [error.name.encode()]
    start_response("200 OK", [])
    return [opened + b" %d" % os.getpid()]
"""

ASGI = """
import asyncio, os
import mini_kms

kms = alice = None

async def app(scope, receive, send):
    global kms, alice
    if scope["type"] == "lifespan":
        await receive()
        assert "uvloop" in type(asyncio.get_running_loop()).__module__
        kms = await mini_kms.AsyncKms.open(os.environ["STORE"], root_key=bytes(range(32)))
        alice = kms.session("alice", "admin")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await kms.close()
        await send({"type": "lifespan.shutdown.complete"})
        return
    sealed = await alice.encrypt("users", scope["path"].encode())
    opened = await alice.decrypt(sealed.ciphertext)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": opened.plaintext + b" %d" % os.getpid()})
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        text: str = answer.read().decode()
        return text


@contextmanager
def served(folder: Path, url: str, command: list[str], **variables: str) -> Iterator[int]:
    """Runs a server until it answers, and ends it as an operator does."""
    port = free_port()
    environment = os.environ | {"STORE": url} | variables
    process = subprocess.Popen(
        [sys.executable, "-m", *(part.format(port=port) for part in command)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), 1):
                    break
            except OSError:
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline, "the server does not listen"
                time.sleep(0.05)
        yield port
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=SECONDS)
        assert process.returncode in (0, -signal.SIGTERM), out
        assert "Traceback" not in out, out
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def prepare(url: str, folder: Path, program: str) -> None:
    (folder / "served.py").write_text(program)
    with Kms.open(url, root_key=ROOT_KEY) as kms:
        kms.session("alice", "admin").create_key("users")


def check(url: str, acknowledged: int) -> None:
    with Kms.open(url, root_key=ROOT_KEY) as kms:
        alice = kms.session("alice", "admin")
        assert len(alice.list_audit(action="DECRYPT", limit=1000).items) == acknowledged
        assert alice.verify_audit().ok


def ask(port: int, count: int) -> set[str]:
    """The processes that answered."""
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: get(port, f"/{number}"), range(count)))
    assert [answer.split()[0] for answer in answers] == [f"/{number}" for number in range(count)]
    return {answer.split()[1] for answer in answers}


GUNICORN = ["gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "3", "--threads", "4", "--log-level", "warning"]


@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["", "preload"])
def test_gunicorn(url: str, tmp_path: Path, preload: list[str]) -> None:
    prepare(url, tmp_path, WSGI)
    with served(tmp_path, url, [*GUNICORN, *preload, "served:app"]) as port:
        assert ask(port, 60)
    check(url, 60)


def test_gunicorn_whose_master_opens_too_early(url: str, tmp_path: Path) -> None:
    prepare(url, tmp_path, WSGI)
    with served(tmp_path, url, [*GUNICORN, "--preload", "served:app"], TOO_EARLY="1") as port:
        for _ in range(10):
            with pytest.raises(urllib.error.HTTPError) as refused:
                get(port, "/")
            assert refused.value.read() == b"UsedAfterFork"
    check(url, 0)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_uvicorn_with_uvloop(url: str, tmp_path: Path, workers: str) -> None:
    prepare(url, tmp_path, ASGI)
    command = ["uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--loop", "uvloop", "--log-level", "warning"]
    with served(tmp_path, url, [*command, "--workers", workers, "--lifespan", "on", "served:app"]) as port:
        # The second worker may still be opening the store.
        assert ask(port, 60)
    check(url, 60)
