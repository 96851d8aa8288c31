"""Every feature in a few lines, synchronously and asynchronously."""

from __future__ import annotations

import asyncio
import copy
import inspect
import io
import logging
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mini_kms
import pytest
from mini_kms import AsyncKms, Kms, KmsError

ROOT_KEY = bytes(range(32))
Call = Callable[..., Any]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'kms.db'}"


class Service:
    """A service in one of the two modes, called in the same way: `service(alice.encrypt, ...)`."""

    def __init__(self, asynchronous: bool, url: str, **settings: Any) -> None:
        self.runner = asyncio.Runner() if asynchronous else None
        kind: Any = AsyncKms if asynchronous else Kms
        self.kms = self(kind.open, url, root_key=ROOT_KEY, **settings)
        self.alice = self.kms.session("alice", "admin")

    def __call__(self, operation: Call, *args: Any, **kwargs: Any) -> Any:
        if self.runner is None:
            return operation(*args, **kwargs)

        async def run() -> Any:
            return await operation(*args, **kwargs)

        return self.runner.run(run())

    def close(self) -> None:
        self(self.kms.close)
        if self.runner is not None:
            self.runner.close()


@pytest.fixture(params=["sync", "async"])
def service(request: pytest.FixtureRequest, url: str) -> Iterator[Service]:
    made = Service(request.param == "async", url)
    made(made.alice.create_key, "users")
    yield made
    made.close()


def test_encrypts_and_decrypts(service: Service) -> None:
    alice, context = service.alice, {"row": "4711"}
    for plaintext in (b"", b"secret", b"x" * 2_048, b"x" * 2_049, b"x" * 1_000_000):
        sealed = service(alice.encrypt, "users", plaintext, context=context)
        opened = service(alice.decrypt, sealed.ciphertext, context=context, key="users", version=1)
        assert opened.plaintext == plaintext
        assert opened.receipt.seq > sealed.receipt.seq > 0
        assert len(opened.receipt.hash) == 32
    assert "secret" not in repr(opened)
    with pytest.raises(mini_kms.DecryptionFailed) as failed:
        service(alice.decrypt, sealed.ciphertext, context={"row": "4712"})
    assert (failed.value.code, failed.value.name, failed.value.retryable) == (402, "DecryptionFailed", False)
    assert isinstance(failed.value, mini_kms.CryptoFault)


def test_takes_any_contiguous_buffer(service: Service) -> None:
    alice = service.alice
    data = bytearray(b"one two three")
    for buffer in (data, memoryview(data), memoryview(data)[4:7]):
        sealed = service(alice.encrypt, "users", buffer)
        assert service(alice.decrypt, memoryview(sealed.ciphertext)).plaintext == bytes(buffer)
    with pytest.raises(BufferError):
        service(alice.encrypt, "users", memoryview(data)[::2])
    for wrong in (None, 1, "text", object()):
        with pytest.raises(TypeError):
            service(alice.encrypt, "users", wrong)
    with pytest.raises(TypeError):
        service(alice.encrypt, None, b"")
    with pytest.raises(mini_kms.PlaintextTooLong):
        service(alice.encrypt, "users", bytearray(1 << 30))


def test_writes_into_buffers(service: Service) -> None:
    alice = service.alice
    buffer = bytearray(b"secret".ljust(mini_kms.Ciphertext.max_len(6)))
    written = service(alice.encrypt_into, "users", memoryview(buffer)[:6], buffer)
    sealed = bytes(buffer[: written.length])
    written = service(alice.decrypt_into, sealed, buffer)
    assert buffer[: written.length] == b"secret"
    before = len(service(alice.list_audit, action="DECRYPT").items)
    with pytest.raises(ValueError, match="has room for 5 bytes"):
        service(alice.decrypt_into, sealed, bytearray(5))
    with pytest.raises(BufferError):
        service(alice.decrypt_into, sealed, bytes(100))
    assert len(service(alice.list_audit, action="DECRYPT").items) == before == 1, "nothing was done"


def test_data_keys_are_wiped(service: Service) -> None:
    alice = service.alice
    with service(alice.generate_data_key, "users", 16) as data_key:
        assert len(data_key) == 16
        with memoryview(data_key) as view:
            assert view.readonly
            with pytest.raises(BufferError):
                data_key.wipe()
        plaintext = bytes(data_key)
    assert service(alice.decrypt, data_key.ciphertext).plaintext == plaintext
    assert not data_key.has_plaintext
    with pytest.raises(BufferError):
        memoryview(data_key)
    assert not service(alice.generate_data_key_without_plaintext, "users").has_plaintext


