"""A reader that was written from docs/formats.md alone reads the data that the service writes."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.exceptions import InvalidTag
from formats_reader import (
    Store,
    Version,
    decrypt,
    decrypt_stream,
    imported_root,
    older_hash,
    open_checkpoint,
    record_hash,
    record_id,
    root,
)
from mini_kms import AuditRecord, Kms
from support import ROOT_KEY

LEGACY = Path(__file__).parents[2] / "tests" / "legacy"
CONTEXT = {"table": "users", "\N{GRINNING FACE}": '\x01"\\\N{LATIN SMALL LETTER E WITH ACUTE}', "\ufb33": ""}


def as_exported(record: AuditRecord) -> dict[str, Any]:
    """The record as a line of an export, with its time in microseconds."""
    return {
        "action": record.action,
        "actor": record.actor,
        "details": record.details,
        "id": str(record.id),
        "keyId": record.key_id and str(record.key_id),
        "keyVersion": record.key_version,
        "micros": (record.timestamp - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1),
        "prevHash": record.prev_hash,
        "requestId": record.request_id,
        "role": record.role,
        "seq": record.seq,
        "status": record.status,
    }


def test_counters_in_the_head_and_indexes_of_the_log(tmp_path: Path) -> None:
    file = tmp_path / "kms.db"
    with Kms.open(f"sqlite:{file}", root_key=ROOT_KEY) as kms:
        alice = kms.session("alice", "admin")
        key = alice.create_key("users").id
        for _ in range(150):
            alice.encrypt("users", b"x")
        records = alice.list_audit(oldest_first=True, limit=1_000).items

    store = Store(file, ROOT_KEY)
    hours, versions = store.tallies()
    assert sum(count for (_, *counted), count in hours.items() if counted == ["ENCRYPT", "SUCCESS"]) == 150
    last = [record.timestamp for record in records if record.action == "ENCRYPT"][-1]
    used = (last - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert {hour for hour, *_ in hours} <= {used // 3_600_000_000, used // 3_600_000_000 - 1}
    encryptions, used_at = versions[UUID(key), 1]
    assert encryptions == 150
    assert abs(used_at - used) < 60_000_000, "the time of a use is within a minute of its record"
    indexed, keys, actors = store.indexes()
    assert 128 <= indexed <= len(records)
    with_index = [record for record in records if record.seq <= indexed]
    assert keys == {(str(record.key_id), record.seq) for record in with_index if record.key_id}
    assert actors == {(record.actor, record.seq) for record in with_index}
    store.close()


def test_a_reader_made_from_the_documentation_reads_a_store(tmp_path: Path) -> None:
    file = tmp_path / "kms.db"
    with Kms.open(f"sqlite:{file}", root_key=ROOT_KEY) as kms:
        alice = kms.session("alice", "admin")
        alice.create_key("users")
        alice.create_key("letters", "RSA_2048", "ENCRYPTION")
        before = alice.encrypt("users", b"before", context=CONTEXT)
        alice.rotate_key("users")
        after = alice.encrypt("users", b"", context=CONTEXT)
        letter = alice.encrypt("letters", b"letter", context=CONTEXT)
        streams = list[tuple[bytes, bytes]]()
        for size in (0, 1, 65_536, 65_537, 200_000):
            plaintext = bytes(index % 251 for index in range(size))
            target = io.BytesIO()
            alice.encrypt_file("users", io.BytesIO(plaintext), target, context=CONTEXT)
            streams.append((plaintext, target.getvalue()))
        # Sealed rows of each kind: a delegated grant, a token, a state that is set, and a text that is absent.
        alice.put_grant("bob", "users", ["encrypt", "decrypt"])
        alice.create_token("bob", role="app", label="his")
        alice.disable_key("letters")
        records = [as_exported(record) | {"hash": record.hash} for record in alice.list_audit(oldest_first=True).items]
        checkpoint, verifier_key = alice.checkpoint(), alice.audit_public_key()

    store = Store(file, ROOT_KEY)
    versions: dict[tuple[str, int], Version] = {(str(v.key), v.number): v for v in store.versions()}
    assert len(versions) == 3
    assert store.check_wrapping_seals() == 5, "three versions, the integrity key and the signing key"
    counts = store.check_seals()
    assert counts == {
        "keys": 2,
        "key_versions": 3,
        "grants": 1,
        "credentials": 1,
        "quarantine": 0,
        "root_keys": 1,
        "service_keys": 2,
    }
    for sealed, plaintext in ((before, b"before"), (after, b""), (letter, b"letter")):
        version = versions[str(sealed.key_id), sealed.version]
        assert decrypt(sealed.ciphertext, version, CONTEXT) == plaintext
    with pytest.raises(InvalidTag):
        decrypt(before.ciphertext, versions[str(before.key_id), 1], CONTEXT | {"table": "others"})
    for plaintext, stream in streams:
        assert decrypt_stream(stream, versions[str(before.key_id), 2], CONTEXT) == plaintext

    previous = bytes(32).hex()
    for number, record in enumerate(records, start=1):
        assert (record["seq"], record["prevHash"]) == (number, previous)
        previous = record_hash(store.log, record).hex()
        assert previous == record["hash"]
        assert record["id"] == str(record_id(bytes.fromhex(previous)))
    assert list(store.records()) == [record | {"format": 2} for record in records]
    size, expected = open_checkpoint(checkpoint, verifier_key)
    assert root([bytes.fromhex(record["hash"]) for record in records[:size]]) == expected
    store.close()


def test_a_reader_made_from_the_documentation_verifies_an_imported_log(tmp_path: Path) -> None:
    rows = json.loads((LEGACY / "format0.json").read_text())
    file, source = tmp_path / "kms.db", tmp_path / "audit_logs.json"
    with Kms.open(f"sqlite:{file}", root_key=ROOT_KEY) as kms:
        alice = kms.session("alice", "admin")
        for size in (9, len(rows)):
            source.write_text(json.dumps(rows[:size]))
            alice.import_mini_kms(str(source), name="older")
        records = alice.list_audit(action="LEGACY_IMPORT", oldest_first=True).items

    store = Store(file, ROOT_KEY)
    [(name, log)] = store.imported_logs().items()
    assert (name, len(log), len(records)) == ("older", len(rows), 2)
    for record in records:
        details = record.details or {}
        assert (details["source"], details["root"]) == ("older", imported_root(log[: details["size"]]))
    assert store.last_imports() == {"older": records[-1].seq}
    for row in map(json.loads, log):
        assert (row["format"], row["hash"]) == (0, older_hash(row))
    # What was altered has another root.
    log[3] = log[3].replace(b"admin", b"nobody")
    assert imported_root(log) != (records[-1].details or {})["root"]
    store.close()
