"""Reports of the service: verifications, backups, metrics and jobs. Frozen data classes, filled from its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that a verification found. ``about`` has the details, which depend on its kind."""

    seq: int
    kind: str
    about: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RowSample:
    """A class of rows of an imported log: their number, and the ids of the first 100."""

    count: int
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LegacyFork:
    """Several rows of an imported log that link to one hash: their number, and the ids of the first three."""

    prev_hash: str
    rows: int
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LegacyForks:
    """The places where an imported log forks, the first 100 listed."""

    count: int
    surplus_rows: int
    listed: tuple[LegacyFork, ...]


@dataclass(frozen=True, slots=True)
class LegacyVerdict:
    """The result of Mini KMS on Node's own verification of its log."""

    ok: bool
    broken_at: str | None = None


@dataclass(frozen=True, slots=True)
class LegacyLog:
    """An imported log of Mini KMS on Node: the sealed rows, and the defects that the import found."""

    source: str
    rows: int
    root: str
    complete: bool
    current_format: int
    older_format: int
    legacy: RowSample
    altered: RowSample
    unlinked: RowSample
    repeated: RowSample
    circular: RowSample
    backwards: RowSample
    changed: RowSample
    gone: RowSample
    heads: RowSample
    oversized: RowSample
    unsearched: RowSample
    order_lost: RowSample
    unread: int
    forks: LegacyForks
    verdict: LegacyVerdict


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a verification."""

    ok: bool
    size: int
    start: int
    faults: tuple[Fault, ...]
    broken_at: int | None = None
    reread: tuple[int, int] | None = None
    warnings: tuple[str, ...] = ()
    imported: tuple[LegacyLog, ...] = ()
    legacy: tuple[str, ...] = ()


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
    """The effect of restoring a backup. Keys are given by name, grants by principal and scope."""

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
    """A version that is near the limit of messages that it may encrypt."""

    id: str
    name: str
    version: int
    encryptions: int
    limit: int


@dataclass(frozen=True, slots=True)
class KeyMetrics:
    """Numbers of keys, and alerts."""

    total: int
    by_state: Mapping[str, int]
    total_versions: int
    rotation_alerts: tuple[RotationAlert, ...]
    windows_ending: tuple[WindowAlert, ...]
    near_encryption_limit: tuple[EncryptionAlert, ...]


@dataclass(frozen=True, slots=True)
class AuditMetrics:
    """Numbers of failures, and the last verification."""

    failures_last24h: int
    failed_operations_last24h: int
    last_verification: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class UsageMetrics:
    """Numbers of operations."""

    encryptions_last24h: int
    decryptions_last24h: int
    rotations_last30d: int


@dataclass(frozen=True, slots=True)
class StorageMetrics:
    """The disk space of the store."""

    low: bool
    full: bool
    reserved: bool
    free_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Metrics:
    """Numbers of keys, records and uses, and alerts."""

    keys: KeyMetrics
    audit: AuditMetrics
    usage: UsageMetrics
    storage: StorageMetrics


@dataclass(frozen=True, slots=True)
class CacheUse:
    """The use of the cache of unwrapped keys."""

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
class CommitMetrics:
    """Commits of the ledger by duration, and the seconds that all of them took."""

    durations: tuple[int, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class LastVerification:
    """The last verification of the log, by any process: when it was recorded, and whether it found no fault."""

    timestamp: datetime
    ok: bool


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Counters since the service was opened, without names of keys or callers."""

    store_up: bool
    ledger_running: bool
    queued: int
    batches: tuple[int, ...]
    submissions: int
    commits: CommitMetrics
    cache: CacheUse
    keys_by_state: Mapping[str, int]
    versions: int
    records: int
    integrity_faults: int
    tables_suspect: bool
    quarantined: int
    storage: StorageMetrics
    root_keys: tuple[CallMetrics, ...]
    rotations_due: int | None = None
    last_verification: LastVerification | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """The state of a ready service. ``root_key`` is ``ok``, or ``degraded`` if the last call to it failed."""

    root_key: str


@dataclass(frozen=True, slots=True)
class RevokedVersion:
    """A version that the scheduler revoked."""

    key_id: str
    version: int


@dataclass(frozen=True, slots=True)
class FailedKey:
    """A key for which a job of the scheduler failed: the name of the error, and its message."""

    key_id: str
    code: str
    error: str


@dataclass(frozen=True, slots=True)
class JobReport:
    """The result of a run of the scheduler. Keys are given by id."""

    rotated: tuple[str, ...]
    destroyed: tuple[str, ...]
    revoked: tuple[RevokedVersion, ...]
    failed: tuple[FailedKey, ...]
    verification: Report | None = None


@dataclass(frozen=True, slots=True)
class RootKeyCalls:
    """Calls to one generation of the root key."""

    generation: int
    provider: str
    unwraps: int
    wraps: int


@dataclass(frozen=True, slots=True)
class RewrapPlan:
    """The cost of a rewrap that has not begun."""

    materials: int
    calls: tuple[RootKeyCalls, ...]


@dataclass(frozen=True, slots=True)
class FailedMaterial:
    """Key material that could not be wrapped or verified: the name of the error, and its message."""

    what: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class ImportCounts:
    """The number of rows of one kind that an import found, by outcome."""

    total: int
    imported: int
    updated: int
    unchanged: int
    withdrawn: int
    ignored: int
    refused: int


@dataclass(frozen=True, slots=True)
class ImportFinding:
    """An item that was changed, left out or refused by an import."""

    kind: str
    id: str
    text: str
    version: int | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class ImportReport:
    """The result of an import, or the expected result in a dry run."""

    name: str
    dry_run: bool
    finalized: bool
    keys: ImportCounts
    versions: ImportCounts
    grants: ImportCounts
    keys_to_rotate: int
    keys_rotated: int
    finding_count: int
    findings: tuple[ImportFinding, ...]
    log: LegacyLog | None = None

    @property
    def is_complete(self) -> bool:
        """Whether no key, version or grant was refused, and no row of the log was left out."""
        refused = self.keys.refused + self.versions.refused + self.grants.refused
        return refused == 0 and (self.log is None or self.log.oversized.count + self.log.unread == 0)


@dataclass(frozen=True, slots=True)
class RootKeyReport:
    """The result of a rewrap or of the verification of a root key."""

    total: int
    done: int
    missing: int
    failed: int
    failures: tuple[FailedMaterial, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing and nothing failed."""
        return self.missing == 0 and self.failed == 0
