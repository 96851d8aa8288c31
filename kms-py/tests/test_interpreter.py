"""The interpreter: its shutdown, its signals, and subinterpreters."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import mini_kms
import pytest
from mini_kms import Kms
from support import ROOT_KEY, finish, run, start


@pytest.mark.parametrize("ack", ["durable", "queued"])
@pytest.mark.parametrize("ending", ["", "sys.exit(0)", "raise SystemExit", "del kms, alice", "kms = kms.close()"])
def test_a_program_that_ends_loses_nothing(url: str, ack: str, ending: str) -> None:
    source = f"""
        import sys
        import mini_kms
        kms = mini_kms.Kms.open(sys.argv[1], root_key=bytes(range(32)), audit_ack=sys.argv[2])
        alice = kms.session("alice", "admin")
        alice.create_key("users")
        for _ in range(200):
            alice.encrypt("users", b"secret")
        {ending}
    """
    assert run(source, url, ack) == ""
    with Kms.open(url, root_key=ROOT_KEY) as kms:
        alice = kms.session("alice", "admin")
        assert len(alice.list_audit(action="ENCRYPT", limit=1000).items) == 200
        assert alice.verify_audit().ok


@pytest.mark.parametrize("daemon", [True, False])
def test_a_program_that_ends_with_threads_in_calls(url: str, daemon: bool) -> None:
    source = """
        import sys, threading, time
        import mini_kms
        kms = mini_kms.Kms.open(sys.argv[1], root_key=bytes(32), audit_ack="queued")
        alice = kms.session("alice", "admin")
        alice.create_key("users")
        def work():
            try:
                while True:
                    alice.decrypt(alice.encrypt("users", b"secret" * 1000).ciphertext)
            except mini_kms.KmsError as error:
                assert isinstance(error, (mini_kms.Closed, mini_kms.CallerOverloaded, mini_kms.Overloaded)), error
        for _ in range(4):
            threading.Thread(target=work, daemon=sys.argv[2] == "True").start()
        time.sleep(0.2)
        if sys.argv[2] == "False":
            kms.close()
    """
    for _ in range(3):
        run(source, url, daemon)
        Path(url.removeprefix("sqlite:")).unlink()


def test_a_loop_that_ends_with_operations_under_way(url: str) -> None:
    source = """
        import asyncio, gc, sys
        import mini_kms
        kms = None
        async def main():
            global kms
            kms = await mini_kms.AsyncKms.open(sys.argv[1], root_key=bytes(32))
            alice = kms.session("alice", "admin")
            await alice.create_key("users")
            buffer = bytearray(1000)
            tasks = [asyncio.ensure_future(alice.encrypt_into("users", b"x", bytearray(1000))) for _ in range(50)]
            tasks += [asyncio.ensure_future(alice.create_key(f"key {number}")) for number in range(50)]
            await asyncio.sleep(0)
        asyncio.run(main())
        gc.collect()
        asyncio.run(asyncio.sleep(0.1))
        async def again():
            assert len((await kms.session("alice", "admin").list_keys()).items) > 0
        asyncio.run(again())
    """
    for _ in range(5):
        assert run(source, url) == ""
        Path(url.removeprefix("sqlite:")).unlink()


def test_an_object_that_is_freed_while_the_interpreter_ends(url: str) -> None:
    source = """
        import sys
        import mini_kms
        class Late:
            def __init__(self):
                self.kms = mini_kms.Kms.open(sys.argv[1], root_key=bytes(32))
                self.alice = self.kms.session("alice", "admin")
            def __del__(self):
                try:
                    self.alice.create_key("late")
                except Exception as error:
                    print(type(error).__name__)
        late = Late()
        late.cycle = late
    """
    assert run(source, url) in ("Closed\n", "")


def test_sigint_ends_a_long_call(url: str) -> None:
    # The limited rate makes the call long on any machine.
    source = """
        import signal, sys
        import mini_kms
        # A shell starts its background jobs with this signal ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with mini_kms.Kms.open(sys.argv[1], root_key=bytes(32)) as kms:
            alice = kms.session("alice", "admin")
            for number in range(100):
                alice.create_key(f"key {number}")
            alice.add_root_key(mini_kms.generate_root_key())
            print("ready", flush=True)
            try:
                alice.rewrap(rate=1)
            except KeyboardInterrupt:
                print("interrupted", flush=True)
            assert alice.encrypt("key 1", b"").version == 1
            assert alice.verify_audit().ok
    """
    process = start(source, url)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    ended = finish(process)
    assert (ended.returncode, ended.stdout) == (0, "interrupted\n"), ended.stderr


def test_sigint_ends_a_long_verification(url: str) -> None:
    source = """
        import os, signal, sys, threading
        import mini_kms
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with mini_kms.Kms.open(sys.argv[1], root_key=bytes(32), audit_ack="queued") as kms:
            alice = kms.session("alice", "admin")
            alice.create_key("users")
            for _ in range(20_000):
                alice.encrypt("users", b"", context={"filler": "x" * 1_000})
            interrupted = 0
            for delay in (0.005, 0.02, 0.05, 0.1, 0.2):
                # The handler runs in the main thread, which waits in Rust.
                timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
                timer.start()
                try:
                    alice.verify_audit()
                    timer.join()
                    # The signal came after the verification.
                    for _ in range(1_000_000):
                        pass
                except KeyboardInterrupt:
                    interrupted += 1
                timer.join()
            assert interrupted == 5, interrupted
            assert alice.verify_audit().ok
    """
    run(source, url)


def test_other_signal_handlers_run_during_a_call(url: str) -> None:
    source = """
        import signal, sys
        import mini_kms
        with mini_kms.Kms.open(sys.argv[1], root_key=bytes(32)) as kms:
            alice = kms.session("alice", "admin")
            for number in range(4):
                alice.create_key(f"key {number}")
            alice.add_root_key(mini_kms.generate_root_key())
            caught = []
            signal.signal(signal.SIGALRM, lambda *_: caught.append(alice.encrypt("key 1", b"").version))
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            assert alice.rewrap(rate=4).is_complete
            assert caught == [1], caught
    """
    run(source, url)


def test_subinterpreters_are_refused() -> None:
    source = """
        import _xxsubinterpreters as interpreters
        import mini_kms
        interpreter = interpreters.create()
        try:
            interpreters.run_string(interpreter, "import mini_kms")
        except interpreters.RunFailedError as error:
            print(error)
    """
    assert "does not support" in (out := run(source)) or "subinterpreters" in out, out


def test_a_second_import_is_the_same_module() -> None:
    import importlib
    import sys

    native = sys.modules["mini_kms._native"]
    assert importlib.import_module("mini_kms._native") is native
    assert importlib.reload(mini_kms).Kms is native.Kms
