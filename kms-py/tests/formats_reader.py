"""Reads what Mini KMS writes, from docs/formats.md alone: without the module `mini_kms`."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import sqlite3
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_der_private_key

CHUNK = 65_536
TAG = 16

# The columns that the seal of a row covers, in their order.
SEALED = {
    "keys": "id name type purpose state disabled_reason state_before_deletion rotation_period_days grace_period_days "
    "current_version rotate_at delete_at deletion_wait_days audit_context metadata import_source import_final "
    "created_at revision",
    "key_versions": "id key_id version state not_before not_after grace_period_days created_at origin fingerprint "
    "public_key_digest revision",
    "grants": "id principal role key_id allowed_ops conditions created_at withdrawn_at grantor grantor_role "
    "granted_through cascaded revision",
    "credentials": "id principal role secret_hash label created_at expires_at withdrawn_at removal revision",
    "quarantine": "id entity_table row_id key_id key_name created_at released_at revision",
    "root_keys": "id generation provider reference derivation salt check_value state compromised_at closed_seq "
    "created_at retired_at revision",
    "service_keys": "id kind number public_key fingerprint first_seq state revision",
}


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 with one block of output."""
    key = hmac.digest(salt or bytes(32), secret, "sha256")
    return hmac.digest(key, info + b"\x01", "sha256")


def fields(*values: bytes | str | int | None) -> bytes:
    """The values as unambiguous bytes."""
    joined = b""
    for value in values:
        if value is None:
            joined += b"\0"
            continue
        raw = value.encode() if isinstance(value, str) else value
        raw = struct.pack(">Q", raw) if isinstance(raw, int) else raw
        joined += b"\1" + struct.pack(">Q", len(raw)) + raw
    return joined


