"""Threads: shared handles, the release of the GIL, and closing during calls."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import mini_kms
import pytest
from mini_kms import EncryptItem, Kms, Session
from support import ROOT_KEY, open_among_others


def together(count: int, work: Callable[[int], object]) -> None:
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(work, number) for number in range(count)]:
            done.result()


def test_threads_share_handles(kms_class: type[Kms], url: str) -> None:
    if not isinstance(kms_class, type):
        pytest.skip("an asynchronous handle belongs to its loop's thread")
    with kms_class.open(url, root_key=ROOT_KEY) as kms:
        alice = kms.session("alice", "admin")
        alice.create_key("users")

        def work(number: int) -> None:
            for turn in range(25):
                plaintext = bytes([number]) * (turn * 400)
                sealed = alice.encrypt("users", plaintext, context={"thread": str(number)})
                assert alice.decrypt(sealed.ciphertext, context={"thread": str(number)}).plaintext == plaintext
                kms.session(f"user {number}")

        together(8, work)
        assert len(alice.list_audit(action="DECRYPT", limit=1000).items) == 200
        assert alice.verify_audit().ok


def test_others_run_while_a_call_works(url: str) -> None:
    with Kms.open(url, root_key=ROOT_KEY) as kms:
        alice = kms.session("alice", "admin")
        alice.create_key("users")
        for work in (
            lambda: alice.encrypt("users", bytes(64 << 20)),
            lambda: alice.encrypt_batch([EncryptItem("users", bytes(1 << 20))] * 50),
        ):
            begun, ended = threading.Event(), threading.Event()

            def call(work: Callable[[], object] = work, begun: threading.Event = begun) -> None:
                begun.set()
                work()

            thread = threading.Thread(target=call)
            interval = sys.getswitchinterval()
            # With this interval, the other thread gets the GIL only if the call releases it.
            sys.setswitchinterval(60)
            try:
                thread.start()
                begun.wait()
                turns = 0
                while thread.is_alive():
                    turns += 1
                    time.sleep(0.0001)
            finally:
                sys.setswitchinterval(interval)
            ended.set()
            thread.join()
            assert turns > 3


@pytest.mark.parametrize("ack", ["durable", "queued"])
def test_closing_during_calls(url: str, ack: Literal["durable", "queued"]) -> None:
    done = list[int]()
    for _ in range(5):
        kms = Kms.open(url, root_key=ROOT_KEY, audit_ack=ack)
        alice = kms.session("alice", "admin")
        if not done:
            alice.create_key("users")

        def work(number: int, kms: Kms = kms, alice: Session = alice) -> None:
            if number == 0:
                time.sleep(0.05)
                kms.close()
                return
            try:
                while True:
                    done.append(alice.encrypt("users", b"x").version)
            except mini_kms.Closed:
                pass

        together(5, work)
    with Kms.open(url, root_key=ROOT_KEY) as kms:
        report = kms.session("alice", "admin").verify_audit()
        assert report.ok
        assert report.size >= len(done) > 0


def test_a_stream_belongs_to_one_thread_at_a_time(url: str) -> None:
    with Kms.open(url, root_key=ROOT_KEY) as kms:
        alice = kms.session("alice", "admin")
        alice.create_key("users")
        stream, refused = alice.encrypt_stream("users"), list[RuntimeError]()

        def work(number: int) -> None:
            for _ in range(20):
                try:
                    stream.update(bytes(1 << 20))
                except RuntimeError as error:
                    refused.append(error)

        together(4, work)
        assert all("in use" in str(error) for error in refused)
        stream.finish()


def test_results_are_shared(url: str) -> None:
    with Kms.open(url, root_key=ROOT_KEY, audit_ack="queued") as kms:
        alice = kms.session("alice", "admin")
        alice.create_key("users")
        sealed = alice.encrypt_batch([EncryptItem("users", b"secret")] * 1_000)
        read = list[list[bytes]]()

        def work(_: int) -> None:
            read.append([item.ciphertext for item in sealed if isinstance(item, mini_kms.Encrypted)])

        together(4, work)
        assert all(a is b for a, b in zip(read[0], read[-1], strict=True)), "every thread gets the same bytes"
        opened = alice.decrypt_batch([mini_kms.DecryptItem(ciphertext) for ciphertext in read[0]])
        assert {item.plaintext for item in opened if isinstance(item, mini_kms.Decrypted)} == {b"secret"}


def test_a_data_key_is_shared(url: str) -> None:
    with Kms.open(url, root_key=ROOT_KEY) as kms:
        alice = kms.session("alice", "admin")
        alice.create_key("users")
        data_key = alice.generate_data_key("users")
        plaintext = bytes(data_key)

        def work(number: int) -> None:
            for _ in range(2_000):
                try:
                    if number == 0:
                        data_key.wipe()
                    else:
                        assert bytes(data_key) == plaintext
                except BufferError:
                    pass

        together(4, work)
        data_key.wipe()
        assert not data_key.has_plaintext


def test_many_services_in_one_process(url: str) -> None:
    def work(number: int) -> None:
        with open_among_others(f"{url}-{number % 3}") as kms:
            alice = kms.session("alice", "admin")
            try:
                alice.create_key("users")
            except mini_kms.NameTaken:
                pass
            assert alice.encrypt("users", b"").version == 1

    together(8, work)
