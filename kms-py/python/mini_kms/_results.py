"""Arguments and results of administrative calls: frozen data classes, filled from the service's JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from ._types import AuditContext, KeyPurpose, KeyState, KeyType, Permission, Role, VersionState

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AwsRootKey:
    """A key in AWS KMS as the root key: id, ARN or alias. Timeouts are in seconds."""

    key_id: str
    region: str | None = None
    endpoint: str | None = None
    timeout: float | None = None
    attempt_timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Scheduler:
    """The jobs of the scheduler, and when they run: a cron expression with five fields, in UTC."""

    enabled: bool = True
    cron: str = "0 * * * *"
    rotate: bool = True
    destroy: bool = True
    revoke_expired: bool = False
    revoke_expired_even_if_used: bool = False
    verify: bool = True


@dataclass(frozen=True, slots=True)
class KeyVersion:
    """A version of a key."""

    id: str
    key_id: str
    version: int
    state: VersionState
    created_at: datetime
    origin: str
    not_before: datetime | None = None
    not_after: datetime | None = None
    public_key_pem: str | None = None
    grace_period_days: int | None = None
    encryptions: int | None = None
    last_used_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """A key. ``versions`` are the newest 1,000, oldest first; lists omit them."""

    id: str
    name: str
    type: KeyType
    purpose: KeyPurpose
    state: KeyState
    audit_context: AuditContext
    created_at: datetime
    current_version: int
    revision: int
    disabled_reason: str | None = None
    rotation_period_days: int | None = None
    grace_period_days: int | None = None
    rotate_at: datetime | None = None
    delete_at: datetime | None = None
    open_import: str | None = None
    metadata: Mapping[str, Any] | None = None
    versions: tuple[KeyVersion, ...] | None = None
    versions_truncated: bool = False


@dataclass(frozen=True, slots=True)
class Conditions:
    """The conditions of a grant; all given conditions must be met."""

    not_before: datetime | None = None
    not_after: datetime | None = None
    source_ip: tuple[str, ...] | None = None
    encryption_context_equals: Mapping[str, str] | None = None
    encryption_context_subset: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """A grant. ``key_id`` is ``*`` for all keys."""

    id: str
    principal: str
    role: Role
    key_id: str
    allowed_ops: tuple[Permission, ...]
    created_at: datetime
    granted_by: str
    granted_through: tuple[str, ...] = ()
    conditions: Conditions | None = None


@dataclass(frozen=True, slots=True)
class Credential:
    """A credential, without its token."""

    id: str
    principal: str
    role: Role
    created_at: datetime
    label: str | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class CreatedToken:
    """A new token. It cannot be read again later, and ``repr`` hides it."""

    token: str = field(repr=False)
    credential: Credential


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a list. ``next_cursor`` is the ``cursor`` of the next page, and None on the last one."""

    items: tuple[T, ...]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """A record of the audit log. Hashes are hexadecimal."""

    seq: int
    id: str
    timestamp: datetime
    actor: str
    role: str
    action: str
    status: str
    prev_hash: str
    hash: str
    format: int
    request_id: str | None = None
    key_id: str | None = None
    key_version: int | None = None
    details: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ImportedRow:
    """A row of the log that was imported from Mini KMS on Node, with every field as in its source.

    ``position`` counts from 1 in the order of the links. ``format`` is None if the hash of the row is wrong, because
    the row was altered before it was imported.
    """

    position: int
    id: str
    timestamp: str
    actor: str
    role: str
    action: str
    request_id: str
    prev_hash: str
    hash: str
    status: str
    format: int | None = None
    details: Any = None
    key_id: str | None = None
    key_version: int | None = None


@dataclass(frozen=True, slots=True)
class AuditKey:
    """A public key of the log, and the range of log sizes that it signs."""

    verifier_key: str
    first_seq: int
    last_seq: int | None = None


@dataclass(frozen=True, slots=True)
class QuarantinedRow:
    """A quarantined row."""

    id: str
    table: str
    row: str
    created_at: datetime
    key_id: str | None = None
    key_name: str | None = None


@dataclass(frozen=True, slots=True)
class RootKey:
    """A generation of the root key."""

    generation: int
    provider: str
    state: str
    created_at: datetime
    wrappings: int
    verified: int
    at_hand: bool
    reference: str | None = None
    compromised_at: datetime | None = None
    retired_at: datetime | None = None
    last_used_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class BackupHour:
    """The number of backups that were made within one hour."""

    start: datetime
    backups: int


@dataclass(frozen=True, slots=True)
class Retirement:
    """The result of retiring a generation of the root key."""

    root_key: RootKey
    erased: int
    erasure_pending: bool
    rotate: tuple[str, ...]
    backups: tuple[BackupHour, ...]


@dataclass(frozen=True, slots=True)
class IntegrityKeyReplacement:
    """A replacement of the integrity key: its number, and how many rows were resealed or left without a seal."""

    number: int
    resealed: int
    left: int
