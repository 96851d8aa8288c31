"""The items of batches. Plain tuples with the same parts work too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ._types import KeyRef, SignatureAlgorithm


class EncryptItem(NamedTuple):
    """One plaintext of ``encrypt_batch``."""

    key: KeyRef
    plaintext: Buffer
    context: Mapping[str, str] | None = None


class DecryptItem(NamedTuple):
    """One ciphertext of ``decrypt_batch``, with the properties that it must have.

    ``is_imported`` marks a ciphertext of Mini KMS on Node, made with an imported version of ``key``;
    ``imported_aad`` is the JSON text of its additional data.
    """

    ciphertext: Buffer
    context: Mapping[str, str] | None = None
    key: KeyRef | None = None
    version: int | None = None
    iv: Buffer | None = None
    auth_tag: Buffer | None = None
    oaep_version: int | None = None
    imported_aad: str | None = None
    is_imported: bool = False


class SignItem(NamedTuple):
    """One payload of ``sign_batch``."""

    key: KeyRef
    payload: Buffer
    algorithm: SignatureAlgorithm
    version: int | None = None


class VerifyItem(NamedTuple):
    """One signature of ``verify_batch``."""

    key: KeyRef
    payload: Buffer
    signature: Buffer
    algorithm: SignatureAlgorithm
    version: int | None = None


class ReencryptItem(NamedTuple):
    """One ciphertext of ``reencrypt_batch``."""

    ciphertext: Buffer
    context: Mapping[str, str] | None = None
    destination: KeyRef | None = None
    destination_context: Mapping[str, str] | None = None
