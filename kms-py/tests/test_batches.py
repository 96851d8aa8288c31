"""Batches: one commit for many items, each of which can fail alone."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import mini_kms
import pytest
from mini_kms import DecryptItem, EncryptItem, KmsError, ReencryptItem, Session, SignItem, VerifyItem
from test_cryptography import PSS, WRONG

KINDS = ["encrypt_batch", "decrypt_batch", "sign_batch", "verify_batch", "reencrypt_batch"]


def test_a_thousand_items_keep_their_order(alice: Session) -> None:
    plaintexts = [f"secret {number}".encode() for number in range(1000)]
    sealed = alice.encrypt_batch([EncryptItem("users", plaintext, {"row": "1"}) for plaintext in plaintexts])
    items = []
    for item in sealed:
        assert isinstance(item, mini_kms.Encrypted)
        items.append(DecryptItem(item.ciphertext, {"row": "1"}))
    opened = alice.decrypt_batch(items)
    assert [item.plaintext for item in opened if isinstance(item, mini_kms.Decrypted)] == plaintexts
    assert len({item.receipt for item in opened if isinstance(item, mini_kms.Decrypted)}) == 1, "one record for all"


def test_the_garbage_collector_does_not_visit_results(alice: Session) -> None:
    sealed = alice.encrypt_batch([EncryptItem("users", b"one"), EncryptItem("users", b"two")])
    assert not any(gc.is_tracked(item) for item in sealed)
    opened = alice.decrypt_batch(
        [DecryptItem(item.ciphertext) for item in sealed if isinstance(item, mini_kms.Encrypted)]
    )
    assert not any(gc.is_tracked(item) for item in opened)


def test_results_keep_their_values_while_the_memory_of_others_is_used_again(alice: Session) -> None:
    kept = list[tuple[bytes, Any]]()
    for turn in range(3):
        plaintexts = [f"{turn}, {number}".encode() for number in range(1_000)]
        sealed: list[Any] = alice.encrypt_batch([EncryptItem("users", plaintext) for plaintext in plaintexts])
        opened = alice.decrypt_batch([DecryptItem(item.ciphertext) for item in sealed])
        kept += zip(plaintexts[::2], opened[::2], strict=True)
    for plaintext, item in kept:
        assert item.plaintext == plaintext
        assert item.version == 1


def test_items_fail_alone(alice: Session) -> None:
    first, missing, long, last = alice.encrypt_batch(
        [
            EncryptItem("users", b"one"),
            EncryptItem("nobody", b"two"),
            EncryptItem("users", bytes((64 << 20) + 1)),
            EncryptItem("users", bytearray(b"three"), {"row": "3"}),
        ]
    )
    assert isinstance(first, mini_kms.Encrypted)
    assert isinstance(last, mini_kms.Encrypted)
    assert isinstance(missing, mini_kms.KeyNotFound)
    assert isinstance(long, mini_kms.PlaintextTooLong)
    opened = alice.decrypt_batch(
        [DecryptItem(last.ciphertext), DecryptItem(first.ciphertext), DecryptItem(b"nonsense")]
    )
    assert [type(item) for item in opened] == [
        mini_kms.DecryptionFailed,
        mini_kms.Decrypted,
        mini_kms.InvalidCiphertext,
    ]
    with pytest.raises(mini_kms.KeyNotFound):
        raise missing


def test_every_kind_of_batch(alice: Session, invoices: str) -> None:
    [signed] = alice.sign_batch([SignItem(invoices, b"42", PSS, 1)])
    assert isinstance(signed, mini_kms.Signature)
    checked = alice.verify_batch(
        [
            VerifyItem(invoices, b"42", signed.signature, PSS),
            VerifyItem(invoices, b"43", memoryview(signed.signature), PSS, 1),
            VerifyItem("users", b"42", signed.signature, PSS),
        ]
    )
    assert [item.valid for item in checked if isinstance(item, mini_kms.Verification)] == [True, False]
    assert isinstance(checked[2], mini_kms.WrongKeyType)

    sealed = alice.encrypt("users", b"secret", context={"row": "1"}).ciphertext
    alice.rotate_key("users")
    again, failed = alice.reencrypt_batch(
        [ReencryptItem(sealed, {"row": "1"}, "users", {"row": "2"}), ReencryptItem(sealed)]
    )
    assert isinstance(again, mini_kms.Reencrypted)
    assert alice.decrypt(again.ciphertext, context={"row": "2"}).version == 2
    assert isinstance(failed, mini_kms.DecryptionFailed)


def test_decryption_items_have_all_parts(alice: Session) -> None:
    sealed = alice.encrypt("users", b"secret").ciphertext
    parts = mini_kms.Ciphertext(sealed)
    good, wrong_version, wrong_tag = alice.decrypt_batch(
        [
            DecryptItem(sealed, None, "users", 1, parts.iv, parts.auth_tag),
            DecryptItem(sealed, version=2),
            DecryptItem(sealed, auth_tag=bytearray(16)),
        ]
    )
    assert isinstance(good, mini_kms.Decrypted)
    assert isinstance(wrong_version, KmsError)
    assert isinstance(wrong_tag, KmsError)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_has_1_to_1000_items(alice: Session, kind: str) -> None:
    batch: Any = getattr(alice, kind)
    item = {
        "encrypt_batch": ("users", b""),
        "decrypt_batch": (b"nonsense",),
        "sign_batch": ("users", b"", PSS),
        "verify_batch": ("users", b"", b"", PSS),
        "reencrypt_batch": (b"nonsense",),
    }[kind]
    for count in (0, 1001):
        with pytest.raises(mini_kms.InvalidArgument, match="1 to 1000"):
            batch([item] * count)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [*WRONG, (), ("users",) * 9], ids=lambda wrong: type(wrong).__name__)
def test_arguments_of_other_types_are_refused(alice: Session, kind: str, wrong: Any) -> None:
    batch: Any = getattr(alice, kind)
    for argument in ([wrong], [b""], None, 1, object()):
        with pytest.raises(TypeError):
            batch(argument)


def test_items_come_from_any_iterable_whose_exceptions_pass_through(alice: Session) -> None:
    def items() -> Iterator[Any]:
        yield EncryptItem("users", b"one")
        yield ("users", memoryview(b"two"))
        if broken:
            raise LookupError("mine")

    broken = False
    assert len(alice.encrypt_batch(items())) == 2
    broken, before = True, alice.list_audit(limit=1, key="users").items[0].seq
    with pytest.raises(LookupError, match="mine"):
        alice.encrypt_batch(items())
    assert alice.list_audit(limit=1, key="users").items[0].seq == before, "nothing was done"


def test_a_batch_keeps_the_buffers_of_its_items_alive(alice: Session) -> None:
    # Only the batch refers to the bytes, which must live until it is done.
    sealed = alice.encrypt_batch(EncryptItem("users", bytes([number]) * 3_000) for number in range(200))
    parts: Any = ((item.ciphertext,) for item in sealed if not isinstance(item, KmsError))
    opened = alice.decrypt_batch(parts)
    for number, item in enumerate(opened):
        assert isinstance(item, mini_kms.Decrypted)
        assert item.plaintext == bytes([number]) * 3_000
    with pytest.raises(BufferError):
        alice.encrypt_batch([EncryptItem("users", memoryview(bytes(8))[::2])])


def test_a_batch_keeps_copies_of_writable_buffers(alice: Session) -> None:
    # Only the generator refers to the buffers, so each of them is freed while the next item is read.
    plaintexts = [bytes([number % 251]) * (number * 7) for number in range(500)]
    sealed = alice.encrypt_batch(EncryptItem("users", bytearray(plaintext)) for plaintext in plaintexts)

    def items() -> Iterator[DecryptItem]:
        for item in sealed:
            assert isinstance(item, mini_kms.Encrypted)
            parts = mini_kms.Ciphertext(item.ciphertext)
            iv, tag = bytearray(parts.iv), bytearray(parts.auth_tag)
            yield DecryptItem(bytearray(item.ciphertext), key="users", version=1, iv=iv, auth_tag=tag)

    opened = alice.decrypt_batch(items())
    assert [item.plaintext for item in opened if isinstance(item, mini_kms.Decrypted)] == plaintexts
