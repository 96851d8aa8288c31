"""The import of the data of Mini KMS on Node."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import mini_kms
import pytest
from mini_kms import DecryptItem, Kms

LEGACY = Path(__file__).parents[2] / "tests" / "legacy"
KNOWN: dict[str, Any] = json.loads((LEGACY / "clean.json").read_text())


def items() -> list[tuple[DecryptItem, bytes]]:
    """Ciphertexts of the original that still decrypt after the import, each with its plaintext."""
    found = []
    for it in KNOWN["ciphertexts"]:
        if it["keyType"] != "AES256_GCM" or it["keyId"] != "e104b330-b119-47ca-9b47-72fd487f23e4":
            continue
        # The order of the names is authenticated, and `json` keeps it.
        aad = None if it["aad"] is None else json.dumps(it["aad"], ensure_ascii=False)
        item = DecryptItem(
            b64decode(it["ciphertext"]),
            key=it["keyId"],
            version=it["version"],
            iv=b64decode(it["iv"]),
            auth_tag=b64decode(it["authTag"]),
            imported_aad=aad,
            is_imported=True,
        )
        found.append((item, it["plaintext"].encode()))
    assert len(found) == 3
    return found


def test_imports_and_finalizes(tmp_path: Path) -> None:
    with Kms.open(f"sqlite:{tmp_path / 'kms.db'}", root_key=mini_kms.generate_root_key()) as kms:
        alice = kms.session("alice", role="admin")
        older, told = str(LEGACY / "older"), []
        with pytest.raises(mini_kms.WrongRootKey):
            alice.import_mini_kms(older, master_secret="another secret")
        with pytest.raises(mini_kms.InvalidConfiguration, match="twice"):
            alice.import_mini_kms(older, master_secret=KNOWN["masterKey"], master_secret_file=tmp_path / "secret")
        dry = alice.import_mini_kms(older, master_secret=KNOWN["masterKey"], dry_run=True)
        report = alice.import_mini_kms(
            older,
            master_secret=KNOWN["masterKey"],
            rotate=True,
            progress=lambda done, total: told.append((done, total)),
        )
        assert report.is_complete and report.keys == dry.keys and report.keys.imported == 5
        assert [finding.kind for finding in report.findings].count("grantDenied") == 1
        opened = alice.decrypt_batch([item for item, _ in items()])
        assert [result.plaintext for result in opened if isinstance(result, mini_kms.Decrypted)] == [
            plaintext for _, plaintext in items()
        ]
        with pytest.raises(mini_kms.ImportOpen):
            alice.rotate_key("minted-1")
        with pytest.raises(mini_kms.InvalidConfiguration, match="AWS KMS key"):
            alice.import_mini_kms(older, master_secret=KNOWN["masterKey"], aws_keys=["my key"])
        end = alice.import_mini_kms(
            older, master_secret=KNOWN["masterKey"], aws_keys=["alias/old"], finalize=True, allow_incomplete=True
        )
        assert end.finalized
        assert alice.rotate_key("minted-1").current_version > 1
