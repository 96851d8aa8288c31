"""The audit log, its verification, metrics and backups."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import mini_kms
import pytest
from mini_kms import Config, Kms, Session
from support import ROOT_KEY, edit


def test_lists_records(alice: Session) -> None:
    for number in range(5):
        alice.encrypt("users", b"secret", context={"row": str(number)})
    with pytest.raises(mini_kms.KeyNotFound):
        alice.get_key("nobody")
    first = alice.list_audit(action="ENCRYPT", oldest_first=True, limit=2)
    assert [record.seq for record in first.items] == sorted(record.seq for record in first.items)
    rest = alice.list_audit(action="ENCRYPT", oldest_first=True, cursor=first.next_cursor)
    records = first.items + rest.items
    assert [record.details["context"]["row"] for record in records if record.details] == list("01234")
    record = records[0]
    assert (record.actor, record.role, record.status, record.key_version) == ("alice", "admin", "SUCCESS", 1)
    assert (len(record.hash), len(record.prev_hash)) == (64, 64)
    assert record.timestamp.tzinfo is not None
    now = datetime.now(UTC)
    assert alice.list_audit(since=now + timedelta(hours=1)).items == ()
    assert alice.list_audit(until=now - timedelta(hours=1)).items == ()
    assert alice.list_audit(key="users", since=now - timedelta(hours=1)).items
    [failure] = alice.list_audit(status="FAILURE").items
    assert failure.details is not None
    assert failure.details["error"] == "KeyNotFound"
    with pytest.raises(mini_kms.InvalidArgument):
        alice.list_audit(action="FLY")


def test_lists_imported_rows(alice: Session) -> None:
    assert alice.list_imported_audit().items == ()
    assert alice.list_imported_audit("another", limit=2).next_cursor is None
    with pytest.raises(mini_kms.InvalidArgument):
        alice.list_imported_audit(limit=0)
    report = alice.verify_audit()
    assert (report.ok, report.imported, report.legacy) == (True, (), ())


def test_imports_an_old_log(alice: Session) -> None:
    path = Path(__file__).parents[2] / "tests" / "legacy" / "format0.json"
    log = alice.import_mini_kms(str(path)).log
    assert log is not None
    assert (log.rows, log.older_format, log.altered.count, log.forks.listed) == (15, 15, 0, ())
    first = alice.list_imported_audit(limit=10)
    rows = first.items + alice.list_imported_audit("mini-kms", cursor=first.next_cursor).items
    original = json.loads(path.read_text())
    ids = tuple(row["id"] for row in original)
    assert tuple(row.id for row in rows) == ids
    assert [row.details for row in rows] == [row["details"] for row in original]
    assert {row.format for row in rows} == {0}
    report = alice.verify_audit()
    assert (report.ok, report.imported, report.legacy) == (True, (log,), ids)


def test_receipts_name_records(alice: Session) -> None:
    receipt = alice.encrypt("users", b"").receipt
    [record] = [record for record in alice.list_audit().items if record.seq == receipt.seq]
    assert record.hash == receipt.hash.hex()


def test_verifies(alice: Session) -> None:
    alice.encrypt("users", b"")
    told = list[tuple[int, int]]()
    report = alice.verify_audit(
        pinned_key=alice.audit_public_key(), trusted_size=2, progress=lambda done, total: told.append((done, total))
    )
    assert (report.ok, report.faults, report.broken_at) == (True, (), None)
    assert told[-1][0] == told[-1][1] >= report.size
    assert alice.verify_audit(incremental=True).ok
    with pytest.raises(mini_kms.InvalidArgument):
        alice.verify_audit(incremental=True, trusted_size=1)
    with pytest.raises(mini_kms.KmsError):
        alice.verify_audit(pinned_key="nonsense")


def test_an_exception_of_a_progress_callback_ends_the_call(alice: Session) -> None:
    def stop(done: int, total: int) -> None:
        raise LookupError("mine")

    nothing: Any = "nothing"
    try:
        alice.verify_audit(progress=stop)
    except LookupError:
        pass
    else:
        # Without a task to interrupt, the verification goes on, and the event loop reports the exception.
        assert not isinstance(alice, Session)
    try:
        alice.verify_audit(progress=nothing)
    except TypeError:
        pass
    else:
        assert not isinstance(alice, Session)
    assert alice.verify_audit().ok


def test_an_edit_of_the_file_is_found(kms_class: type[Kms], url: str) -> None:
    with kms_class.open(url, root_key=ROOT_KEY) as kms:
        alice = kms.session("alice", "admin")
        alice.create_key("users")
        for _ in range(5):
            alice.encrypt("users", b"secret")
    edit(url, "UPDATE audit_logs SET actor = 'nobody' WHERE seq = 4")
    with kms_class.open(url, root_key=ROOT_KEY) as kms:
        report = kms.session("alice", "admin").verify_audit()
        assert not report.ok
        assert report.broken_at == 4
        assert any(fault.seq == 4 for fault in report.faults)
        assert all(fault.kind for fault in report.faults)


def test_public_keys_and_checkpoints(alice: Session) -> None:
    first = alice.audit_public_key()
    assert alice.checkpoint().count("\n") > 3
    second = alice.replace_signing_key()
    assert second != first
    assert [key.verifier_key for key in alice.audit_public_keys()] == [first, second]
    assert alice.audit_public_keys()[-1].last_seq is None
    assert alice.verify_audit().ok


def test_metrics(alice: Session) -> None:
    alice.encrypt("users", b"")
    metrics = alice.metrics()
    assert (metrics.keys.total, metrics.keys.by_state["ENABLED"], metrics.keys.total_versions) == (1, 1, 1)
    assert metrics.usage.encryptions_last24h == 1
    assert not metrics.storage.full


def test_backups(kms_class: type[Kms], kms: Kms, alice: Session, tmp_path: Path) -> None:
    sealed = alice.encrypt("users", b"secret").ciphertext
    told = list[tuple[int, int]]()
    copy, elsewhere = tmp_path / "backup.db", Config(f"sqlite:{tmp_path / 'restored.db'}", root_key=ROOT_KEY)
    report = alice.backup(copy, progress=lambda done, total: told.append((done, total)))
    assert report.verification.ok
    assert told
    assert copy.stat().st_mode & 0o777 == 0o600
    with pytest.raises(mini_kms.KmsError):
        alice.backup(copy)
    alice.create_key("later")
    comparison = alice.compare_backup(str(copy))
    assert comparison.lost_records > 0
    assert "later" in comparison.lost_keys
    assert kms_class.verify_backup(elsewhere, copy).verification.ok
    with pytest.raises(mini_kms.WrongRootKey):
        kms_class.verify_backup(elsewhere.replace(root_key=bytes(32)), copy)
    assert kms_class.restore(elsewhere, copy, progress=lambda *_: None).verification.ok
    with pytest.raises(mini_kms.KmsError):
        kms_class.restore(elsewhere, copy)
    with kms_class.open(elsewhere) as restored:
        assert restored.session("alice", "admin").decrypt(sealed).plaintext == b"secret"
    with pytest.raises(mini_kms.KmsError):
        kms_class.verify_backup(elsewhere, tmp_path / "nothing.db")


def test_quarantine_is_empty(alice: Session) -> None:
    assert alice.list_quarantine() == ()
    assert alice.release_quarantine() == ()


def test_a_row_that_was_edited_is_quarantined(kms_class: type[Kms], url: str) -> None:
    with kms_class.open(url, root_key=ROOT_KEY) as kms:
        kms.session("alice", "admin").create_key("users")
    edit(url, "UPDATE keys SET state = 'REVOKED'")
    with kms_class.open(url, root_key=ROOT_KEY) as kms:
        alice = kms.session("alice", "admin")
        [row] = alice.list_quarantine()
        assert (row.table, row.key_name) == ("keys", "users")
        with pytest.raises((mini_kms.IntegrityFailure, mini_kms.KeyNotFound)):
            alice.encrypt("users", b"")