def test_items_of_batches_fail_alone(service: Service) -> None:
    alice = service.alice
    first, missing, last = service(
        alice.encrypt_batch,
        [mini_kms.EncryptItem("users", b"one"), ("nobody", b"two"), ("users", bytearray(b"three"), {"row": "3"})],
    )
    assert isinstance(missing, mini_kms.KeyNotFound)
    assert isinstance(missing, mini_kms.NotFound)
    opened = service(
        alice.decrypt_batch, iter([(first.ciphertext,), mini_kms.DecryptItem(last.ciphertext, {"row": "3"})])
    )
    assert [item.plaintext for item in opened] == [b"one", b"three"]
    [again] = service(alice.reencrypt_batch, [mini_kms.ReencryptItem(first.ciphertext)])
    assert service(alice.decrypt, again.ciphertext).plaintext == b"one"
    service(alice.create_key, "invoices", "RSA_2048", "SIGNING")
    pss: mini_kms.SignatureAlgorithm = "RSASSA_PSS_SHA_256"
    [signed] = service(alice.sign_batch, [mini_kms.SignItem("invoices", b"42", pss)])
    items = [("invoices", b"42", signed.signature, pss), ("invoices", b"43", signed.signature, pss)]
    assert [item.valid for item in service(alice.verify_batch, items)] == [True, False]


def test_files(service: Service) -> None:
    alice = service.alice
    plaintext, sealed, opened, told = os.urandom(3_000_000), io.BytesIO(), io.BytesIO(), list[int]()
    done = service(alice.encrypt_file, "users", io.BytesIO(plaintext), sealed, progress=told.append)
    assert done.length == told[-1] == len(plaintext)
    service(alice.decrypt_file, io.BytesIO(sealed.getvalue()), opened)
    assert opened.getvalue() == plaintext
    for length in (0, 10, len(sealed.getvalue()) - 1):
        with pytest.raises(KmsError):
            service(alice.decrypt_file, io.BytesIO(sealed.getvalue()[:length]), io.BytesIO())


def test_administration(service: Service, tmp_path: Path) -> None:
    alice = service.alice
    key = service(alice.update_key, "users", metadata={"team": "shop"}, rotation_period_days=90)
    assert key.metadata == {"team": "shop"}
    key = service(alice.update_key, key, metadata=None)
    assert (key.metadata, key.rotation_period_days) == (None, 90)
    assert service(alice.rotate_key, key.id, expected_current=1).current_version == 2
    assert service(alice.set_window, key, 1, datetime(2100, 1, 1, tzinfo=UTC)).versions[0].not_after.year == 2100
    with pytest.raises(mini_kms.InvalidArgument):
        service(alice.set_window, key, 1, datetime(2100, 1, 1))
    assert service(alice.list_keys, limit=1).items[0].versions is None

    conditions = mini_kms.Conditions(source_ip=("10.0.0.0/8",))
    grant = service(alice.put_grant, "shop", "*", ["encrypt"], conditions=conditions)
    assert (grant.key_id, grant.conditions) == ("*", conditions)
    service(alice.revoke_grant, grant)
    made = service(alice.create_token, "shop")
    assert made.token not in repr(made)
    assert service(service.kms.authenticate, made.token).principal == "shop"
    service(alice.revoke_credential, made.credential)
    with pytest.raises(mini_kms.NotAuthenticated):
        service(service.kms.authenticate, made.token)

    told = list[tuple[int, int]]()
    report = service(alice.verify_audit, progress=lambda *so_far: told.append(so_far))
    assert report.ok
    assert told[-1] == (report.size, report.size)
    assert service(alice.add_root_key, mini_kms.generate_root_key()).generation == 2
    assert service(alice.rewrap, progress=lambda *so_far: told.append(so_far)).is_complete
    assert service(alice.backup, tmp_path / "backup.db").verification.ok
    assert service(alice.compare_backup, tmp_path / "backup.db").lost_records > 0
    kind: Any = type(service.kms)
    elsewhere = mini_kms.Config(f"sqlite:{tmp_path / 'restored.db'}", root_key=ROOT_KEY)
    assert service(kind.restore, elsewhere, tmp_path / "backup.db").verification.ok
    assert service(service.kms.ready).root_key == "ok"
    assert service(service.kms.telemetry).records > 10
    assert service(service.kms.run_scheduler).failed == ()
    assert service(alice.metrics).keys.total == 1


