"""Streams: files of any size in constant memory."""

from __future__ import annotations

import asyncio
import io
import os
from pathlib import Path
from typing import Any

import mini_kms
import pytest
from mini_kms import AsyncKms, Session
from support import FULL, ROOT_KEY, run

MIB = 1 << 20


def seal(alice: Session, plaintext: bytes, **arguments: Any) -> bytes:
    sealed = io.BytesIO()
    assert alice.encrypt_file("users", io.BytesIO(plaintext), sealed, **arguments).length == len(plaintext)
    return sealed.getvalue()


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 3 * MIB])
def test_files_are_restored(alice: Session, tmp_path: Path, size: int) -> None:
    plain, sealed, opened = tmp_path / "plain", tmp_path / "sealed", tmp_path / "opened"
    plain.write_bytes(os.urandom(size))
    with plain.open("rb") as src, sealed.open("wb") as dst:
        done = alice.encrypt_file("users", src, dst, context={"file": "a"})
    assert (done.length, done.version, done.key_id) == (size, 1, alice.get_key("users").id)
    with sealed.open("rb") as src, opened.open("wb") as dst:
        assert alice.decrypt_file(src, dst, context={"file": "a"}).length == size
    assert opened.read_bytes() == plain.read_bytes()
    with sealed.open("rb") as src, pytest.raises(mini_kms.CryptoFault):
        alice.decrypt_file(src, io.BytesIO())


def test_pieces_of_any_size(alice: Session) -> None:
    plaintext = os.urandom(200_000)
    for piece in (1_000, 65_536, 199_999):
        encryptor, sealed = alice.encrypt_stream("users"), b""
        for place in range(0, len(plaintext), piece):
            sealed += encryptor.update(memoryview(plaintext)[place : place + piece])
        sealed += encryptor.finish()[0]
        begun, taken = None, 0
        for taken in range(0, 200, 9):
            begun = alice.decrypt_stream(sealed[:taken])
            if begun is not None:
                break
        assert begun is not None
        decryptor, used = begun
        rest, opened = sealed[used:], b""
        for place in range(0, len(rest), piece):
            opened += decryptor.update(bytearray(rest[place : place + piece]))
        last, summary = decryptor.finish()
        assert opened + last == plaintext
        assert summary.length == len(plaintext)


def test_a_stream_ends_once(alice: Session) -> None:
    encryptor = alice.encrypt_stream("users")
    encryptor.update(b"secret")
    encryptor.finish()
    for again in (lambda: encryptor.update(b"more"), encryptor.finish):
        with pytest.raises(RuntimeError, match="ended"):
            again()
    wrong: Any = None
    with pytest.raises(TypeError):
        alice.encrypt_stream("users").update(wrong)
    with pytest.raises(BufferError):
        alice.encrypt_stream("users").update(memoryview(bytes(4))[::2])


def test_cut_and_altered_streams_are_refused(alice: Session) -> None:
    sealed = seal(alice, os.urandom(150_000))
    for length in (0, 1, 50, 100, 65_536, 100_000, len(sealed) - 1):
        with pytest.raises(mini_kms.KmsError):
            alice.decrypt_file(io.BytesIO(sealed[:length]), io.BytesIO())
    for place in (0, 30, 90, 70_000, len(sealed) - 1):
        altered = bytearray(sealed)
        altered[place] ^= 1
        with pytest.raises(mini_kms.KmsError):
            alice.decrypt_file(io.BytesIO(altered), io.BytesIO())
    with pytest.raises(mini_kms.KmsError):
        alice.decrypt_file(io.BytesIO(sealed + b"more"), io.BytesIO())


def test_progress_rises_to_the_end(alice: Session) -> None:
    told = list[int]()
    sealed = seal(alice, bytes(MIB), progress=told.append)
    assert told == sorted(told)
    assert told[-1] == MIB
    told.clear()
    alice.decrypt_file(io.BytesIO(sealed), io.BytesIO(), progress=told.append)
    assert told == sorted(told)
    assert told[-1] == len(sealed)


