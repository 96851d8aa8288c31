"""What administrative calls take and give: frozen data classes, filled from the service's JSON."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

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
    """What the scheduler does by itself, and when: five fields as cron has them, in UTC."""

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
    """A key. Lists leave ``versions`` out; elsewhere they are the newest 1,000, oldest first."""

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
    metadata: Mapping[str, Any] | None = None
    versions: tuple[KeyVersion, ...] | None = None
    versions_truncated: bool = False


@dataclass(frozen=True, slots=True)
class Conditions:
    """The conditions of a grant; all of those that are given must hold."""

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
    """A token that was made. It is shown this once; ``repr`` hides it."""

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
class AuditKey:
    """A public key of the log, and the sizes whose states it signs."""

    verifier_key: str
    first_seq: int
    last_seq: int | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that a verification found wrong. ``about`` has what is known of it beyond its kind."""

    seq: int
    kind: str
    about: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Report:
    """What a verification found."""

    ok: bool
    size: int
    start: int
    faults: tuple[Fault, ...]
    broken_at: int | None = None
    reread: tuple[int, int] | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BackupReport:
    """A backup's verification, and the signed head of its log."""

    verification: Report
    checkpoint: str


@dataclass(frozen=True, slots=True)
class LostVersion:
    """A version that a restore would lose, by the name of its key."""

    key: str
    version: int
    encryptions: int


@dataclass(frozen=True, slots=True)
class BackupComparison:
    """What restoring a backup would undo and lose. Keys are named, grants are principal and scope."""

    lost_records: int
    keys: tuple[str, ...]
    versions: tuple[tuple[str, int], ...]
    grants: tuple[tuple[str, str], ...]
    credentials: tuple[str, ...]
    disabled_keys: tuple[str, ...]
    disabled_versions: tuple[tuple[str, int], ...]
    shortened_windows: tuple[tuple[str, int], ...]
    narrowed_grants: tuple[tuple[str, str], ...]
    retired_root_keys: tuple[int, ...]
    lost_keys: tuple[str, ...]
    lost_versions: tuple[LostVersion, ...]
    lost_grants: tuple[tuple[str, str], ...]
    lost_credentials: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RotationAlert:
    """A key whose rotation is due."""

    id: str
    name: str
    rotation_period_days: int
    grace_period_days: int | None = None
    days_since_rotation: int | None = None
    last_rotated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class WindowAlert:
    """A former version in use whose window ends soon."""

    id: str
    name: str
    version: int
    not_after: datetime
    last_used_at: datetime


@dataclass(frozen=True, slots=True)
class EncryptionAlert:
    """A version that has encrypted nearly as many messages as it may."""

    id: str
    name: str
    version: int
    encryptions: int
    limit: int


@dataclass(frozen=True, slots=True)
class KeyMetrics:
    """Counts of keys, and alerts."""

    total: int
    by_state: Mapping[str, int]
    total_versions: int
    rotation_alerts: tuple[RotationAlert, ...]
    windows_ending: tuple[WindowAlert, ...]
    near_encryption_limit: tuple[EncryptionAlert, ...]


@dataclass(frozen=True, slots=True)
class AuditMetrics:
    """Failures, and the last verification."""

    failures_last24h: int
    failed_operations_last24h: int
    last_verification: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class UsageMetrics:
    """Counts of operations."""

    encryptions_last24h: int
    decryptions_last24h: int
    rotations_last30d: int


@dataclass(frozen=True, slots=True)
class StorageMetrics:
    """How much room the store has."""

    low: bool
    full: bool
    reserved: bool
    free_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Metrics:
    """Counts of keys, records and usage, and alerts."""

    keys: KeyMetrics
    audit: AuditMetrics
    usage: UsageMetrics
    storage: StorageMetrics


@dataclass(frozen=True, slots=True)
class CacheUse:
    """How the cache of unwrapped keys is doing."""

    hits: int
    misses: int
    keys: int


