"""Rotates a key, and encrypts a table anew under its new version, in batches, while others use the table.

    python rotate_and_reencrypt.py

The plaintexts do not leave the service. The program can be ended at any time and run again: rows that are done are left
alone. At the end nothing needs the old version, and it is disabled.
"""

# /// script
# requires-python = ">=3.11"
# dependencies = ["mini-kms"]
# ///

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator

import mini_kms
from mini_kms import Ciphertext, EncryptItem, Kms, ReencryptItem, Session

KEY = "cards"
BATCH = 1_000

Row = tuple[int, bytes]


def context(row: int) -> dict[str, str]:
    return {"table": "cards", "row": str(row)}


def outdated(table: sqlite3.Connection, current: int) -> Iterator[list[Row]]:
    """The rows whose ciphertext is of an older version, in batches, in the order of their ids."""
    last = -1
    while True:
        query = "SELECT id, sealed FROM cards WHERE id > ? ORDER BY id LIMIT ?"
        rows: list[Row] = table.execute(query, (last, BATCH)).fetchall()
        if not rows:
            return
        last = rows[-1][0]
        old = [row for row in rows if Ciphertext(row[1]).version < current]
        if old:
            yield old


def reencrypt(session: Session, table: sqlite3.Connection) -> tuple[int, int]:
    """Encrypts all rows under the current version. Returns how many succeeded, and how many failed."""
    current = session.get_key(KEY).current_version
    done = failed = 0
    for rows in outdated(table, current):
        results = session.reencrypt_batch(ReencryptItem(sealed, context(row)) for row, sealed in rows)
        with table:
            for (row, old), result in zip(rows, results, strict=True):
                if isinstance(result, mini_kms.KmsError):
                    # A damaged row does not prevent the re-encryption of the others.
                    print(f"row {row}: {result.name}: {result}")
                    failed += 1
                    continue
                # A row that was changed in the meantime already has a newer ciphertext.
                update = "UPDATE cards SET sealed = ? WHERE id = ? AND sealed = ?"
                done += table.execute(update, (result.ciphertext, row, old)).rowcount
    return done, failed


def fill(session: Session, table: sqlite3.Connection, count: int) -> None:
    table.execute("CREATE TABLE cards (id INTEGER PRIMARY KEY, sealed BLOB NOT NULL)")
    for begin in range(0, count, BATCH):
        ids = range(begin, min(begin + BATCH, count))
        sealed = session.encrypt_batch(EncryptItem(KEY, f"card {row}".encode(), context(row)) for row in ids)
        with table:
            for row, item in zip(ids, sealed, strict=True):
                if isinstance(item, mini_kms.KmsError):
                    raise item
                table.execute("INSERT INTO cards VALUES (?, ?)", (row, item.ciphertext))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        # The table is the application's own file. The store's file must not be opened by `sqlite3` in this process.
        table = sqlite3.connect(f"{folder}/shop.db")
        with Kms.open(f"sqlite:{folder}/kms.db", root_key="passphrase:correct horse battery staple") as kms:
            alice = kms.session("alice", role="admin")
            alice.create_key(KEY)
            fill(alice, table, 2_500)
            with table:
                table.execute("UPDATE cards SET sealed = (SELECT sealed FROM cards WHERE id = 1) WHERE id = 7")

            # Until the grace period ends, what the old version encrypted can be decrypted.
            rotated = alice.rotate_key(KEY)
            print(f"rotated to version {rotated.current_version}")
            done, failed = reencrypt(alice, table)
            print(f"encrypted {done} rows anew, {failed} failed")
            assert (done, failed) == (2_499, 1)
            done, failed = reencrypt(alice, table)
            assert (done, failed) == (0, 1), "the others are done"

            table.execute("DELETE FROM cards WHERE id = 7")
            if not any(outdated(table, rotated.current_version)):
                alice.disable_version(KEY, 1)
                print("nothing needs version 1: it is disabled")
            [sealed] = table.execute("SELECT sealed FROM cards WHERE id = 2000").fetchone()
            assert alice.decrypt(sealed, context=context(2000)).plaintext == b"card 2000"
        table.close()


if __name__ == "__main__":
    main()