def test_exceptions_of_files_pass_through(alice: Session) -> None:
    class Full(io.RawIOBase):
        def write(self, data: Any, /) -> int:
            raise OSError(28, "no space left on device")

    class Broken(io.RawIOBase):
        def read(self, size: int = -1, /) -> bytes:
            raise LookupError("mine")

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    sealed = seal(alice, b"secret")
    with pytest.raises(OSError, match="no space"):
        alice.encrypt_file("users", io.BytesIO(b"x"), Full())
    with pytest.raises(LookupError):
        alice.decrypt_file(Broken(), io.BytesIO())
    with pytest.raises(KeyboardInterrupt):
        alice.decrypt_file(io.BytesIO(sealed), io.BytesIO(), progress=stop)
    nothing: Any = None
    with pytest.raises((TypeError, AttributeError)):
        alice.encrypt_file("users", nothing, io.BytesIO())
    with pytest.raises((TypeError, AttributeError)):
        alice.encrypt_file("users", io.BytesIO(b"x"), nothing)
    with pytest.raises(TypeError):
        alice.encrypt_file("users", io.StringIO("text"), io.BytesIO())  # type: ignore[arg-type]


def test_files_that_read_and_write_parts(alice: Session) -> None:
    class Parts(io.RawIOBase):
        """A file that reads and writes a limited number of bytes at a time, as a pipe does."""

        def __init__(self, data: bytes = b"") -> None:
            self.data = io.BytesIO(data)

        def read(self, size: int = -1, /) -> bytes:
            return self.data.read(min(size, 1_000))

        def write(self, data: Any, /) -> int:
            return self.data.write(bytes(data)[:1_000])

    plaintext, sealed, opened = os.urandom(100_000), Parts(), Parts()
    alice.encrypt_file("users", Parts(plaintext), sealed)
    alice.decrypt_file(Parts(sealed.data.getvalue()), opened)
    assert opened.data.getvalue() == plaintext


def test_a_non_blocking_source_without_data(alice: Session) -> None:
    class Nothing(io.RawIOBase):
        def read(self, size: int = -1, /) -> Any:
            return None

    with pytest.raises(BlockingIOError):
        alice.encrypt_file("users", Nothing(), io.BytesIO())


def test_asynchronous_files(url: str) -> None:
    class File:
        def __init__(self, data: bytes = b"") -> None:
            self.data = io.BytesIO(data)

        async def read(self, size: int, /) -> bytes:
            await asyncio.sleep(0)
            return self.data.read(size)

        async def write(self, data: bytes, /) -> int:
            await asyncio.sleep(0)
            return self.data.write(data)

    async def main() -> None:
        async with await AsyncKms.open(url, root_key=ROOT_KEY) as kms:
            alice = kms.session("alice", "admin")
            await alice.create_key("users")
            plaintext, sealed, opened = os.urandom(MIB), File(), File()
            await alice.encrypt_file("users", File(plaintext), sealed)
            await alice.decrypt_file(File(sealed.data.getvalue()), opened)
            assert opened.data.getvalue() == plaintext

    asyncio.run(main())


def test_memory_does_not_grow_with_the_file(url: str, tmp_path: Path) -> None:
    source = """
        import resource, sys
        from mini_kms import Kms
        url, sealed, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        with Kms.open(url, root_key=bytes(32)) as kms:
            alice = kms.session("alice", "admin")
            alice.create_key("users")
            for length in (1 << 20, size):
                with open("/dev/zero", "rb") as zeros, open(sealed, "wb") as dst:
                    class Head:
                        left = length
                        def read(self, count):
                            data = zeros.read(min(count, self.left))
                            self.left -= len(data)
                            return data
                    alice.encrypt_file("users", Head(), dst)
                with open(sealed, "rb") as src, open("/dev/null", "wb") as dst:
                    assert alice.decrypt_file(src, dst).length == length
                print(peak())
    """
    size = 2_048 * MIB if FULL else 192 * MIB
    before, after = map(int, run(source, url, tmp_path / "sealed", size).split())
    assert after - before < 24, f"{before} MiB, then {after} MiB"
