"""Wrong arguments for every method, misbehaving callbacks, and services that close during calls."""

from __future__ import annotations

import datetime
import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mini_kms
import pytest
from mini_kms import Config, Kms, Session
from support import ROOT_KEY, VALUES, arguments, run

# The exceptions that a wrong argument may raise. A panic, a fault of the service or a SystemError is a failure.
REFUSED = (mini_kms.KmsError, TypeError, ValueError, OverflowError, BufferError, AttributeError, OSError)


class Hostile:
    """An object that raises when it is used in any way."""

    def __getattr__(self, name: str) -> Any:
        raise ValueError(name)

    def __iter__(self) -> Any:
        raise ValueError("iter")

    def __index__(self) -> int:
        raise ValueError("index")

    def __fspath__(self) -> str:
        raise ValueError("path")


def wrong() -> list[Any]:
    """Makes new objects each time, because iterators can be used once."""
    return [
        None,
        -1,
        0,
        2**32,
        2**64,
        2**200,
        1.5,
        float("nan"),
        "",
        "x",
        "\0",
        "x" * 100_000,
        "\U0010ffff",
        b"",
        b"\0" * 70_000,
        bytearray(3),
        memoryview(b"abcdef")[::2],
        [],
        [None],
        [()],
        ("x", "y", "z"),
        {"x": 1},
        {1: "x"},
        {"x" * 9_000: "y"},
        {str(number): "" for number in range(100)},
        {"x"},
        (item for item in ["x"]),
        range(3),
        datetime.datetime.now(),
        datetime.datetime.min.replace(tzinfo=datetime.UTC),
        datetime.datetime.max.replace(tzinfo=datetime.UTC),
        datetime.date.today(),
        datetime.timedelta(1),
        len,
        int,
        object(),
        Hostile(),
        mini_kms.Conditions(source_ip=("x",)),
        mini_kms.AwsRootKey(""),
    ]


def misuse(method: Callable[..., Any], name: str, others: dict[str, Any]) -> None:
    for value in wrong():
        try:
            method(**{name: value}, **others)
        except REFUSED as error:
            assert not isinstance(error, mini_kms.InternalFault), f"{name}={value!r}: {error}"


