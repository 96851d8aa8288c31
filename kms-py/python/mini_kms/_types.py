"""Names for the texts and arguments that the interface uses."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, TypedDict

if TYPE_CHECKING:
    from datetime import datetime

    from ._results import AwsRootKey, Key, Scheduler

Role: TypeAlias = Literal["admin", "auditor", "app"]
KeyType: TypeAlias = Literal["AES256_GCM", "RSA_2048"]
KeyPurpose: TypeAlias = Literal["ENCRYPTION", "SIGNING"]
KeyState: TypeAlias = Literal["ENABLED", "DISABLED", "REVOKED", "PENDING_DELETION", "DESTROYED"]
VersionState: TypeAlias = Literal["ENABLED", "DISABLED", "REVOKED", "DESTROYED"]
AuditContext: TypeAlias = Literal["clear", "hmac"]
SignatureAlgorithm: TypeAlias = Literal["RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PSS_SHA_256"]
Permission: TypeAlias = Literal[
    "create",
    "read",
    "encrypt",
    "decrypt",
    "sign",
    "verify",
    "rotate",
    "revoke",
    "manage",
    "delete",
    "grant",
]
Status: TypeAlias = Literal["SUCCESS", "FAILURE"]

KeyRef: TypeAlias = "str | Key"
"""A key: its name, its id, or the key as a call described it."""

RootKeySource: TypeAlias = "str | bytes | AwsRootKey"
"""A root key: ``base64:``, ``hex:``, ``file:PATH`` or ``passphrase:`` as text, 32 bytes, or a key in AWS KMS."""

Path: TypeAlias = "str | PathLike[str]"
"""A path of the file system."""

Progress: TypeAlias = Callable[[int, int], object]
"""Told how much is done, and how much there is (0 until that is known)."""

FileProgress: TypeAlias = Callable[[int], object]
"""Told how many bytes are done."""


class Reader(Protocol):
    """A source of a stream, such as a file that was opened with ``"rb"``."""

    def read(self, size: int, /) -> bytes: ...


class Writer(Protocol):
    """A destination of a stream, such as a file that was opened with ``"wb"``."""

    def write(self, data: bytes, /) -> object: ...


class AsyncReader(Protocol):
    """A source of a stream whose ``read`` is awaited."""

    async def read(self, size: int, /) -> bytes: ...


class AsyncWriter(Protocol):
    """A destination of a stream whose ``write`` is awaited."""

    async def write(self, data: bytes, /) -> object: ...


class Settings(TypedDict, total=False):
    """The settings of a service, as ``Config`` of kms-lib has them; ``docs/configuration.md`` describes them.

    Pairs: ``cache`` is how many unwrapped keys are kept, and for how many seconds; ``deletion_wait`` the days before a
    deletion, and the fewest that may be asked for; ``limits`` the operations under way, and the bytes of their results;
    ``disk_space`` the free bytes below which there is an alarm, and the bytes that are set aside.
    """

    store_password_file: Path
    root_key: RootKeySource
    add_root_keys: list[RootKeySource]
    grace_days: int
    audit_ack: Literal["durable", "queued"]
    crypto_provider: Literal["aws-lc", "rust-crypto"]
    scheduler: Scheduler
    cache: tuple[int, float]
    deletion_wait: tuple[int, int]
    limits: tuple[int, int]
    high_water: Path | None
    make_store: bool
    acknowledge_restore: bool
    acknowledge_clock: datetime
    disk_space: tuple[int, int]
    lock_memory: bool
    reverify_days: int
