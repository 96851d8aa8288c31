"""The golden stores of every version, read with a reader that was written from docs/formats.md alone."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_der_private_key
from formats_reader import (
    RootKey,
    Store,
    Version,
    canonical,
    counters,
    decrypt,
    decrypt_stream,
    derive,
    fields,
    hkdf,
    imported_root,
    open_checkpoint,
    record_hash,
    record_id,
    root,
    unwrap,
)

ROOT = Path(__file__).parents[2]
STORES = sorted(ROOT.glob("tests/golden/*/*/facts.json"))


def moto_key(key_id: str, material: bytes) -> Callable[[bytes, dict[str, str]], bytes]:
    """A key in AWS KMS as moto implements it: a `CiphertextBlob` is the key's id, a nonce, a tag and the ciphertext."""

    def open_blob(blob: bytes, context: dict[str, str]) -> bytes:
        assert blob[:36].decode() == key_id
        nonce, tag, ciphertext = blob[36:48], blob[48:64], blob[64:]
        additional_data = b"".join(name.encode() + context[name].encode() for name in sorted(context))
        return AESGCM(material).decrypt(nonce, ciphertext + tag, additional_data)

    return open_blob


def root_key(known: dict[str, Any]) -> RootKey:
    """The root key that `facts.json` names."""
    if known["provider"] == "aws-kms":
        return moto_key(known["id"], bytes.fromhex(known["material"]))
    form, _, value = known["key"].partition(":")
    return bytes.fromhex(value) if form == "hex" else value


class Golden:
    """A golden store: what is known of it, and a copy that is open."""

    def __init__(self, facts: Path, folder: Path) -> None:
        self.facts: dict[str, Any] = json.loads(facts.read_text())
        self.export = [json.loads(line) for line in (facts.parent / "log.jsonl").read_text().splitlines()]
        self.high_water = (facts.parent / "high-water").read_text()
        self.file = folder / "store.sqlite"
        shutil.copy(facts.parent / "store.sqlite", self.file)
        self.store = Store(self.file, *map(root_key, self.facts["rootKeys"]))
        self.versions: dict[tuple[str, int], Version] = {(str(v.key), v.number): v for v in self.store.versions()}

    def version(self, known: dict[str, Any]) -> Version:
        """The version that `facts.json` names."""
        return self.versions[known["key"], known["version"]]


@pytest.fixture(params=STORES, ids=lambda path: "/".join(path.parts[-3:-1]))
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Golden:
    return Golden(request.param, tmp_path)


def test_there_are_golden_stores() -> None:
    assert len(STORES) >= 5


def test_material_seals_and_indexes(golden: Golden) -> None:
    store = golden.store
    assert store.check_wrapping_seals() >= 3
    counts = store.check_seals()
    assert counts["keys"] >= 1 and counts["service_keys"] >= 2
    indexed = store.check_indexes()
    assert indexed <= golden.facts["size"]
    hours, versions = store.tallies()
    assert all(action.isupper() for _, action, _ in hours)
    [(uses,)] = store.query("SELECT COUNT(*) FROM version_usage")
    assert uses >= len(versions)
    # Material is missing only where it was erased, or is being erased.
    [(missing,)] = store.query(
        'SELECT COUNT(*) FROM key_versions v JOIN "keys" k ON k.id = v.key_id '
        "WHERE v.id NOT IN (SELECT subject FROM wrappings) AND v.state IS NOT 'DESTROYED' "
        "AND k.state IS NOT 'DESTROYED' AND k.state_before_deletion IS NOT 'DESTROYED'"
    )
    assert missing == 0
    # Each root key alone opens everything.
    for known in golden.facts["rootKeys"]:
        alone = Store(golden.file, root_key(known))
        assert {(str(v.key), v.number): v for v in alone.versions()} == golden.versions
        alone.close()
    store.close()


