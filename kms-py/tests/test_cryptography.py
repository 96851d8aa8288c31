"""Encryption, decryption and signatures, and the buffers of arguments and results."""

from __future__ import annotations

import array
import ctypes
import mmap
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import mini_kms
import pytest
from mini_kms import Ciphertext, EncryptItem, Session

PSS: mini_kms.SignatureAlgorithm = "RSASSA_PSS_SHA_256"
PKCS1: mini_kms.SignatureAlgorithm = "RSASSA_PKCS1_V1_5_SHA_256"
GIB = 1 << 30


class Subclass(bytes):
    """A subclass of bytes. It can add methods, but its buffer is that of the bytes."""


def mapped(data: bytes) -> mmap.mmap:
    area = mmap.mmap(-1, len(data))
    area[:] = data
    return area


BUFFERS: dict[str, Callable[[bytes], Any]] = {
    "bytes": bytes,
    "subclass": Subclass,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "slice": lambda data: memoryview(b"xx" + data + b"xx")[2:-2],
    "writable slice": lambda data: memoryview(bytearray(b"xx" + data + b"xx"))[2:-2],
    "array": lambda data: array.array("B", data),
    "array of words": lambda data: array.array("I", data),
    "two dimensions": lambda data: memoryview(data).cast("B", (2, len(data) // 2)),
    "mmap": mapped,
    "ctypes": lambda data: (ctypes.c_char * len(data)).from_buffer_copy(data),
}
WRONG: list[Any] = [None, 1, "text", object(), [1, 2], {"a": 1}, 1.5, iter([b""])]


@pytest.mark.parametrize("kind", BUFFERS)
@pytest.mark.parametrize("size", [64, 100_000])
def test_any_contiguous_buffer_is_accepted(alice: Session, kind: str, size: int) -> None:
    data, make = os.urandom(size), BUFFERS[kind]
    sealed = alice.encrypt("users", make(data))
    assert type(sealed.ciphertext) is bytes
    # The length of a ciphertext need not be a multiple of a word or of a row.
    again = bytes if kind in ("array of words", "two dimensions") else make
    opened = alice.decrypt(again(sealed.ciphertext))
    assert type(opened.plaintext) is bytes
    assert opened.plaintext == data


@pytest.mark.parametrize("buffer", [b"", bytearray(), memoryview(b""), array.array("I"), memoryview(b"abc")[3:]])
def test_empty_buffers(alice: Session, buffer: Any) -> None:
    assert alice.decrypt(alice.encrypt("users", buffer).ciphertext).plaintext == b""


@pytest.mark.parametrize("step", [2, -1])
def test_buffers_with_gaps_are_refused(alice: Session, invoices: str, step: int) -> None:
    gaps = memoryview(bytearray(100))[::step]
    operations: list[Callable[[], object]] = [
        lambda: alice.encrypt("users", gaps),
        lambda: alice.decrypt(gaps),
        lambda: alice.reencrypt(gaps),
        lambda: alice.sign(invoices, gaps, PSS),
        lambda: alice.verify(invoices, b"", gaps, PSS),
        lambda: alice.encrypt_into("users", gaps, bytearray(1000)),
        lambda: alice.encrypt_into("users", b"", memoryview(bytearray(1000))[::step]),
        lambda: alice.decrypt_stream(gaps),
        lambda: Ciphertext(gaps),
        lambda: alice.decrypt(b"", iv=gaps),
    ]
    before = records(alice)
    for operation in operations:
        with pytest.raises(BufferError, match="contiguous"):
            operation()
    assert records(alice) == before, "nothing was done"


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: type(wrong).__name__)
def test_arguments_that_are_not_buffers_are_refused(alice: Session, invoices: str, wrong: Any) -> None:
    operations: list[Callable[[], object]] = [
        lambda: alice.encrypt("users", wrong),
        lambda: alice.decrypt(wrong),
        lambda: alice.reencrypt(wrong),
        lambda: alice.decrypt_oaep("users", 1, wrong),
        lambda: alice.sign(invoices, wrong, PSS),
        lambda: alice.verify(invoices, wrong, b"", PSS),
        lambda: alice.verify(invoices, b"", wrong, PSS),
        lambda: alice.encrypt_into("users", wrong, bytearray(1000)),
        lambda: alice.encrypt_into("users", b"", wrong),
        lambda: alice.decrypt_into(wrong, bytearray(1000)),
        lambda: alice.decrypt_stream(wrong),
        lambda: Ciphertext(wrong),
    ]
    before = records(alice)
    for operation in operations:
        with pytest.raises(TypeError, match=type(wrong).__name__):
            operation()
    assert records(alice) == before, "nothing was done"


def test_a_gibibyte_is_refused(alice: Session, invoices: str) -> None:
    huge = mmap.mmap(-1, GIB)
    operations: list[Callable[[], object]] = [
        lambda: alice.encrypt("users", huge),
        lambda: alice.encrypt("users", bytes(GIB)),
        lambda: alice.encrypt_batch([EncryptItem("users", huge)])[0],
        lambda: alice.sign(invoices, huge, PSS),
        lambda: alice.verify(invoices, huge, b"", PSS),
        lambda: alice.decrypt(huge),
        lambda: alice.reencrypt(huge),
    ]
    for operation in operations:
        try:
            result = operation()
        except mini_kms.KmsError as error:
            result = error
        assert isinstance(result, mini_kms.InvalidInput | mini_kms.CryptoFault), result
        assert len(result.message) < 300
    with pytest.raises(mini_kms.PlaintextTooLong, match=r"(?i)bytes|MiB"):
        alice.encrypt("users", huge)
    with pytest.raises((mini_kms.KmsError, ValueError)):
        alice.encrypt_into("users", huge, bytearray(1000))
    huge.close()


def test_a_buffer_that_another_thread_changes_is_copied_first(alice: Session) -> None:
    size = 1_000_000
    data, ended = bytearray(size), threading.Event()

    def change() -> None:
        while not ended.is_set():
            for value in (b"a", b"b"):
                data[:] = value * size

    changer = threading.Thread(target=change)
    changer.start()
    try:
        for _ in range(20):
            plaintext = alice.decrypt(alice.encrypt("users", data).ciphertext).plaintext
            assert len(plaintext) == size
            assert len(set(plaintext)) == 1, "copied while it was being changed"
    finally:
        ended.set()
        changer.join()
    # The call released the buffer, so its size can change again.
    data.extend(b"more")


def test_contexts(alice: Session) -> None:
    class Mine(Mapping[str, str]):
        def __getitem__(self, name: str) -> str:
            return "4711"

        def __iter__(self) -> Iterator[str]:
            return iter(["row"])

        def __len__(self) -> int:
            return 1

    sealed = alice.encrypt("users", b"secret", context={"table": "users", "row": "4711"}).ciphertext
    for context in ({"row": "4711", "table": "users"}, OrderedDict(table="users", row="4711")):
        assert alice.decrypt(sealed, context=context).plaintext == b"secret"
    for other in (None, {}, {"row": "4711"}, {"table": "users", "row": "4712"}, Mine()):
        with pytest.raises(mini_kms.DecryptionFailed):
            alice.decrypt(sealed, context=other)
    assert alice.decrypt(alice.encrypt("users", b"x", context=Mine()).ciphertext, context={"row": "4711"}).version == 1
    wrong: list[Any] = [{"row": 4711}, {1: "row"}, ["row"], "row", {"row": None}, {"row": b"4711"}]
    for context in wrong:
        with pytest.raises(TypeError):
            alice.encrypt("users", b"", context=context)
    for context in ({"row": "\ud800"}, {str(number): "" for number in range(65)}, {"row": "x" * 10_000}):
        with pytest.raises(mini_kms.InvalidArgument):
            alice.encrypt("users", b"", context=context)


def test_an_exception_of_a_mapping_passes_through(alice: Session) -> None:
    class Broken:
        def items(self) -> Any:
            raise LookupError("mine")

    broken: Any = Broken()
    with pytest.raises(LookupError, match="mine"):
        alice.encrypt("users", b"", context=broken)


def test_expected_properties_must_agree_with_the_ciphertext(alice: Session) -> None:
    sealed = alice.encrypt("users", b"secret").ciphertext
    parts = Ciphertext(sealed)
    key = alice.get_key("users")
    assert (parts.key_id, parts.version, parts.algorithm) == (key.id, 1, "AES_256_GCM")
    assert (len(parts.iv), len(parts.auth_tag)) == (12, 16)
    opened = alice.decrypt(sealed, key=key, version=1, iv=bytearray(parts.iv), auth_tag=memoryview(parts.auth_tag))
    assert (opened.plaintext, opened.key_id) == (b"secret", key.id)
    alice.create_key("other")
    beside: list[dict[str, Any]] = [{"key": "other"}, {"version": 2}, {"iv": bytes(12)}, {"auth_tag": bytes(16)}]
    for arguments in beside:
        with pytest.raises(mini_kms.KmsError):
            alice.decrypt(sealed, **arguments)
    with pytest.raises(mini_kms.InvalidCiphertext):
        Ciphertext(b"nothing")


def test_altered_ciphertexts_are_refused(alice: Session) -> None:
    sealed = alice.encrypt("users", b"secret").ciphertext
    for place in range(len(sealed)):
        altered = bytearray(sealed)
        altered[place] ^= 1
        with pytest.raises((mini_kms.CryptoFault, mini_kms.NotFound)):
            alice.decrypt(altered)
    for length in range(0, len(sealed), 7):
        with pytest.raises(mini_kms.CryptoFault):
            alice.decrypt(sealed[:length])


def test_results_are_frozen_and_hide_plaintext(alice: Session) -> None:
    opened = alice.decrypt(alice.encrypt("users", b"secret").ciphertext)
    assert "secret" not in repr(opened)
    with pytest.raises(AttributeError):
        opened.version = 2  # type: ignore[misc]
    assert opened.plaintext is opened.plaintext
    assert opened.receipt == opened.receipt
    assert len({opened.receipt, opened.receipt}) == 1


def test_writes_into_buffers(alice: Session) -> None:
    room = Ciphertext.max_len(6)
    for buffer in (bytearray(room), memoryview(bytearray(room + 9))[3 : 3 + room], array.array("B", bytes(room))):
        written = alice.encrypt_into("users", b"secret", buffer)
        assert 0 < written.length <= room
        assert alice.decrypt(memoryview(buffer)[: written.length]).plaintext == b"secret"
    area = mmap.mmap(-1, 4096)
    written = alice.encrypt_into("users", b"secret", area)
    assert alice.decrypt_into(memoryview(area)[: written.length], area).length == 6
    assert area[:6] == b"secret"


def test_a_buffer_may_be_source_and_destination(alice: Session) -> None:
    for size in (0, 6, 5_000):
        buffer = bytearray(b"x" * size + bytes(Ciphertext.max_len(size) - size))
        written = alice.encrypt_into("users", memoryview(buffer)[:size], buffer)
        written = alice.decrypt_into(memoryview(buffer)[: written.length], buffer)
        assert buffer[: written.length] == b"x" * size


def test_a_buffer_that_is_too_small_is_refused_before_anything_is_done(alice: Session) -> None:
    sealed = alice.encrypt("users", b"secret").ciphertext
    before = records(alice)
    for room in (0, Ciphertext.max_len(6) - 1):
        with pytest.raises(ValueError, match="room"):
            alice.encrypt_into("users", b"secret", bytearray(room))
    with pytest.raises(ValueError, match="room for 5 bytes"):
        alice.decrypt_into(sealed, bytearray(5))
    read_only: list[Any] = [bytes(100), memoryview(bytes(100)), Subclass(100)]
    for buffer in read_only:
        with pytest.raises(BufferError):
            alice.decrypt_into(sealed, buffer)
    assert records(alice) == before, "nothing was done"


def test_a_failed_operation_leaves_the_buffer_alone(alice: Session) -> None:
    sealed = alice.encrypt("users", b"secret", context={"row": "1"}).ciphertext
    buffer = bytearray(b"." * 1000)
    with pytest.raises(mini_kms.DecryptionFailed):
        alice.decrypt_into(sealed, buffer)
    with pytest.raises(mini_kms.KeyNotFound):
        alice.encrypt_into("nobody", b"secret", buffer)
    assert buffer == b"." * 1000
    buffer.extend(b"more")


def test_signs_and_verifies(alice: Session, invoices: str) -> None:
    for algorithm in (PSS, PKCS1):
        signed = alice.sign(invoices, bytearray(b"total: 42"), algorithm)
        assert len(signed.signature) == 256
        assert alice.verify(invoices, b"total: 42", memoryview(signed.signature), algorithm).valid
        assert not alice.verify(invoices, b"total: 43", signed.signature, algorithm).valid
        assert not alice.verify(invoices, b"total: 42", b"", algorithm).valid
    alice.rotate_key(invoices)
    assert alice.verify(invoices, b"total: 42", signed.signature, PKCS1).version == 1
    assert not alice.verify(invoices, b"total: 42", signed.signature, PKCS1, version=2).valid
    with pytest.raises(mini_kms.VersionNotCurrent):
        alice.sign(invoices, b"", PSS, version=1)
    with pytest.raises(mini_kms.InvalidArgument):
        alice.sign(invoices, b"", "ECDSA")  # type: ignore[arg-type]
    with pytest.raises(mini_kms.WrongKeyType):
        alice.sign("users", b"", PSS)
    with pytest.raises(mini_kms.KmsError):
        alice.encrypt(invoices, b"")


def test_other_tools_use_the_public_key(alice: Session, invoices: str) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    alice.create_key("mail", "RSA_2048", "ENCRYPTION")
    public = load_pem_public_key(alice.public_key("mail", 1).encode())
    assert isinstance(public, rsa.RSAPublicKey)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    assert alice.decrypt_oaep("mail", 1, public.encrypt(b"secret", oaep)).plaintext == b"secret"
    assert alice.decrypt(alice.encrypt("mail", b"x" * 190).ciphertext).plaintext == b"x" * 190
    with pytest.raises(mini_kms.PlaintextTooLong):
        alice.encrypt("mail", b"x" * 191)

    public = load_pem_public_key(alice.public_key(invoices, 1).encode())
    assert isinstance(public, rsa.RSAPublicKey)
    signature = alice.sign(invoices, b"total: 42", PSS).signature
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    public.verify(signature, b"total: 42", pss, hashes.SHA256())


def test_data_keys(alice: Session) -> None:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    with alice.generate_data_key("users", context={"file": "a"}) as data_key:
        assert len(data_key) == 32
        # The stubs of `cryptography` accept only buffers of the standard library.
        cipher = AESGCM(data_key)  # type: ignore[arg-type]
        sealed = cipher.encrypt(bytes(12), b"secret", None)
        plaintext = bytes(data_key)
        assert plaintext.hex() not in repr(data_key)
    opened = alice.decrypt(data_key.ciphertext, context={"file": "a"}).plaintext
    assert opened == plaintext
    assert AESGCM(opened).decrypt(bytes(12), sealed, None) == b"secret"
    assert [len(alice.generate_data_key("users", length)) for length in (1, 1024)] == [1, 1024]
    for length in (0, 1025, sys.maxsize):
        with pytest.raises(mini_kms.InvalidArgument):
            alice.generate_data_key("users", length)
    with pytest.raises(OverflowError):
        alice.generate_data_key("users", -1)


def test_a_data_key_is_wiped_only_without_views(alice: Session) -> None:
    data_key = alice.generate_data_key("users", 16)
    first = memoryview(data_key)
    second = first[4:8]
    assert first.readonly
    for view in (first, second):
        with pytest.raises(BufferError, match="memoryviews"):
            data_key.wipe()
        view.release()
    data_key.wipe()
    data_key.wipe()
    assert not data_key.has_plaintext
    assert len(data_key) == 0
    for use in (memoryview, bytes):
        with pytest.raises(BufferError):
            use(data_key)


def test_leaving_the_block_of_a_data_key_with_views(alice: Session) -> None:
    with pytest.raises(BufferError), alice.generate_data_key("users") as data_key:
        view = memoryview(data_key)
    # Nothing was overwritten under the view.
    assert data_key.has_plaintext
    assert any(view)
    view.release()
    data_key.wipe()
    # An exception of the block is not hidden.
    with pytest.raises(LookupError), alice.generate_data_key("users") as data_key:
        raise LookupError
    assert not data_key.has_plaintext


def test_a_view_outlives_the_last_name_of_its_data_key(alice: Session) -> None:
    data_key = alice.generate_data_key("users")
    plaintext, view = bytes(data_key), memoryview(data_key)
    del data_key
    assert view == plaintext


def test_data_keys_without_plaintext(alice: Session) -> None:
    data_key = alice.generate_data_key_without_plaintext("users", 16)
    assert (data_key.has_plaintext, data_key.version) == (False, 1)
    with pytest.raises(BufferError):
        bytes(data_key)
    assert len(alice.decrypt(data_key.ciphertext).plaintext) == 16


def test_reencrypts(alice: Session) -> None:
    alice.create_key("cards")
    sealed = alice.encrypt("users", b"secret", context={"row": "1"}).ciphertext
    alice.rotate_key("users")
    again = alice.reencrypt(sealed, context={"row": "1"})
    assert (again.source_version, again.version, again.source_key_id) == (1, 2, again.key_id)
    moved = alice.reencrypt(sealed, context={"row": "1"}, destination="cards", destination_context={"row": "2"})
    assert moved.key_id == alice.get_key("cards").id
    assert alice.decrypt(moved.ciphertext, context={"row": "2"}).plaintext == b"secret"
    with pytest.raises(mini_kms.DecryptionFailed):
        alice.reencrypt(sealed)


def records(alice: Session) -> int:
    """Returns the sequence number of the newest record about the key, without the one of this query."""
    return alice.list_audit(limit=1, key="users").items[0].seq
