"""The life of two keys, on a store that this program makes: python quickstart.py"""

# /// script
# requires-python = ">=3.11"
# dependencies = ["mini-kms"]
# ///

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

import mini_kms
from mini_kms import AsyncKms, Config, Kms


def tour(config: Config) -> None:
    """The synchronous interface."""
    with Kms.open(config) as kms:
        # Every caller acts in a session. The application says which principal it is.
        alice = kms.session("alice", role="admin")
        users = alice.create_key("users", rotation_period_days=90)
        alice.create_key("invoices", "RSA_2048", "SIGNING")
        print(f"created     {users.name} ({users.type}) and invoices")

        # The context is authenticated, but not part of the ciphertext: copied to another row, it does not decrypt.
        row = {"table": "users", "column": "card", "row": "4711"}
        card = alice.encrypt("users", b"4111 1111 1111 1111", context=row)
        print(f"encrypted   {len(card.ciphertext)} bytes under version {card.version}, record {card.receipt.seq}")

        # A rotation creates a new version. Ciphertexts of the old version still decrypt.
        rotated = alice.rotate_key("users")
        opened = alice.decrypt(card.ciphertext, context=row)
        assert opened.plaintext == b"4111 1111 1111 1111"
        print(f"rotated     to version {rotated.current_version}; version {opened.version} still decrypts")

        try:
            alice.decrypt(card.ciphertext, context=row | {"row": "1"})
        except mini_kms.DecryptionFailed as error:
            print(f"refused     {error}")

        signed = alice.sign("invoices", b"total: 42.00 EUR", "RSASSA_PSS_SHA_256").signature
        for text in (b"total: 42.00 EUR", b"total: 99.00 EUR"):
            valid = alice.verify("invoices", text, signed, "RSASSA_PSS_SHA_256").valid
            print(f"verified    {text.decode()}: {valid}")

        # An application may do what its grants allow, and nothing else.
        shop = kms.session("shop")
        try:
            shop.decrypt(card.ciphertext, context=row)
        except mini_kms.AccessDenied as error:
            print(f"denied      {error}")
        alice.put_grant("shop", users, ["encrypt", "decrypt"])
        print(f"granted     shop reads {len(shop.decrypt(card.ciphertext, context=row).plaintext)} bytes")

        # A batch is one commit. An item that fails is an error in the list of results.
        items = [mini_kms.EncryptItem("users", f"card {number}".encode()) for number in range(1000)]
        sealed = [item for item in alice.encrypt_batch(items) if isinstance(item, mini_kms.Encrypted)]
        print(f"batch       {len(sealed)} items")

        # A data key for a cipher of your own, wiped at the end of the block.
        with alice.generate_data_key("users") as data_key:
            print(f"data key    {len(data_key)} bytes, and {len(data_key.ciphertext)} bytes to keep beside the data")

        # Revoking cannot be undone, and takes effect at once.
        alice.revoke_version("users", 1)
        try:
            shop.decrypt(card.ciphertext, context=row)
        except mini_kms.VersionRevoked as error:
            print(f"revoked     {error}")

        report = alice.verify_audit()
        print(f"verified    {report.size} records of the log: {'good' if report.ok else 'not good'}")


async def asynchronous_tour(config: Config) -> None:
    """The same operations for asyncio: no thread waits, and concurrent operations are committed together."""
    async with await AsyncKms.open(config) as kms:
        alice = kms.session("alice", role="admin")
        sealed = await asyncio.gather(*(alice.encrypt("users", b"secret") for _ in range(100)))
        opened = await asyncio.gather(*(alice.decrypt(item.ciphertext) for item in sealed))
        print(f"asyncio     {len(opened)} tasks")


def tamper(config: Config, file: Path) -> None:
    """An attacker edits the log in the database, and verification finds the edit."""
    # In a process of its own: this process must never open the store's file with another SQLite.
    edit = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute(sys.argv[2]); db.commit()"
    statement = "UPDATE audit_logs SET actor = 'nobody' WHERE seq = 5"
    subprocess.run([sys.executable, "-c", edit, file, statement], check=True)
    with Kms.open(config) as kms:
        report = kms.session("alice", role="admin").verify_audit()
        for fault in report.faults:
            print(f"tampered    record {fault.seq}: {fault.kind}")
        assert report.broken_at == 5


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kms.db"
        # The root key wraps all other keys. Keep it outside the store: root_key="file:/etc/myapp/root.key".
        config = Config(f"sqlite:{file}", root_key="passphrase:correct horse battery staple")
        tour(config)
        asyncio.run(asynchronous_tour(config))
        tamper(config, file)


if __name__ == "__main__":
    main()