def test_ciphertexts_and_signatures(golden: Golden) -> None:
    for it in golden.facts["ciphertexts"]:
        # A version that was erased has no material; one that was revoked still has.
        if (it["key"], it["version"]) not in golden.versions:
            assert it["refused"]
            continue
        ciphertext, plaintext = base64.b64decode(it["ciphertext"]), base64.b64decode(it["plaintext"])
        assert decrypt(ciphertext, golden.version(it), it["context"]) == plaintext
        with pytest.raises((InvalidTag, ValueError)):
            decrypt(ciphertext, golden.version(it), it["context"] | {"another": "entry"})
    for it in golden.facts["streams"]:
        plaintext = bytes(index % 251 for index in range(it["length"]))
        assert decrypt_stream(base64.b64decode(it["ciphertext"]), golden.version(it), it["context"]) == plaintext
    for it in golden.facts["signatures"]:
        private_key = load_der_private_key(golden.version(it).material, None)
        assert isinstance(private_key, rsa.RSAPrivateKey)
        scheme = {
            "RSASSA_PKCS1_V1_5_SHA_256": padding.PKCS1v15(),
            "RSASSA_PSS_SHA_256": padding.PSS(padding.MGF1(hashes.SHA256()), 32),
        }[it["algorithm"]]
        signature, message = base64.b64decode(it["signature"]), base64.b64decode(it["message"])
        private_key.public_key().verify(signature, message, scheme, hashes.SHA256())
        with pytest.raises(InvalidSignature):
            private_key.public_key().verify(signature, message + b".", scheme, hashes.SHA256())
    for it in golden.facts.get("imported", []):
        version, ciphertext = golden.version(it), base64.b64decode(it["ciphertext"])
        if it["iv"]:
            caller: dict[str, Any] = json.loads(it["aad"] or "{}")
            aad = json.dumps(
                {"keyId": it["key"], "version": it["version"], **caller}, ensure_ascii=False, separators=(",", ":")
            )
            sealed = ciphertext + base64.b64decode(it["authTag"])
            opened = AESGCM(version.material).decrypt(base64.b64decode(it["iv"]), sealed, aad.encode())
        else:
            private_key = load_der_private_key(version.material, None)
            assert isinstance(private_key, rsa.RSAPrivateKey)
            oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
            opened = private_key.decrypt(ciphertext, oaep)
        assert opened == base64.b64decode(it["plaintext"])


def test_the_log(golden: Golden) -> None:
    store, facts = golden.store, golden.facts
    records = list(store.records())
    assert len(records) == facts["size"]
    exported = [line for line in golden.export if "checkpoint" not in line]
    # Rows as the records describe them.
    rows: dict[tuple[str, str], str] = {}
    previous = bytes(32).hex()
    for number, (record, line) in enumerate(zip(records, exported, strict=True), start=1):
        assert (record["seq"], record["prevHash"], record["format"]) == (number, previous, 2)
        previous = record_hash(store.log, record).hex()
        assert previous == record["hash"]
        assert record["id"] == str(record_id(bytes.fromhex(previous)))
        for name in line.keys() - {"timestamp"}:
            assert line[name] == record[name]
        for table, row, digest in changed_rows(record):
            rows[table, row] = digest
    hashes_ = [bytes.fromhex(record["hash"]) for record in records]

    notes = [(line["checkpoint"], "export") for line in golden.export if "checkpoint" in line]
    notes += [(note, "kept") for (note,) in store.query("SELECT note FROM audit_checkpoints ORDER BY size")]
    notes += [(store.checkpoint, "head"), (golden.high_water, "high-water")]
    assert facts["checkpoint"] in [note for note, _ in notes]
    signed = set[str]()
    for note, place in notes:
        size = int(note.splitlines()[1])
        keys = [key for key in facts["verifierKeys"] if key.split("+")[1] in signers(note)]
        assert keys, place
        for key in keys:
            assert open_checkpoint(note, key) == (size, root(hashes_[:size]))
            signed.add(key)
    assert signed == set(facts["verifierKeys"]), "a checkpoint of every signing key is kept"
    # Each replacement names both keys, and its checkpoint has both signatures.
    replaced = [
        record for record in records if record["action"] == "SIGNING_KEY_REPLACE" and "rows" in record["details"]
    ]
    pairs = [(it["details"]["previousKey"], it["details"]["verifierKey"]) for it in replaced]
    assert pairs == list(zip(facts["verifierKeys"], facts["verifierKeys"][1:], strict=False))
    for record in replaced:
        [note] = [note for note, _ in notes if int(note.splitlines()[1]) == record["seq"]][:1]
        assert len(signers(note)) == 2
    check_rows(store, rows)