@pytest.mark.parametrize("method", sorted({method for method, _, _ in arguments("Session")}))
def test_wrong_arguments_of_a_session(
    alice: Session, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for other, argument, needed in arguments("Session"):
        if other == method:
            values = {"path": tmp_path / "backup", "credential": "x", "items": [], "source": "x", **VALUES}
            misuse(getattr(alice, method), argument.arg, {name: values[name] for name in needed})
    # The service still works.
    alice.create_key("afterwards")
    assert alice.decrypt(alice.encrypt("afterwards", b"secret").ciphertext).plaintext == b"secret"
    assert alice.verify_audit().ok


@pytest.mark.parametrize("method", ["session", "operator_session", "authenticate", "verify_backup", "restore"])
def test_wrong_arguments_of_a_service(kms: Kms, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = {"config": Config(f"sqlite:{tmp_path / 'new.db'}"), "path": tmp_path / "none", "token": "x", **VALUES}
    for other, argument, needed in arguments("Kms"):
        if other == method:
            misuse(getattr(kms, method), argument.arg, {name: values[name] for name in needed})
    kms.session("alice", "admin").create_key("afterwards")


@pytest.mark.parametrize("name", mini_kms.Settings.__annotations__)
def test_wrong_settings(name: str) -> None:
    misuse(Config, name, {"url": "sqlite:x.db"})
    misuse(Config("sqlite:x.db").replace, name, {})


@pytest.mark.parametrize("kind", ["encrypt", "decrypt", "sign", "verify", "reencrypt"])
def test_wrong_parts_of_items(alice: Session, kind: str) -> None:
    batch = getattr(alice, f"{kind}_batch")
    for length in range(10):
        for place in range(length):
            for value in wrong():
                item = ["users", b"x", None, None, None, None, None, None, None, None][:length]
                item[place] = value
                try:
                    results = batch([tuple(item)])
                except REFUSED as error:
                    assert not isinstance(error, mini_kms.InternalFault), f"{item}: {error}"
                else:
                    assert not isinstance(results[0], mini_kms.InternalFault), f"{item}: {results[0]}"


@pytest.mark.parametrize("result", ["x", b"", bytearray(b"x"), None, 5, [b"x"], object()])
def test_sources_that_return_other_types(alice: Session, result: Any) -> None:
    class Source:
        turns = 0

        def read(self, size: int) -> Any:
            self.turns += 1
            return result if self.turns < 3 else b""

    source: Any = Source()
    operations: list[Callable[[], object]] = [
        lambda: alice.encrypt_file("users", source, io.BytesIO()),
        lambda: alice.decrypt_file(source, io.BytesIO()),
    ]
    for operation in operations:
        source.turns = 0
        try:
            operation()
        except REFUSED as error:
            assert not isinstance(error, mini_kms.InternalFault), error


@pytest.mark.parametrize("count", [None, -1, 0, 10**9, "x"])
def test_destinations_that_return_wrong_counts(alice: Session, count: Any) -> None:
    class Destination:
        turns = 0

        def write(self, data: bytes) -> Any:
            self.turns += 1
            if self.turns > 1_000:
                raise OSError("nothing is ever written")
            return count

    destination: Any = Destination()
    try:
        alice.encrypt_file("users", io.BytesIO(bytes(1_000_000)), destination)
    except REFUSED as error:
        assert not isinstance(error, mini_kms.InternalFault), error


def test_a_callback_that_uses_the_service(url: str, tmp_path: Path) -> None:
    with Kms.open(url, root_key=ROOT_KEY) as kms:
        alice = kms.session("alice", "admin")
        alice.create_key("users")
        done = list[int]()

        def use(*_: int) -> None:
            done.append(alice.encrypt("users", b"x").version)

        assert alice.verify_audit(progress=use).ok
        assert alice.backup(tmp_path / "backup", progress=use).verification.ok
        assert alice.rewrap(progress=use).is_complete
        alice.encrypt_file("users", io.BytesIO(bytes(10)), io.BytesIO(), progress=use)
        assert len(done) > 3


def test_a_callback_that_closes_the_service(url: str) -> None:
    source = """
        import io, sys
        import mini_kms
        for name in ("verify_audit", "rewrap", "encrypt_file"):
            with mini_kms.Kms.open(sys.argv[1], root_key=bytes(range(32))) as kms:
                alice = kms.session("alice", "admin")
                alice.create_key(name)
                arguments = (name, io.BytesIO(bytes(10)), io.BytesIO()) if name == "encrypt_file" else ()
                try:
                    getattr(alice, name)(*arguments, progress=lambda *_: kms.close())
                except mini_kms.KmsError as error:
                    print(error)
    """
    run(source, url)


@pytest.mark.parametrize("milliseconds", [1, 30, 200])
def test_everything_at_once_while_the_service_closes(url: str, milliseconds: int) -> None:
    kms = Kms.open(url, root_key=ROOT_KEY)
    alice = kms.session("alice", "admin")
    alice.create_key("users")
    faults = list[BaseException]()
    operations: list[Callable[[], object]] = [
        lambda: alice.encrypt_batch([mini_kms.EncryptItem("users", b"x")] * 50),
        lambda: alice.encrypt_file("users", io.BytesIO(bytes(300_000)), io.BytesIO()),
        lambda: alice.generate_data_key("users").wipe(),
        lambda: alice.list_audit(limit=10),
        lambda: alice.rotate_key("users"),
        lambda: alice.verify_audit(),
        lambda: alice.encrypt_into("users", b"x", bytearray(500)),
    ]

    def work(operation: Callable[[], object]) -> None:
        try:
            while True:
                operation()
        except mini_kms.Closed:
            pass
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(operation,)) for operation in operations]
    for thread in threads:
        thread.start()
    time.sleep(milliseconds / 1_000)
    kms.close()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    # The service may have refused a call because it was overloaded.
    assert all(isinstance(fault, mini_kms.Unavailable) for fault in faults), faults
    with Kms.open(url, root_key=ROOT_KEY) as again:
        assert again.session("alice", "admin").verify_audit().ok