def test_closes(service: Service) -> None:
    assert not service.kms.closed
    service(service.kms.close)
    service(service.kms.close)
    assert service.kms.closed
    with pytest.raises(mini_kms.Closed):
        service(service.alice.encrypt, "users", b"")


def test_handles_stay_in_their_process(service: Service) -> None:
    alice, kms = service.alice, service.kms
    for handle in (alice, kms):
        for way in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="can be neither pickled nor copied"):
                way(handle)
    child = os.fork()
    if child == 0:
        failures = 0
        for operation in (lambda: alice.encrypt("users", b""), lambda: kms.session("bob"), kms.close):
            try:
                result = operation()
                if inspect.iscoroutine(result):
                    result.send(None)
                failures += 1
            except mini_kms.UsedAfterFork:
                pass
        del alice, kms
        os._exit(failures)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert service(service.alice.encrypt, "users", b"").version == 1


def test_threads_share_a_session(url: str) -> None:
    with Kms.open(url, root_key=ROOT_KEY) as kms:
        alice = kms.session("alice", "admin")
        alice.create_key("users")

        def work() -> None:
            for _ in range(20):
                assert alice.decrypt(alice.encrypt("users", b"secret").ciphertext).plaintext == b"secret"

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert alice.verify_audit().size >= 320


def test_a_cancelled_task_cancels_no_operation(url: str) -> None:
    async def main() -> None:
        async with await AsyncKms.open(url, root_key=ROOT_KEY) as kms:
            alice = kms.session("alice", "admin")
            tasks = [asyncio.create_task(alice.create_key(f"key {number}")) for number in range(20)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(result, asyncio.CancelledError) for result in results)
            # Closing would refuse an operation that is not submitted yet.
            while len((await alice.list_keys()).items) < 20:
                await asyncio.sleep(0.01)

    asyncio.run(main())


def test_an_interrupt_ends_a_long_call(url: str, tmp_path: Path) -> None:
    # Ctrl-C ends the call in the same place as an exception of the progress callback.
    with Kms.open(url, root_key=ROOT_KEY) as kms:
        alice = kms.session("alice", "admin")

        def interrupt(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            alice.verify_audit(progress=interrupt)
        assert alice.verify_audit().ok


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_interpreter_ends_with_an_open_service(url: str) -> None:
    program = """
        import sys, threading
        import mini_kms
        kms = mini_kms.Kms.open(sys.argv[1], root_key=bytes(32), audit_ack="queued")
        alice = kms.session("alice", "admin")
        alice.create_key("users")
        def work():
            while True:
                alice.encrypt("users", b"secret")
        for _ in range(4):
            threading.Thread(target=work, daemon=True).start()
        for _ in range(1000):
            alice.encrypt("users", b"secret")
    """
    for _ in range(3):
        ended = run(program, url)
        assert ended.returncode in (0, 1), ended.stderr
        Path(url.removeprefix("sqlite:")).unlink()


def test_subinterpreters_are_refused() -> None:
    program = """
        import sys, mini_kms
        if sys.version_info >= (3, 13):
            import _interpreters as interpreters
        else:
            import _xxsubinterpreters as interpreters
        inner = "import sys; sys.path = " + repr(sys.path) + chr(10) + '''try:
            import mini_kms
        except ImportError as error:
            print(error)
        '''.replace(chr(10) + " " * 8, chr(10))
        interpreters.run_string(interpreters.create(), inner)
    """
    assert "subinterpreters are not supported" in run(program).stdout


def test_events_reach_logging(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "mini_kms")
    mini_kms.enable_logging("DEBUG")
    try:
        with Kms.open(url, root_key=ROOT_KEY, audit_ack="queued"):
            time.sleep(0.1)
    finally:
        mini_kms.disable_logging()
    assert all(record.name.startswith("mini_kms") for record in caplog.records)


def test_errors_are_those_of_the_library() -> None:
    from mini_kms import _errors, _native

    for name, number, retryable, unusable in _native._error_codes():
        kind = getattr(mini_kms, name)
        assert (kind.name, kind.code, kind.retryable) == (name, number, retryable)
        assert issubclass(kind, mini_kms.Unavailable) == (unusable or retryable)
        again = pickle.loads(pickle.dumps(_errors.make(name, "why")))
        assert (type(again), again.message, str(again)) == (kind, "why", "why")
    assert len(_errors._BY_NAME) == len(_native._error_codes())