def changed_rows(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The rows that a record changed: table, id and digest."""
    rows = (record["details"] or {}).get("rows")
    # In records of resealing, `rows` is a number.
    return rows if isinstance(rows, list) else []


def signers(note: str) -> set[str]:
    """The ids, in hex, of the keys that signed a checkpoint."""
    lines = note.rpartition("\n\n")[2].splitlines()
    return {base64.b64decode(line.split(" ")[2])[:4].hex() for line in lines}


def check_rows(store: Store, rows: dict[tuple[str, str], str]) -> None:
    """The tables have the rows that the records describe, except those in quarantine."""
    quarantined = {
        (table, row)
        for table, row in store.query("SELECT entity_table, row_id FROM quarantine WHERE released_at IS NULL")
    }
    found = {
        (table, str(UUID(bytes=row))): digest
        for table, row, digest in store.row_digests()
        if (table, row) not in quarantined
    }
    recorded = {
        place: digest
        for place, digest in rows.items()
        if digest and (place[0], UUID(place[1]).bytes) not in quarantined
    }
    assert found == recorded


def test_tokens(golden: Golden) -> None:
    for it in golden.facts["tokens"]:
        raw = base64.urlsafe_b64decode(it["token"].removeprefix("kms_"))
        rows = golden.store.query("SELECT principal, role, secret_hash FROM credentials WHERE id = ?", raw[:16])
        if it["valid"]:
            assert rows == [(it["principal"], it["role"], hashlib.sha256(raw[16:]).digest())]


def test_imported_logs(golden: Golden) -> None:
    records = [record for record in golden.store.records() if record["action"] == "LEGACY_IMPORT"]
    logs = golden.store.imported_logs()
    for source, last in golden.store.last_imports().items():
        [details] = [record["details"] for record in records if record["seq"] == last]
        assert (details["source"], details["size"]) == (source, len(logs[source]))
        assert details["root"] == imported_root(logs[source])


def vectors() -> dict[str, str]:
    """The test vectors of docs/formats.md."""
    section = (ROOT / "docs" / "formats.md").read_text().partition("## Test vectors")[2]
    return dict(re.findall(r"^\| ([^|`]+) \| `(.*)` \|$", section, re.MULTILINE))


def test_the_vectors_of_the_documentation() -> None:
    known = vectors()
    raw = {name: bytes.fromhex(value) for name, value in known.items() if re.fullmatch(r"([0-9a-f]{2})+", value)}
    key, log = raw["key id"], raw["log id"]
    version = Version(UUID(bytes=key), 3, "AES256_GCM", raw["material"])
    assert version.fingerprint() == raw["fingerprint"]
    derived = derive(known["passphrase"], known["derivation"], raw["salt"])
    assert derived == raw["derived root key"]
    assert unwrap(derived, raw["check value under the passphrase"], "check-value") == b"kms check value v1"
    assert unwrap(raw["root key"], raw["check value"], "check-value") == b"kms check value v1"
    assert unwrap(raw["root key"], raw["wrapped material"], "version", key, 3, "AES256_GCM") == raw["material"]
    integrity = unwrap(raw["root key"], raw["wrapped integrity key"], "integrity-key", log, 1)
    assert integrity == raw["integrity key"]
    seed = unwrap(raw["root key"], raw["wrapped signing key"], "signing-key", log, 1)
    assert Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw() == raw["public key"]
    context = json.loads(known["context"])
    assert canonical(context).decode() == known["context"]
    assert decrypt(raw["ciphertext"], version, context) == raw["plaintext"]
    assert decrypt_stream(raw["stream"], version, context) == raw["plaintext"]
    row = b"kms-row/v1\0" + fields(
        "service_keys", b"\xbb" * 16, "signing", 1, raw["public key"], b"\xcc" * 32, 1, "CURRENT", 1
    )
    assert row == raw["row of service_keys"]
    assert hmac.digest(hkdf(integrity[:32], b"", b"kms-seal-rows/v1"), row, "sha256") == raw["seal"]
    contexts = hkdf(integrity[32:], b"", b"kms-contexts/v1")
    assert hmac.digest(contexts, known["context"].encode(), "sha256") == raw["hmac of the context"]
    body = json.loads(known["body of a record"])
    record = body | {"seq": 1, "micros": 1_790_000_000_000_000, "prevHash": bytes(32).hex()}
    assert record_hash(UUID(bytes=log), record) == raw["hash"]
    assert str(record_id(raw["hash"])) == known["record id"]
    assert open_checkpoint(raw["checkpoint"].decode(), known["verifier key"]) == (1, raw["hash"])
    hours, uses = counters(raw["counters"])
    assert hours == {(497_222, "ENCRYPT", "SUCCESS"): 7}
    assert uses == {(UUID(bytes=key), 3): (9, 1_790_000_000_000_000)}
    token = base64.urlsafe_b64decode(known["token"].removeprefix("kms_"))
    assert hashlib.sha256(token[16:]).digest() == raw["secret_hash"]
