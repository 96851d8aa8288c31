"""Python has every method, every setting and every field of a result that the Rust interface has."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import mini_kms
import pytest
from mini_kms import _reports, _results

LISTING = (Path(__file__).parents[2] / "kms-lib" / "public-api.txt").read_text()

# Rust methods that Python has under another name.
RENAMED = {
    "Kms.verify_backup_with": "Kms.verify_backup",
    "Kms.restore_with": "Kms.restore",
    "Session.actor": "Session.principal",
    "Session.decrypt_with": "Session.decrypt",
    "Session.decrypt_item": "Session.decrypt",
    "Session.sign_with_version": "Session.sign",
    "Session.revoke_grant_cascading": "Session.revoke_grant",
    "Session.verify_audit_incrementally": "Session.verify_audit",
    "Session.verify_audit_with": "Session.verify_audit",
    "Session.backup_with": "Session.backup",
    "Session.encrypt_reader": "Session.encrypt_file",
    "Session.decrypt_reader": "Session.decrypt_file",
}

# Rust methods that Python does not need.
LEFT_OUT = {
    # For a front end that shows the telemetry to its callers: a program that embeds the service reads it as its owner.
    "Session.permit_telemetry",
    # The service writes and compares anchors; a program that embeds the library has the high-water file.
    "Session.compare_anchors",
    "Session.record_anchor_failure",
    # The telemetry has this value.
    "Kms.is_alive",
    # For services that wait for their callers before they close. `close` stops verifications too.
    "Kms.stop_verifying",
    # For exports of the log, which only the command line writes.
    "Session.kept_checkpoint",
}

# Settings that Python has under another name.
RENAMED_SETTINGS = {
    "add_root_key": "add_root_keys",
    "add_root_key_bytes": "add_root_keys",
    "add_aws_root_key": "add_root_keys",
    "root_key_bytes": "root_key",
    "aws_root_key": "root_key",
    "no_high_water": "high_water",
}

# Methods of the configuration that are not settings, and settings that Python does not need.
NO_SETTINGS = {
    # Methods of Config, also in Python.
    "new",
    "load",
    "from_env",
    "from_toml",
    "describe",
    # The URL is an argument of its own.
    "store_url",
    # `load` calls both.
    "overlaid",
    "apply_variables",
    # Opening the service calls it.
    "check",
    # A clock other than the system's is for tests of the library.
    "clock",
    # For the command line and the service.
    "next_root_key",
    "is_service_link",
    "shown_store_url",
    "has_root_key",
    "high_water_file",
    "is_store_read_only",
    "store_file",
}

# Rust types, the Python classes of their values, and fields that have another name.
RESULTS: dict[str, tuple[type, dict[str, str]]] = {
    "KeyDescription": (mini_kms.Key, {"key_type": "type"}),
    "VersionDescription": (mini_kms.KeyVersion, {}),
    "GrantDescription": (mini_kms.Grant, {}),
    "Conditions": (mini_kms.Conditions, {}),
    "CredentialDescription": (mini_kms.Credential, {}),
    "CreatedToken": (mini_kms.CreatedToken, {}),
    "Page": (mini_kms.Page, {}),
    "AuditRecord": (mini_kms.AuditRecord, {}),
    "AuditKey": (mini_kms.AuditKey, {}),
    "Report": (mini_kms.Report, {"from": "start"}),
    "ImportedRow": (mini_kms.ImportedRow, {"row": "id"}),
    "LegacyRow": (mini_kms.ImportedRow, {}),
    "LegacyLog": (mini_kms.LegacyLog, {}),
    "LegacyForks": (mini_kms.LegacyForks, {}),
    "LegacyFork": (mini_kms.LegacyFork, {}),
    "LegacyVerdict": (mini_kms.LegacyVerdict, {}),
    "RowSample": (mini_kms.RowSample, {}),
    "Fault": (mini_kms.Fault, {"finding": "kind"}),
    "BackupReport": (mini_kms.BackupReport, {}),
    "BackupComparison": (mini_kms.BackupComparison, {}),
    "LostVersion": (mini_kms.LostVersion, {}),
    "BackupHour": (mini_kms.BackupHour, {"from": "start"}),
    "metrics::Metrics": (mini_kms.Metrics, {}),
    "metrics::KeyMetrics": (mini_kms.KeyMetrics, {}),
    "metrics::AuditMetrics": (mini_kms.AuditMetrics, {}),
    "metrics::UsageMetrics": (mini_kms.UsageMetrics, {}),
    "metrics::StorageMetrics": (mini_kms.StorageMetrics, {}),
    "metrics::RotationAlert": (mini_kms.RotationAlert, {}),
    "metrics::WindowAlert": (mini_kms.WindowAlert, {}),
    "metrics::EncryptionAlert": (mini_kms.EncryptionAlert, {}),
    "metrics::CacheUse": (mini_kms.CacheUse, {}),
    "Telemetry": (mini_kms.Telemetry, {}),
    "CallMetrics": (mini_kms.CallMetrics, {}),
    "metrics::CommitMetrics": (mini_kms.CommitMetrics, {}),
    "metrics::LastVerification": (mini_kms.LastVerification, {}),
    "Ready": (mini_kms.Ready, {}),
    "JobReport": (mini_kms.JobReport, {}),
    "QuarantinedRow": (mini_kms.QuarantinedRow, {}),
    "RootKeyDescription": (mini_kms.RootKey, {}),
    "RewrapPlan": (mini_kms.RewrapPlan, {}),
    "RootKeyCalls": (mini_kms.RootKeyCalls, {}),
    "RootKeyReport": (mini_kms.RootKeyReport, {}),
    "FailedMaterial": (mini_kms.FailedMaterial, {}),
    "ImportReport": (mini_kms.ImportReport, {}),
    "ImportCounts": (mini_kms.ImportCounts, {}),
    "ImportFinding": (mini_kms.ImportFinding, {}),
    "Retirement": (mini_kms.Retirement, {}),
    "IntegrityKeyReplacement": (mini_kms.IntegrityKeyReplacement, {}),
    "SchedulerConfig": (mini_kms.Scheduler, {}),
    "EncryptItem": (mini_kms.EncryptItem, {}),
    "DecryptItem": (mini_kms.DecryptItem, {}),
    "SignItem": (mini_kms.SignItem, {}),
    "VerifyItem": (mini_kms.VerifyItem, {}),
    "ReencryptItem": (mini_kms.ReencryptItem, {}),
    "Encrypted": (mini_kms.Encrypted, {"key": "key_id"}),
    "Decrypted": (mini_kms.Decrypted, {"key": "key_id"}),
    "Signature": (mini_kms.Signature, {"key": "key_id"}),
    "SignatureCheck": (mini_kms.Verification, {}),
    "Reencrypted": (mini_kms.Reencrypted, {"encrypted": "ciphertext", "source_key": "source_key_id"}),
    "DataKey": (mini_kms.DataKey, {"key": "key_id", "plaintext": "has_plaintext"}),
    "StreamSummary": (mini_kms.StreamSummary, {"key": "key_id", "bytes": "length"}),
    "Receipt": (mini_kms.Receipt, {}),
    "Ciphertext": (mini_kms.Ciphertext, {"key": "key_id", "body": "iv"}),
}

# Rust types whose fields Python has as arguments of calls.
ARGUMENTS = {
    "AuditQuery": ("list_audit", {}),
    "BackupOptions": ("backup", {}),
    "GrantFilter": ("list_grants", {}),
    "KeyFilter": ("list_keys", {"key_type": "type"}),
    "KeyUpdate": ("update_key", {}),
    "NewGrant": ("put_grant", {"permissions": "allow"}),
    "NewKey": ("create_key", {"key_type": "type"}),
    "NewToken": ("create_token", {}),
    "Paging": ("list_keys", {}),
    "RetireOptions": ("retire_root_key", {}),
    "RootKeyJob": ("rewrap", {}),
    "ImportJob": ("import_mini_kms", {}),
    "VerifyOptions": ("verify_audit", {}),
}

# Rust types that programs do not use: the parts of the log's formats.
OTHER = {"AnchorReport", "audit::checkpoint::Checkpoint", "audit::export::ExportReport", "audit::record::Body"}


def methods(path: str) -> list[str]:
    found = re.findall(rf"^pub (?:async )?(?:const )?fn kms_lib::{path}::(\w+)\(", LISTING, re.MULTILINE)
    # `clone` and `fmt` come from derived traits.
    return [name for name in found if name not in ("clone", "fmt")]


def members(kind: str) -> list[str]:
    found = re.findall(rf"^pub kms_lib::{kind}::(\w+): ", LISTING, re.MULTILINE)
    assert found, f"{kind} has no fields: was it renamed?"
    return found


@pytest.mark.parametrize("prefix", ["", "Async"])
@pytest.mark.parametrize("kind", ["Kms", "Session"])
def test_methods(kind: str, prefix: str) -> None:
    rust = [f"{kind}.{name}" for name in methods(f"blocking::{kind}")]
    assert len(rust) > 8, "the listing was not read"
    for method in rust:
        if method in LEFT_OUT:
            continue
        name = RENAMED.get(method, method).split(".")[1]
        assert hasattr(getattr(mini_kms, prefix + kind), name), f"{prefix}{kind} has no {name}: {method}"
    for method in [*RENAMED, *LEFT_OUT]:
        assert not method.startswith(f"{kind}.") or method in rust, f"{method} is no longer in Rust"


def test_settings() -> None:
    known = set(mini_kms.Settings.__annotations__)
    rust = methods("Config")
    assert len(rust) > 25
    for name in rust:
        assert name in NO_SETTINGS or RENAMED_SETTINGS.get(name, name) in known, f"there is no setting {name}"
    for name in known:
        assert name in rust or name in RENAMED_SETTINGS.values(), f"{name} is no longer in Rust"


@pytest.mark.parametrize("kind", RESULTS)
def test_fields(kind: str) -> None:
    cls, renamed = RESULTS[kind]
    known: Any = cls
    has = {field.name for field in fields(known)} if hasattr(cls, "__dataclass_fields__") else set(dir(cls))
    for name in members(kind):
        assert renamed.get(name, name) in has, f"{cls.__name__} has no {name}"


@pytest.mark.parametrize("module", [_reports, _results])
def test_optional_fields_have_a_default(module: Any) -> None:
    # The JSON of a result omits fields without a value.
    for cls in vars(module).values():
        if isinstance(cls, type) and is_dataclass(cls) and cls.__module__ == module.__name__:
            for name, hint in get_type_hints(cls).items():
                if type(None) in get_args(hint):
                    (field,) = (field for field in fields(cls) if field.name == name)
                    assert field.default is None, f"{cls.__name__}.{name} is missing in some results"


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_arguments(kind: str) -> None:
    method, renamed = ARGUMENTS[kind]
    signature = getattr(mini_kms.Session, method).__text_signature__
    for name in members(kind):
        assert re.search(rf"\b{renamed.get(name, name)}\b", signature), f"{method} has no {name}"


def test_no_type_is_forgotten() -> None:
    listed = set(re.findall(r"^pub kms_lib::((?:\w+::)*[A-Z]\w+)::[a-z]\w*: ", LISTING, re.MULTILINE))
    # Findings have fields of variants, and some metrics are exported under two names.
    listed = {kind for kind in listed if not kind.startswith("Finding::")}
    short = {kind.removeprefix("metrics::") for kind in [*RESULTS, *ARGUMENTS]}
    forgotten = {kind for kind in listed - OTHER if kind.removeprefix("metrics::") not in short}
    assert not forgotten, f"Python has no class for {forgotten}"
