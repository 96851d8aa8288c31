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
"""A key: a name, an id, or a ``Key`` that a call returned."""

RootKeySource: TypeAlias = "str | bytes | AwsRootKey"
"""A root key: ``base64:``, ``hex:``, ``file:PATH`` or ``passphrase:`` as text, 32 bytes, or a key in AWS KMS."""

Path: TypeAlias = "str | PathLike[str]"
"""A path in the file system."""

Progress: TypeAlias = Callable[[int, int], object]
"""A callback that receives the work done and the total (0 until it is known)."""

FileProgress: TypeAlias = Callable[[int], object]
"""A callback that receives the number of bytes processed."""


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

    Pairs: ``cache`` is the maximum number of unwrapped keys, and the seconds that each is kept; ``deletion_wait`` the
    default and the minimum number of days before a deletion; ``limits`` the maximum number of operations in flight, and
    of bytes of their results; ``disk_space`` the free bytes below which there is an alarm, and the size of the disk
    reserve.
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