def canonical(value: Any) -> bytes:
    """RFC 8785 for text, integers, booleans, lists and objects."""

    def ordered(value: Any) -> Any:
        if isinstance(value, Mapping):
            members = cast("Mapping[str, Any]", value)
            return {name: ordered(members[name]) for name in sorted(members, key=lambda name: name.encode("utf-16-be"))}
        if isinstance(value, list | tuple):
            return [ordered(item) for item in cast("list[Any]", value)]
        return value

    return json.dumps(ordered(value), ensure_ascii=False, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Version:
    """A version of a key, with its material."""

    key: UUID
    number: int
    type: str
    material: bytes

    def fingerprint(self) -> bytes:
        """The fingerprint of the material."""
        info = b"kms-fingerprint/v1\0" + fields(self.key.bytes, self.number, self.type)
        return hkdf(self.material, b"", info)


class Store:
    """A SQLite store that no service has open, and its root key of 32 bytes."""

    def __init__(self, file: Path, root_key: bytes) -> None:
        self._database = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
        self._wrapping_key = AESGCM(hkdf(root_key, b"", b"kms-root-wrap/v1"))
        [(log_id, self.checkpoint)] = self._database.execute("SELECT log_id, checkpoint FROM audit_head")
        self.log = UUID(bytes=log_id)

    def close(self) -> None:
        """Closes the file."""
        self._database.close()

    def unwrap(self, subject: bytes, *binding: bytes | str | int) -> bytes:
        """The material of a row of `key_versions` or `service_keys`."""
        [(wrapped,)] = self._database.execute("SELECT wrapped FROM wrappings WHERE subject = ?", (subject,))
        version, provider, generation = struct.unpack(">BBI", wrapped[:6])
        assert (version, provider) == (1, 1)
        return self._wrapping_key.decrypt(wrapped[6:18], wrapped[18:], b"kms-wrap/v1\0" + fields(*binding, generation))

    def versions(self) -> Iterable[Version]:
        """Every version of every key."""
        rows = self._database.execute(
            "SELECT v.id, v.key_id, v.version, k.type, v.fingerprint "
            'FROM key_versions v JOIN "keys" k ON k.id = v.key_id'
        )
        for subject, key, number, kind, fingerprint in rows.fetchall():
            material = self.unwrap(subject, "version", key, number, kind)
            version = Version(UUID(bytes=key), number, kind, material)
            assert version.fingerprint() == fingerprint
            yield version

    def service_key(self, kind: str, name: str) -> bytes:
        """The only key of the service of this kind."""
        [(subject, number, fingerprint)] = self._database.execute(
            "SELECT id, number, fingerprint FROM service_keys WHERE kind = ?", (kind,)
        )
        material = self.unwrap(subject, name, self.log.bytes, number)
        info = b"kms-service-fingerprint/v1\0" + fields(kind, self.log.bytes, number)
        assert hkdf(material, b"", info) == fingerprint
        return material

    def log_rows(self) -> Iterable[tuple[int, bytes]]:
        """Number and stored hash of every record, oldest first."""
        return self._database.execute("SELECT seq, hash FROM audit_logs ORDER BY seq").fetchall()

    def imported_logs(self) -> dict[str, list[bytes]]:
        """The rows of every imported log as they are stored, in their order."""
        logs: dict[str, list[bytes]] = {}
        rows = self._database.execute("SELECT source, position, body FROM legacy_rows ORDER BY source, position")
        for source, position, body in rows.fetchall():
            log = logs.setdefault(source, [])
            log.append(body.encode())
            assert position == len(log)
            assert canonical(json.loads(body)) == log[-1]
        return logs

    def last_imports(self) -> dict[str, int]:
        """The number of the last record that seals each imported log."""
        return dict(self._database.execute("SELECT source, seq FROM legacy_logs").fetchall())

    def _derived(self, label: bytes) -> bytes:
        return hkdf(self.service_key("integrity", "integrity-key")[:32], b"", label)

    def check_wrapping_seals(self) -> int:
        """Checks the seal of every wrapping; answers how many there are."""
        key = self._derived(b"kms-seal-rows/v1")
        rows = self._database.execute(
            "SELECT w.subject, coalesce(v.fingerprint, s.fingerprint), w.generation, w.wrapped, w.verified, w.seal "
            "FROM wrappings w LEFT JOIN key_versions v ON v.id = w.subject LEFT JOIN service_keys s ON s.id = w.subject"
        ).fetchall()
        for subject, fingerprint, generation, wrapped, verified, seal in rows:
            digest = hashlib.sha256(wrapped).digest()
            row = b"kms-row/v1\0" + fields("wrappings", subject, fingerprint, generation, digest, verified)
            assert hmac.digest(key, row, "sha256") == seal
        return len(rows)

    def check_seals(self) -> dict[str, int]:
        """Checks the seals of all other rows and the row commitment; answers how many rows each table has."""
        seals, commitment = self._derived(b"kms-seal-rows/v1"), self._derived(b"kms-rows/v1")
        counts, together = dict[str, int](), 0
        for table, columns in SEALED.items():
            rows = self._database.execute(f'SELECT {columns.replace(" ", ", ")}, seal FROM "{table}"').fetchall()
            counts[table] = len(rows)
            for *values, seal in rows:
                row = b"kms-row/v1\0" + fields(table, *sealed_values(dict(zip(columns.split(), values, strict=True))))
                assert hmac.digest(seals, row, "sha256") == seal
                together ^= int.from_bytes(hmac.digest(commitment, b"\0" + row, "sha256"), "big")
        lines = dict(line.split(" ", 1) for line in self.checkpoint.splitlines()[3:5])
        state = b"\1" + struct.pack(">Q", int(lines["revision"])) + together.to_bytes(32, "big")
        assert hmac.digest(commitment, state, "sha256") == base64.b64decode(lines["rows"])
        return counts


def sealed_values(row: dict[str, Any]) -> Iterable[bytes | str | int | None]:
    """The values of a row as its seal has them: lists with their length ahead."""
    for column, value in row.items():
        if column == "allowed_ops":
            operations = value.split(",")
            yield from (len(operations), *operations)
        elif column == "granted_through":
            grants = [value[at : at + 16] for at in range(0, len(value), 16)]
            yield from (len(grants), *grants)
        else:
            yield value


def decrypt(ciphertext: bytes, version: Version, context: dict[str, str]) -> bytes:
    """The plaintext of a ciphertext."""
    number_format, algorithm, key, number, fingerprint = struct.unpack(">BB16sI8s", ciphertext[:30])
    assert (number_format, UUID(bytes=key), number) == (1, version.key, version.number)
    assert version.fingerprint()[:8] == fingerprint
    additional_data = canonical(
        {
            "alg": {1: "AES_256_GCM", 2: "RSA_OAEP_SHA_256"}[algorithm],
            "context": context,
            "fingerprint": version.fingerprint().hex(),
            "format": 1,
            "keyId": str(version.key),
            "version": version.number,
        }
    )
    body = ciphertext[30:]
    if algorithm == 1:
        return AESGCM(version.material).decrypt(body[:12], body[12:], additional_data)
    private_key = load_der_private_key(version.material, None)
    assert isinstance(private_key, rsa.RSAPrivateKey)
    mask = padding.MGF1(hashes.SHA256())
    return private_key.decrypt(body, padding.OAEP(mask, hashes.SHA256(), additional_data))


def decrypt_stream(stream: bytes, version: Version, context: dict[str, str]) -> bytes:
    """The plaintext of a stream."""
    number_format, length = struct.unpack(">BI", stream[:5])
    assert number_format == 2
    end = 5 + length + 16
    data_key = decrypt(stream[5 : 5 + length], version, context)
    info = b"kms-stream/v1\0" + hashlib.sha256(stream[:end]).digest()
    chunk_key = AESGCM(hkdf(data_key, stream[end - 16 : end], info))
    starts = range(end, len(stream), CHUNK + TAG)
    plaintext = b""
    for number, start in enumerate(starts):
        nonce = bytes(7) + struct.pack(">IB", number, number == len(starts) - 1)
        plaintext += chunk_key.decrypt(nonce, stream[start : start + CHUNK + TAG], None)
    return plaintext


def record_hash(log: UUID, record: dict[str, Any]) -> bytes:
    """The hash of a record, from the members of a line of an export."""
    names = {"action", "actor", "details", "keyId", "keyVersion", "requestId", "role", "status"}
    body = {name: record[name] for name in names if record.get(name) is not None}
    digest = hashlib.sha256(b"kms-audit-body/v2\0" + canonical(body)).digest()
    place = struct.pack(">QQ", record["seq"], record["micros"])
    header = b"kms-audit/v2\0" + log.bytes + place + bytes.fromhex(record["prevHash"]) + digest
    return hashlib.sha256(b"\0" + header).digest()


def record_id(record_hash: bytes) -> UUID:
    """The id of the record with this hash."""
    raw = bytearray(record_hash[:16])
    raw[6] = raw[6] & 0x0F | 0x80
    raw[8] = raw[8] & 0x3F | 0x80
    return UUID(bytes=bytes(raw))


def root(leaves: list[bytes]) -> bytes:
    """The root of the Merkle tree (RFC 6962, 2.1)."""
    if len(leaves) == 1:
        return leaves[0]
    left = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + root(leaves[:left]) + root(leaves[left:])).digest()


