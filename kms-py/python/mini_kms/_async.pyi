"""The asynchronous interface: see ``mini_kms``."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Self, Unpack, final

from typing_extensions import Buffer

from ._errors import KmsError
from ._items import DecryptItem, EncryptItem, ReencryptItem, SignItem, VerifyItem
from ._native import (
    Config,
    DataKey,
    Decrypted,
    Encrypted,
    Reencrypted,
    Signature,
    StreamDecryptor,
    StreamEncryptor,
    StreamSummary,
    Verification,
    Written,
)
from ._reports import (
    BackupComparison,
    BackupReport,
    ImportReport,
    JobReport,
    Metrics,
    Ready,
    Report,
    RewrapPlan,
    RootKeyReport,
    Telemetry,
)
from ._results import (
    AuditKey,
    AuditRecord,
    Conditions,
    CreatedToken,
    Credential,
    Grant,
    ImportedRow,
    IntegrityKeyReplacement,
    Key,
    KeyVersion,
    Page,
    QuarantinedRow,
    Retirement,
    RootKey,
)
from ._types import (
    AsyncReader,
    AsyncWriter,
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
class AsyncKms:
    @classmethod
    async def open(cls, url: str | Config, **settings: Unpack[Settings]) -> AsyncKms: ...
    @classmethod
    async def open_read_only(cls, url: str | Config, **settings: Unpack[Settings]) -> AsyncKms: ...
    @staticmethod
    async def verify_backup(config: Config, path: Path, *, progress: Progress | None = None) -> BackupReport: ...
    @staticmethod
    async def restore(config: Config, path: Path, *, progress: Progress | None = None) -> BackupReport: ...
    def session(
        self, principal: str, role: Role = "app", *, source_ip: str | None = None, request_id: str | None = None
    ) -> AsyncSession: ...
    def operator_session(self, *, source_ip: str | None = None, request_id: str | None = None) -> AsyncSession: ...
    async def authenticate(
        self, token: str, *, source_ip: str | None = None, request_id: str | None = None
    ) -> AsyncSession: ...
    async def ready(self) -> Ready: ...
    async def telemetry(self) -> Telemetry: ...
    async def run_scheduler(self) -> JobReport: ...
    async def close(self) -> None: ...
    @property
    def closed(self) -> bool: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...

@final
class AsyncSession:
    @property
    def principal(self) -> str: ...
    @property
    def role(self) -> Role: ...
    def with_idempotency_key(self, key: str) -> AsyncSession: ...
    def with_request(self, *, source_ip: str | None = None, request_id: str | None = None) -> AsyncSession: ...
    async def create_key(
        self,
        name: str,
        type: KeyType = "AES256_GCM",
        purpose: KeyPurpose = "ENCRYPTION",
        *,
        rotation_period_days: int | None = None,
        grace_period_days: int | None = None,
        metadata: Mapping[str, object] | None = None,
        audit_context: AuditContext | None = None,
    ) -> Key: ...
    async def get_key(self, key: KeyRef) -> Key: ...
    async def list_keys(
        self,
        *,
        state: KeyState | None = None,
        type: KeyType | None = None,
        purpose: KeyPurpose | None = None,
        name_prefix: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[Key]: ...
    async def public_key(self, key: KeyRef, version: int) -> str: ...
    async def list_versions(self, key: KeyRef, *, limit: int = 100, cursor: str | None = None) -> Page[KeyVersion]: ...
    async def get_version(self, key: KeyRef, version: int) -> KeyVersion: ...
    async def rotate_key(self, key: KeyRef, *, expected_current: int | None = None) -> Key: ...
    async def enable_key(self, key: KeyRef) -> Key: ...
    async def disable_key(self, key: KeyRef) -> Key: ...
    async def revoke_key(self, key: KeyRef) -> Key: ...
    async def trim_key(self, key: KeyRef) -> Key: ...
    async def enable_version(self, key: KeyRef, version: int) -> Key: ...
    async def disable_version(self, key: KeyRef, version: int) -> Key: ...
    async def revoke_version(self, key: KeyRef, version: int) -> Key: ...
    async def set_window(self, key: KeyRef, version: int, not_after: datetime | None) -> Key: ...
    async def update_key(
        self,
        key: KeyRef,
        *,
        rotation_period_days: int | None = ...,
        grace_period_days: int | None = ...,
        metadata: Mapping[str, object] | None = ...,
        audit_context: AuditContext | None = None,
        expected_revision: int | None = None,
    ) -> Key: ...
    async def schedule_deletion(self, key: KeyRef, *, waiting_days: int | None = None) -> Key: ...
    async def cancel_deletion(self, key: KeyRef) -> Key: ...
    async def encrypt(
        self, key: KeyRef, plaintext: Buffer, *, context: Mapping[str, str] | None = None
    ) -> Encrypted: ...
    async def encrypt_into(
        self, key: KeyRef, plaintext: Buffer, buffer: Buffer, *, context: Mapping[str, str] | None = None
    ) -> Written: ...
    async def decrypt(
        self,
        ciphertext: Buffer,
        *,
        context: Mapping[str, str] | None = None,
        key: KeyRef | None = None,
        version: int | None = None,
        iv: Buffer | None = None,
        auth_tag: Buffer | None = None,
    ) -> Decrypted: ...
    async def decrypt_into(
        self,
        ciphertext: Buffer,
        buffer: Buffer,
        *,
        context: Mapping[str, str] | None = None,
        key: KeyRef | None = None,
        version: int | None = None,
    ) -> Written: ...
    async def decrypt_oaep(self, key: KeyRef, version: int, ciphertext: Buffer) -> Decrypted: ...
    async def sign(
        self, key: KeyRef, payload: Buffer, algorithm: SignatureAlgorithm, *, version: int | None = None
    ) -> Signature: ...
    async def verify(
        self,
        key: KeyRef,
        payload: Buffer,
        signature: Buffer,
        algorithm: SignatureAlgorithm,
        *,
        version: int | None = None,
    ) -> Verification: ...
    async def generate_data_key(
        self, key: KeyRef, length: int = 32, *, context: Mapping[str, str] | None = None
    ) -> DataKey: ...
    async def generate_data_key_without_plaintext(
        self, key: KeyRef, length: int = 32, *, context: Mapping[str, str] | None = None
    ) -> DataKey: ...
    async def reencrypt(
        self,
        ciphertext: Buffer,
        *,
        context: Mapping[str, str] | None = None,
        destination: KeyRef | None = None,
        destination_context: Mapping[str, str] | None = None,
    ) -> Reencrypted: ...
    async def encrypt_batch(self, items: Iterable[EncryptItem]) -> list[Encrypted | KmsError]: ...
    async def decrypt_batch(self, items: Iterable[DecryptItem]) -> list[Decrypted | KmsError]: ...
    async def sign_batch(self, items: Iterable[SignItem]) -> list[Signature | KmsError]: ...
    async def verify_batch(self, items: Iterable[VerifyItem]) -> list[Verification | KmsError]: ...
    async def reencrypt_batch(self, items: Iterable[ReencryptItem]) -> list[Reencrypted | KmsError]: ...
    async def encrypt_stream(self, key: KeyRef, *, context: Mapping[str, str] | None = None) -> StreamEncryptor: ...
    async def decrypt_stream(
        self, beginning: Buffer, *, context: Mapping[str, str] | None = None
    ) -> tuple[StreamDecryptor, int] | None: ...
    async def put_grant(
        self,
        principal: str,
        key: KeyRef,
        allow: Iterable[Permission],
        *,
        role: Role = "app",
        conditions: Conditions | None = None,
    ) -> Grant: ...
    async def revoke_grant(self, grant: str | Grant, *, cascade: bool = False) -> None: ...
    async def list_grants(
        self, *, principal: str | None = None, key: KeyRef | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page[Grant]: ...
    async def create_token(
        self, principal: str, *, role: Role = "app", label: str | None = None, expires_at: datetime | None = None
    ) -> CreatedToken: ...
    async def create_first_token(
        self, principal: str, *, role: Role = "admin", label: str | None = None, expires_at: datetime | None = None
    ) -> CreatedToken: ...
    async def revoke_credential(self, credential: str | Credential) -> None: ...
    async def list_credentials(self, *, limit: int = 100, cursor: str | None = None) -> Page[Credential]: ...
    async def list_quarantine(self) -> tuple[QuarantinedRow, ...]: ...
    async def release_quarantine(self) -> tuple[QuarantinedRow, ...]: ...
    async def list_audit(
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
    ) -> Page[AuditRecord]: ...
    async def list_imported_audit(
        self, source: str | None = None, *, limit: int = 100, cursor: str | None = None
    ) -> Page[ImportedRow]: ...
    async def verify_audit(
        self,
        *,
        incremental: bool = False,
        pinned_key: str | None = None,
        trusted_size: int | None = None,
        reread: tuple[int, int] | None = None,
        progress: Progress | None = None,
    ) -> Report: ...
    async def checkpoint(self) -> str: ...
    async def audit_public_key(self) -> str: ...
    async def audit_public_keys(self) -> tuple[AuditKey, ...]: ...
    async def replace_signing_key(self) -> str: ...
    async def replace_integrity_key(self) -> IntegrityKeyReplacement: ...
    async def metrics(self) -> Metrics: ...
    async def backup(self, path: Path, *, progress: Progress | None = None) -> BackupReport: ...
    async def compare_backup(self, path: Path) -> BackupComparison: ...
    async def import_mini_kms(
        self,
        source: str,
        *,
        password: str | None = None,
        master_secret: str | None = None,
        master_secret_file: Path | None = None,
        aws_keys: Sequence[str] = (),
        aws_region: str | None = None,
        aws_endpoint: str | None = None,
        name: str = "mini-kms",
        dry_run: bool = False,
        rotate: bool = False,
        finalize: bool = False,
        allow_incomplete: bool = False,
        fold_principals: bool = False,
        progress: Progress | None = None,
    ) -> ImportReport: ...
    async def list_root_keys(self) -> tuple[RootKey, ...]: ...
    async def add_root_key(self, source: RootKeySource) -> RootKey: ...
    async def plan_rewrap(self) -> RewrapPlan: ...
    async def rewrap(
        self,
        *,
        rate: int | None = None,
        dry_run: bool = False,
        only_new: bool = False,
        progress: Progress | None = None,
    ) -> RootKeyReport: ...
    async def verify_root_key(
        self,
        generation: int,
        *,
        rate: int | None = None,
        dry_run: bool = False,
        only_new: bool = False,
        progress: Progress | None = None,
    ) -> RootKeyReport: ...
    async def verify_planned_root_key(
        self,
        source: RootKeySource,
        *,
        rate: int | None = None,
        dry_run: bool = False,
        only_new: bool = False,
        progress: Progress | None = None,
    ) -> RootKeyReport: ...
    async def retire_root_key(
        self, generation: int, *, compromised: bool = False, verify_new: bool = False
    ) -> Retirement: ...
    async def encrypt_file(
        self,
        key: KeyRef,
        src: Reader | AsyncReader,
        dst: Writer | AsyncWriter,
        *,
        context: Mapping[str, str] | None = None,
        progress: FileProgress | None = None,
    ) -> StreamSummary: ...
    async def decrypt_file(
        self,
        src: Reader | AsyncReader,
        dst: Writer | AsyncWriter,
        *,
        context: Mapping[str, str] | None = None,
        progress: FileProgress | None = None,
    ) -> StreamSummary: ...