@dataclass(frozen=True, slots=True)
class CallMetrics:
    """Calls to root keys of one provider."""

    provider: str
    operation: str
    outcomes: Mapping[str, int]
    durations: tuple[int, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Counters since the service was opened; nothing in it names a key or a caller."""

    queued: int
    batches: tuple[int, ...]
    submissions: int
    cache: CacheUse
    keys_by_state: Mapping[str, int]
    versions: int
    rotations_due: int
    records: int
    storage: StorageMetrics
    root_keys: tuple[CallMetrics, ...]


@dataclass(frozen=True, slots=True)
class Ready:
    """A service that can be sent work. ``root_key`` is ``ok``, or ``degraded`` if a call to it failed last."""

    root_key: str


@dataclass(frozen=True, slots=True)
class RevokedVersion:
    """A version that the scheduler revoked."""

    key_id: str
    version: int


@dataclass(frozen=True, slots=True)
class FailedKey:
    """A key that the scheduler could not work on: the name of the error, and its message."""

    key_id: str
    code: str
    error: str


@dataclass(frozen=True, slots=True)
class JobReport:
    """What the scheduler did. Keys are named by id."""

    rotated: tuple[str, ...]
    destroyed: tuple[str, ...]
    revoked: tuple[RevokedVersion, ...]
    failed: tuple[FailedKey, ...]
    verification: Report | None = None


@dataclass(frozen=True, slots=True)
class QuarantinedRow:
    """A row in quarantine."""

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
class RootKeyCalls:
    """Calls to one generation of the root key."""

    generation: int
    provider: str
    unwraps: int
    wraps: int


@dataclass(frozen=True, slots=True)
class RewrapPlan:
    """What a rewrap would do."""

    materials: int
    calls: tuple[RootKeyCalls, ...]


@dataclass(frozen=True, slots=True)
class FailedMaterial:
    """Material that could not be wrapped or verified: the name of the error, and its message."""

    what: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class RootKeyReport:
    """What a rewrap or a verification of a root key did."""

    total: int
    done: int
    missing: int
    failed: int
    failures: tuple[FailedMaterial, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing and nothing failed."""
        return self.missing == 0 and self.failed == 0


@dataclass(frozen=True, slots=True)
class BackupHour:
    """Backups that were made within one hour."""

    start: datetime
    backups: int


@dataclass(frozen=True, slots=True)
class Retirement:
    """What retiring a generation of the root key did."""

    root_key: RootKey
    erased: int
    erasure_pending: bool
    rotate: tuple[str, ...]
    backups: tuple[BackupHour, ...]


@dataclass(frozen=True, slots=True)
class IntegrityKeyReplacement:
    """What replacing the key that seals rows did: its number, and how many rows were sealed and left unsealed."""

    number: int
    resealed: int
    left: int


# How results are read. A reader is made once for each type.

_RENAMED = {"start": "from"}
_Read = Callable[[Any], Any]
_readers: dict[Any, _Read] = {}


def _json_name(name: str) -> str:
    return _RENAMED.get(name) or re.sub(r"_([a-z])", lambda found: found[1].upper(), name)


def _same(value: Any) -> Any:
    return value


def _fault(value: dict[str, Any]) -> Fault:
    return Fault(value.pop("seq"), value.pop("kind"), value)


def _class_reader(cls: Any, arguments: Mapping[Any, Any]) -> _Read:
    hints = get_type_hints(cls)
    parts = [(f.name, _json_name(f.name), _reader(hints[f.name], arguments)) for f in fields(cls)]

    def read(value: dict[str, Any]) -> Any:
        return cls(**{name: part(value[key]) for name, key, part in parts if value.get(key) is not None})

    return read


def _make_reader(kind: Any, arguments: Mapping[Any, Any]) -> _Read:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Fault:
        return _fault
    if kind is datetime:
        return datetime.fromisoformat
    if origin in (Union, types.UnionType):
        (only,) = (part for part in inner if part is not types.NoneType)
        return _reader(only, arguments)
    if origin is tuple and inner[-1] is Ellipsis:
        item = _reader(arguments.get(inner[0], inner[0]), arguments)
        return lambda value: tuple(map(item, value))
    if origin is tuple:
        return tuple
    if origin is Page:
        return _class_reader(Page, {T: inner[0]})
    if hasattr(kind, "__dataclass_fields__"):
        return _class_reader(kind, arguments)
    return _same


def _reader(kind: Any, arguments: Mapping[Any, Any]) -> _Read:
    key = (kind, tuple(arguments.items()))
    if key not in _readers:
        _readers[key] = _make_reader(kind, arguments)
    return _readers[key]


_KINDS: dict[str, Any] = {
    "Key": Key,
    "KeyPage": Page[Key],
    "KeyVersion": KeyVersion,
    "KeyVersionPage": Page[KeyVersion],
    "Grant": Grant,
    "GrantPage": Page[Grant],
    "CreatedToken": CreatedToken,
    "CredentialPage": Page[Credential],
    "AuditRecordPage": Page[AuditRecord],
    "AuditKeys": tuple[AuditKey, ...],
    "Report": Report,
    "BackupReport": BackupReport,
    "BackupComparison": BackupComparison,
    "Metrics": Metrics,
    "Telemetry": Telemetry,
    "Ready": Ready,
    "JobReport": JobReport,
    "QuarantinedRows": tuple[QuarantinedRow, ...],
    "RootKey": RootKey,
    "RootKeys": tuple[RootKey, ...],
    "RewrapPlan": RewrapPlan,
    "RootKeyReport": RootKeyReport,
    "Retirement": Retirement,
    "IntegrityKeyReplacement": IntegrityKeyReplacement,
}


def load(kind: str, text: str) -> Any:
    """Reads an answer of the service; the native module calls this."""
    return _reader(_KINDS[kind], {})(json.loads(text))