def imported_root(rows: list[bytes]) -> str:
    """The root of the tree over rows of an imported log, in hex."""
    return root([hashlib.sha256(b"\0" + row).digest() for row in rows]).hex()


def older_hash(row: dict[str, Any]) -> str:
    """The hash of an imported row of format 0."""
    names = ("id", "timestamp", "actor", "role", "action", "requestId", "details", "keyId", "keyVersion", "status")
    present = {name: row[name] for name in names if row[name] is not None}
    if "details" in present:
        present["details"] = json.loads(present["details"])
    text = json.dumps(present, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(f"{row['prevHash']}{text}".encode()).hexdigest()


def open_checkpoint(note: str, verifier_key: str) -> tuple[int, bytes]:
    """Size and root of a checkpoint, whose signature is checked."""
    name, _, encoded = verifier_key.split("+", 2)
    public_key = base64.b64decode(encoded)[1:]
    key_id = hashlib.sha256(name.encode() + b"\n\1" + public_key).digest()[:4]
    body, _, signatures = note.rpartition("\n\n")
    body += "\n"
    for line in signatures.splitlines():
        signer, signature = line.removeprefix("\N{EM DASH} ").split(" ")
        raw = base64.b64decode(signature)
        if signer == name and raw[:4] == key_id:
            Ed25519PublicKey.from_public_bytes(public_key).verify(raw[4:], body.encode())
            origin, size, encoded_root = body.splitlines()[:3]
            assert origin == name
            return int(size), base64.b64decode(encoded_root)
    raise AssertionError("the checkpoint is not signed by the pinned key")
