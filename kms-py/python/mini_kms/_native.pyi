"""The native module: see ``mini_kms``."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Self, Unpack, final

from typing_extensions import Buffer

from . import _reports as reports
from . import _results as results
from ._errors import KmsError
from ._items import DecryptItem, EncryptItem, ReencryptItem, SignItem, VerifyItem
from ._types import (
    AuditContext,
    FileProgress,
    KeyPurpose,
    KeyRef,
    KeyState,
    KeyType,
    Path,
    Permission,
    Progress,
    Reader,
    Role,
    RootKeySource,
    Settings,
    SignatureAlgorithm,
    Status,
    Writer,
)

@final
class Receipt:
    """Proof that an operation is in the log. ``seq`` is 0 if its record was accepted but not yet written."""

    @property
    def seq(self) -> int: ...
    @property
    def hash(self) -> bytes: ...

@final
class Encrypted:
    @property
    def ciphertext(self) -> bytes: ...
    @property
    def key_id(self) -> str: ...
    @property
    def key_type(self) -> KeyType: ...
    @property
    def version(self) -> int: ...
    @property
    def receipt(self) -> Receipt: ...

@final
class Decrypted:
    @property
    def plaintext(self) -> bytes: ...
    @property
    def key_id(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def receipt(self) -> Receipt: ...

@final
class Written:
    """The result of ``encrypt_into`` and ``decrypt_into``: ``length`` bytes at the beginning of the buffer."""

    @property
    def length(self) -> int: ...
    @property
    def key_id(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def receipt(self) -> Receipt: ...

@final
class Signature:
    @property
    def signature(self) -> bytes: ...
    @property
    def key_id(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def receipt(self) -> Receipt: ...

@final
class Verification:
    @property
    def valid(self) -> bool: ...
    @property
    def version(self) -> int: ...
    @property
    def receipt(self) -> Receipt: ...

@final
class Reencrypted:
    @property
    def ciphertext(self) -> bytes: ...
    @property
    def key_id(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def receipt(self) -> Receipt: ...
    @property
    def source_key_id(self) -> str: ...
    @property
    def source_version(self) -> int: ...

@final
class DataKey:
    """A data key. The object is a read-only buffer of the plaintext: ``AESGCM(key)``, ``memoryview(key)``.

    ``wipe``, and leaving a ``with`` block, overwrite it; BufferError while a memoryview of it is alive.
    """

    @property
    def ciphertext(self) -> bytes: ...
    @property
    def key_id(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def receipt(self) -> Receipt: ...
    @property
    def has_plaintext(self) -> bool: ...
    def wipe(self) -> None: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...

@final
class StreamSummary:
    """``length`` is that of the plaintext."""

    @property
    def length(self) -> int: ...
    @property
    def key_id(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def receipt(self) -> Receipt: ...

@final
class StreamEncryptor:
    def update(self, plaintext: Buffer) -> bytes: ...
    def finish(self) -> tuple[bytes, StreamSummary]: ...

@final
class StreamDecryptor:
    def update(self, ciphertext: Buffer) -> bytes: ...
    def finish(self) -> tuple[bytes, StreamSummary]: ...

@final
class Ciphertext:
    """The parts of a ciphertext, which are not authenticated before it is decrypted."""

    def __new__(cls, data: Buffer) -> Self: ...
    @property
    def key_id(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def algorithm(self) -> str: ...
    @property
    def iv(self) -> bytes: ...
    @property
    def auth_tag(self) -> bytes: ...
    @staticmethod
    def max_len(plaintext_length: int) -> int: ...
    @staticmethod
    def max_plaintext_len(data: Buffer) -> int: ...

@final
class Config:
    """Where the store is, and how the service works; ``repr`` shows neither passwords nor root keys."""

    def __new__(cls, url: str, **settings: Unpack[Settings]) -> Self: ...
    @staticmethod
    def load(path: Path | None = None) -> Config: ...
    @staticmethod
    def from_env() -> Config: ...
    @staticmethod
    def from_toml(text: str) -> Config: ...
    def replace(self, url: str | None = None, **settings: Unpack[Settings]) -> Config: ...
    def describe(self) -> dict[str, str]: ...

@final
class Kms:
    @staticmethod
    def open(url: str | Config, **settings: Unpack[Settings]) -> Kms: ...
    @staticmethod
    def open_read_only(url: str | Config, **settings: Unpack[Settings]) -> Kms: ...
    @staticmethod
    def verify_backup(config: Config, path: Path, *, progress: Progress | None = None) -> reports.BackupReport: ...
    @staticmethod
    def restore(config: Config, path: Path, *, progress: Progress | None = None) -> reports.BackupReport: ...
    def session(
        self,
        principal: str,
        role: Role = "app",
        *,
        source_ip: str | None = None,
        request_id: str | None = None,
    ) -> Session: ...
    def operator_session(self, *, source_ip: str | None = None, request_id: str | None = None) -> Session: ...
    def authenticate(self, token: str, *, source_ip: str | None = None, request_id: str | None = None) -> Session: ...
    def ready(self) -> reports.Ready: ...
    def telemetry(self) -> reports.Telemetry: ...
    def run_scheduler(self) -> reports.JobReport: ...
    def close(self) -> None: ...
    @property
    def closed(self) -> bool: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...

@final
class Session:
    @property
    def principal(self) -> str: ...
    @property
    def role(self) -> Role: ...
    def with_idempotency_key(self, key: str) -> Session: ...
    def with_request(self, *, source_ip: str | None = None, request_id: str | None = None) -> Session: ...
    def create_key(
        self,
        name: str,
        type: KeyType = "AES256_GCM",
        purpose: KeyPurpose = "ENCRYPTION",
        *,
        rotation_period_days: int | None = None,
        grace_period_days: int | None = None,
        metadata: Mapping[str, object] | None = None,
        audit_context: AuditContext | None = None,
    ) -> results.Key: ...
    def get_key(self, key: KeyRef) -> results.Key: ...
    def list_keys(
        self,
        *,
        state: KeyState | None = None,
        type: KeyType | None = None,
        purpose: KeyPurpose | None = None,
        name_prefix: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> results.Page[results.Key]: ...
    def public_key(self, key: KeyRef, version: int) -> str: ...
    def list_versions(
        self, key: KeyRef, *, limit: int = 100, cursor: str | None = None
    ) -> results.Page[results.KeyVersion]: ...
    def get_version(self, key: KeyRef, version: int) -> results.KeyVersion: ...
    def rotate_key(self, key: KeyRef, *, expected_current: int | None = None) -> results.Key: ...
    def enable_key(self, key: KeyRef) -> results.Key: ...
    def disable_key(self, key: KeyRef) -> results.Key: ...
    def revoke_key(self, key: KeyRef) -> results.Key: ...
    def trim_key(self, key: KeyRef) -> results.Key: ...
    def enable_version(self, key: KeyRef, version: int) -> results.Key: ...
    def disable_version(self, key: KeyRef, version: int) -> results.Key: ...
    def revoke_version(self, key: KeyRef, version: int) -> results.Key: ...
    def set_window(self, key: KeyRef, version: int, not_after: datetime | None) -> results.Key: ...
    def update_key(
        self,
        key: KeyRef,
        *,
        rotation_period_days: int | None = ...,
        grace_period_days: int | None = ...,
        metadata: Mapping[str, object] | None = ...,
        audit_context: AuditContext | None = None,
        expected_revision: int | None = None,
    ) -> results.Key: ...
    def schedule_deletion(self, key: KeyRef, *, waiting_days: int | None = None) -> results.Key: ...
    def cancel_deletion(self, key: KeyRef) -> results.Key: ...
    def encrypt(self, key: KeyRef, plaintext: Buffer, *, context: Mapping[str, str] | None = None) -> Encrypted: ...
    def encrypt_into(
        self,
        key: KeyRef,
        plaintext: Buffer,
        buffer: Buffer,
        *,
        context: Mapping[str, str] | None = None,
    ) -> Written: ...
    def decrypt(
        self,
        ciphertext: Buffer,
        *,
        context: Mapping[str, str] | None = None,
        key: KeyRef | None = None,
        version: int | None = None,
        iv: Buffer | None = None,
        auth_tag: Buffer | None = None,
    ) -> Decrypted: ...
    def decrypt_into(
        self,
        ciphertext: Buffer,
        buffer: Buffer,
        *,
        context: Mapping[str, str] | None = None,
        key: KeyRef | None = None,
        version: int | None = None,
    ) -> Written: ...
    def decrypt_oaep(self, key: KeyRef, version: int, ciphertext: Buffer) -> Decrypted: ...
    def sign(
        self,
        key: KeyRef,
        payload: Buffer,
        algorithm: SignatureAlgorithm,
        *,
        version: int | None = None,
    ) -> Signature: ...
    def verify(
        self,
        key: KeyRef,
        payload: Buffer,
        signature: Buffer,
        algorithm: SignatureAlgorithm,
        *,
        version: int | None = None,
    ) -> Verification: ...
    def generate_data_key(
        self,
        key: KeyRef,
        length: int = 32,
        *,
        context: Mapping[str, str] | None = None,
    ) -> DataKey: ...
    def generate_data_key_without_plaintext(
        self,
        key: KeyRef,
        length: int = 32,
        *,
        context: Mapping[str, str] | None = None,
    ) -> DataKey: ...
    def reencrypt(
        self,
        ciphertext: Buffer,
        *,
        context: Mapping[str, str] | None = None,
        destination: KeyRef | None = None,
        destination_context: Mapping[str, str] | None = None,
    ) -> Reencrypted: ...
    def encrypt_batch(self, items: Iterable[EncryptItem]) -> list[Encrypted | KmsError]: ...
    def decrypt_batch(self, items: Iterable[DecryptItem]) -> list[Decrypted | KmsError]: ...
    def sign_batch(self, items: Iterable[SignItem]) -> list[Signature | KmsError]: ...
    def verify_batch(self, items: Iterable[VerifyItem]) -> list[Verification | KmsError]: ...
    def reencrypt_batch(self, items: Iterable[ReencryptItem]) -> list[Reencrypted | KmsError]: ...
    def encrypt_stream(self, key: KeyRef, *, context: Mapping[str, str] | None = None) -> StreamEncryptor: ...
    def decrypt_stream(
        self,
        beginning: Buffer,
        *,
        context: Mapping[str, str] | None = None,
    ) -> tuple[StreamDecryptor, int] | None: ...
    def put_grant(
        self,
        principal: str,
        key: KeyRef,
        allow: Iterable[Permission],
        *,
        role: Role = "app",
        conditions: results.Conditions | None = None,
    ) -> results.Grant: ...
    def revoke_grant(self, grant: str | results.Grant, *, cascade: bool = False) -> None: ...
    def list_grants(
        self,
        *,
        principal: str | None = None,
        key: KeyRef | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> results.Page[results.Grant]: ...
    def create_token(
        self,
        principal: str,
        *,
        role: Role = "app",
        label: str | None = None,
        expires_at: datetime | None = None,
    ) -> results.CreatedToken: ...
    def create_first_token(
        self,
        principal: str,
        *,
        role: Role = "admin",
        label: str | None = None,
        expires_at: datetime | None = None,
    ) -> results.CreatedToken: ...
    def revoke_credential(self, credential: str | results.Credential) -> None: ...
    def list_credentials(self, *, limit: int = 100, cursor: str | None = None) -> results.Page[results.Credential]: ...
    def list_quarantine(self) -> tuple[results.QuarantinedRow, ...]: ...
    def release_quarantine(self) -> tuple[results.QuarantinedRow, ...]: ...
    def list_audit(
        self,
        *,
        limit: int = 100,
        cursor: str | None = None,
        oldest_first: bool = False,
        action: str | None = None,
        actor: str | None = None,
        key: KeyRef | None = None,
        status: Status | None = None,
        request_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> results.Page[results.AuditRecord]: ...
    def list_imported_audit(
        self, source: str | None = None, *, limit: int = 100, cursor: str | None = None
    ) -> results.Page[results.ImportedRow]: ...
    def verify_audit(
        self,
        *,
        incremental: bool = False,
        pinned_key: str | None = None,
        trusted_size: int | None = None,
        reread: tuple[int, int] | None = None,
        progress: Progress | None = None,
    ) -> reports.Report: ...
    def checkpoint(self) -> str: ...
    def audit_public_key(self) -> str: ...
    def audit_public_keys(self) -> tuple[results.AuditKey, ...]: ...
    def replace_signing_key(self) -> str: ...
    def replace_integrity_key(self) -> results.IntegrityKeyReplacement: ...
    def metrics(self) -> reports.Metrics: ...
    def backup(self, path: Path, *, progress: Progress | None = None) -> reports.BackupReport: ...
    def compare_backup(self, path: Path) -> reports.BackupComparison: ...
    def import_mini_kms(
        self,
        source: str,
        *,
        password: str | None = None,
        master_secret: str | None = None,
        master_secret_file: Path | None = None,
        aws_region: str | None = None,
        aws_endpoint: str | None = None,
        name: str = "mini-kms",
        dry_run: bool = False,
        rotate: bool = False,
        finalise: bool = False,
        fold_principals: bool = False,
        progress: Progress | None = None,
    ) -> reports.ImportReport: ...
    def list_root_keys(self) -> tuple[results.RootKey, ...]: ...
    def add_root_key(self, source: RootKeySource) -> results.RootKey: ...
    def plan_rewrap(self) -> reports.RewrapPlan: ...
    def rewrap(
        self,
        *,
        rate: int | None = None,
        dry_run: bool = False,
        only_new: bool = False,
        progress: Progress | None = None,
    ) -> reports.RootKeyReport: ...
    def verify_root_key(
        self,
        generation: int,
        *,
        rate: int | None = None,
        dry_run: bool = False,
        only_new: bool = False,
        progress: Progress | None = None,
    ) -> reports.RootKeyReport: ...
    def verify_planned_root_key(
        self,
        source: RootKeySource,
        *,
        rate: int | None = None,
        dry_run: bool = False,
        only_new: bool = False,
        progress: Progress | None = None,
    ) -> reports.RootKeyReport: ...
    def retire_root_key(
        self,
        generation: int,
        *,
        compromised: bool = False,
        verify_new: bool = False,
    ) -> results.Retirement: ...
    def encrypt_file(
        self,
        key: KeyRef,
        src: Reader,
        dst: Writer,
        *,
        context: Mapping[str, str] | None = None,
        progress: FileProgress | None = None,
    ) -> StreamSummary: ...
    def decrypt_file(
        self,
        src: Reader,
        dst: Writer,
        *,
        context: Mapping[str, str] | None = None,
        progress: FileProgress | None = None,
    ) -> StreamSummary: ...

def generate_root_key() -> str: ...
def _error_codes() -> list[tuple[str, int, bool, bool]]: ...
def _open(read_only: bool, url: str | Config, **settings: Unpack[Settings]) -> object: ...
def _verify_backup(config: Config, path: Path, progress: Progress | None, asynchronous: bool) -> object: ...
def _restore(config: Config, path: Path, progress: Progress | None, asynchronous: bool) -> object: ...
def _close_all() -> None: ...
def _set_log_level(level: int) -> None: ...
def _next_events(seconds: float) -> tuple[list[tuple[int, str, str]], int]: ...
