"""Reads the data of Mini KMS, written from docs/formats.md alone: without the module `mini_kms`."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import json
import sqlite3
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
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


# A root key: 32 bytes, a passphrase, or what decrypts a `CiphertextBlob` of AWS KMS under an encryption context.
RootKey = bytes | str | Callable[[bytes, dict[str, str]], bytes]

# The value of `type` in the encryption context of AWS KMS, for what is not the material of a version.
AWS_TYPES = {"integrity-key": "INTEGRITY_KEY", "signing-key": "SIGNING_KEY"}


class Store:
    """A SQLite store that no service has open, with those of its root keys that are known."""

    def __init__(self, file: Path, *root_keys: RootKey) -> None:
        self._database = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
        [(log_id, self.checkpoint)] = self._database.execute("SELECT log_id, checkpoint FROM audit_head")
        self.log = UUID(bytes=log_id)
        self._generations: dict[int, RootKey] = {}
        rows = self._database.execute(
            "SELECT generation, provider, derivation, salt, check_value FROM root_keys WHERE state <> 'RETIRED'"
        )
        for generation, provider, derivation, salt, check_value in rows.fetchall():
            for root_key in root_keys:
                if (provider == "aws-kms") != callable(root_key):
                    continue
                if isinstance(root_key, str) != derivation.startswith("argon2id:"):
                    continue
                known = derive(root_key, derivation, salt) if isinstance(root_key, str) else root_key
                try:
                    assert unwrap(known, check_value, "check-value") == b"kms check value v1"
                    self._generations[generation] = known
                except InvalidTag:
                    continue

    def close(self) -> None:
        """Closes the file."""
        self._database.close()

    def query(self, sql: str, *values: Any) -> list[Any]:
        """The rows of a query."""
        return self._database.execute(sql, values).fetchall()

    def unwrap(self, subject: bytes, *binding: bytes | str | int) -> bytes | None:
        """The material of a row of `key_versions` or `service_keys`; none if it is erased. All wrappings agree."""
        rows = self.query("SELECT generation, wrapped FROM wrappings WHERE subject = ?", subject)
        opened = {
            unwrap(self._generations[generation], wrapped, *binding)
            for generation, wrapped in rows
            if generation in self._generations
        }
        assert len(opened) == bool(rows), f"{len(rows)} wrappings have {len(opened)} materials"
        return opened.pop() if opened else None

    def versions(self) -> Iterable[Version]:
        """Every version of every key whose material is not erased."""
        rows = self.query(
            "SELECT v.id, v.key_id, v.version, k.type, v.fingerprint "
            'FROM key_versions v JOIN "keys" k ON k.id = v.key_id'
        )
        for subject, key, number, kind, fingerprint in rows:
            material = self.unwrap(subject, "version", key, number, kind)
            if material is not None:
                version = Version(UUID(bytes=key), number, kind, material)
                assert version.fingerprint() == fingerprint
                yield version

    def service_key(self, kind: str, name: str, state: str = "CURRENT") -> bytes | None:
        """The key of the service of this kind in this state; none if there is none."""
        rows = self.query("SELECT id, number, fingerprint FROM service_keys WHERE kind = ? AND state = ?", kind, state)
        if not rows:
            return None
        [(subject, number, fingerprint)] = rows
        material = self.unwrap(subject, name, self.log.bytes, number)
        assert material is not None
        info = b"kms-service-fingerprint/v1\0" + fields(kind, self.log.bytes, number)
        assert hkdf(material, b"", info) == fingerprint
        return material

    def records(self) -> Iterable[dict[str, Any]]:
        """Every record, oldest first, as a line of an export has it, with its time in microseconds."""
        previous = bytes(32)
        rows = self.query(
            "SELECT seq, timestamp, actor, role, action, status, request_id, key_id, key_version, details, hash, "
            "format FROM audit_logs ORDER BY seq"
        )
        for seq, micros, actor, role, action, status, request_id, key_id, key_version, details, hashed, form in rows:
            yield {
                "action": action,
                "actor": actor,
                "details": details and json.loads(details),
                "format": form,
                "hash": hashed.hex(),
                "id": str(record_id(hashed)),
                "keyId": key_id and str(UUID(bytes=key_id)),
                "keyVersion": key_version,
                "micros": micros,
                "prevHash": previous.hex(),
                "requestId": request_id,
                "role": role,
                "seq": seq,
                "status": status,
            }
            previous = hashed

    def check_indexes(self) -> int:
        """Checks the indexes of the log; returns the number of records in them."""
        indexed: int = self.query("SELECT indexed FROM audit_head")[0][0]
        for table, column in (("audit_keys", "key_id"), ("audit_actors", "actor")):
            expected = self.query(
                f"SELECT {column}, seq FROM audit_logs WHERE seq <= ? AND {column} IS NOT NULL ORDER BY 2", indexed
            )
            assert self.query(f"SELECT {column}, seq FROM {table} ORDER BY 2") == expected
        return indexed

    def row_digests(self) -> Iterable[tuple[str, bytes, str]]:
        """Table, id and digest of every row whose changes the log records."""
        for table, columns in SEALED.items():
            for values in self.query(f'SELECT {columns.replace(" ", ", ")} FROM "{table}"'):
                row = b"kms-row/v1\0" + fields(table, *sealed_values(dict(zip(columns.split(), values, strict=True))))
                yield table, values[0], hashlib.sha256(row).hexdigest()

    def tallies(self) -> tuple[dict[tuple[int, str, str], int], dict[tuple[UUID, int], tuple[int, int]]]:
        """The counters in the head: by hour, action and status, and by key and version."""
        [(raw,)] = self.query("SELECT tallies FROM audit_head")
        return counters(raw)

    def indexes(self) -> tuple[int, set[tuple[str, int]], set[tuple[str, int]]]:
        """The number of records that the indexes of the log have, and their rows by key and by actor."""
        [(indexed,)] = self.query("SELECT indexed FROM audit_head")
        keys = self.query("SELECT key_id, seq FROM audit_keys")
        return (
            indexed,
            {(str(UUID(bytes=key)), seq) for key, seq in keys},
            set(self.query("SELECT actor, seq FROM audit_actors")),
        )

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

    def _derived(self, label: bytes, state: str = "CURRENT") -> bytes | None:
        """A key that is derived from the integrity key in this state."""
        integrity_key = self.service_key("integrity", "integrity-key", state)
        return integrity_key and hkdf(integrity_key[:32], b"", label)

    def _seal_keys(self) -> tuple[list[bytes], int]:
        """The keys that seal rows, the current one first, and the number of the first record after its creation. Rows
        that are older may have a seal under the other one."""
        derived = [self._derived(b"kms-seal-rows/v1", state) for state in ("CURRENT", "RESEALING")]
        [(first,)] = self.query("SELECT first_seq FROM service_keys WHERE kind = 'integrity' AND state = 'CURRENT'")
        return [key for key in derived if key is not None], first

    def check_wrapping_seals(self) -> int:
        """Checks the seal of every wrapping; returns their number."""
        keys, _ = self._seal_keys()
        rows = self._database.execute(
            "SELECT w.subject, coalesce(v.fingerprint, s.fingerprint), w.generation, w.wrapped, w.verified, w.seal "
            "FROM wrappings w LEFT JOIN key_versions v ON v.id = w.subject LEFT JOIN service_keys s ON s.id = w.subject"
        ).fetchall()
        for subject, fingerprint, generation, wrapped, verified, seal in rows:
            digest = hashlib.sha256(wrapped).digest()
            row = b"kms-row/v1\0" + fields("wrappings", subject, fingerprint, generation, digest, verified)
            assert seal in [hmac.digest(key, row, "sha256") for key in keys]
        return len(rows)

    def check_seals(self) -> dict[str, int]:
        """Checks the seals of all other rows, except those in quarantine, and the row commitment; returns the number
        of rows of each table."""
        (keys, first), commitment = self._seal_keys(), self._derived(b"kms-rows/v1")
        assert commitment is not None
        quarantined = set(self.query("SELECT entity_table, row_id FROM quarantine WHERE released_at IS NULL"))
        counts, together = dict[str, int](), 0
        for table, columns in SEALED.items():
            rows = self._database.execute(f'SELECT {columns.replace(" ", ", ")}, seal FROM "{table}"').fetchall()
            counts[table] = len(rows)
            for *values, seal in rows:
                if (table, values[0]) in quarantined:
                    continue
                row_values = dict(zip(columns.split(), values, strict=True))
                row = b"kms-row/v1\0" + fields(table, *sealed_values(row_values))
                allowed = keys if row_values["revision"] < first else keys[:1]
                assert seal in [hmac.digest(key, row, "sha256") for key in allowed]
                together ^= int.from_bytes(hmac.digest(commitment, b"\0" + row, "sha256"), "big")
        lines = dict(line.split(" ", 1) for line in self.checkpoint.splitlines()[3:5])
        state = b"\1" + struct.pack(">Q", int(lines["revision"])) + together.to_bytes(32, "big")
        assert hmac.digest(commitment, state, "sha256") == base64.b64decode(lines["rows"])
        return counts


def derive(passphrase: str, derivation: str, salt: bytes) -> bytes:
    """The root key of a passphrase."""
    costs = dict(cost.split("=") for cost in derivation.removeprefix("argon2id:").split(","))
    memory, passes, lanes = (int(costs[name]) for name in "mtp")
    return Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory).derive(
        passphrase.encode()
    )


def unwrap(root_key: RootKey, wrapped: bytes, *binding: bytes | str | int) -> bytes:
    """The material in a wrapping."""
    number_format, provider, generation = struct.unpack(">BBI", wrapped[:6])
    assert (number_format, provider) == (1, 2 if callable(root_key) else 1)
    if callable(root_key):
        return root_key(wrapped[6:], encryption_context(*binding))
    assert isinstance(root_key, bytes)
    additional_data = b"kms-wrap/v1\0" + fields(*binding, generation)
    wrapping_key = AESGCM(hkdf(root_key, b"", b"kms-root-wrap/v1"))
    return wrapping_key.decrypt(wrapped[6:18], wrapped[18:], additional_data)


def encryption_context(*binding: bytes | str | int) -> dict[str, str]:
    """The encryption context with which AWS KMS wraps."""
    match binding:
        case ("version", bytes(key), int(number), str(kind)):
            return {"keyId": str(UUID(bytes=key)), "version": str(number), "type": kind}
        case (str(what), bytes(log), int(number)):
            return {"keyId": str(UUID(bytes=log)), "version": str(number), "type": AWS_TYPES[what]}
        case _:
            return {"keyId": "check-value", "version": "1", "type": "CHECK_VALUE"}


def counters(raw: bytes) -> tuple[dict[tuple[int, str, str], int], dict[tuple[UUID, int], tuple[int, int]]]:
    """The counters in the column `tallies`."""
    hours, versions = dict[tuple[int, str, str], int](), dict[tuple[UUID, int], tuple[int, int]]()
    rest = io.BytesIO(raw)

    def number() -> int:
        return int.from_bytes(rest.read(8), "big")

    def text() -> str:
        return rest.read(rest.read(1)[0]).decode()

    while kind := rest.read(1):
        if kind == b"\x01":
            hour, action, status = number(), text(), text()
            hours[hour, action, status] = number()
        else:
            assert kind == b"\x02"
            key, version = UUID(bytes=rest.read(16)), number()
            versions[key, version] = (number(), number())
    return hours, versions


def sealed_values(row: dict[str, Any]) -> Iterable[bytes | str | int | None]:
    """The values of a row in the form that its seal covers: each list begins with its length."""
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
    """The size and the root of a checkpoint, after its signature was verified."""
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
