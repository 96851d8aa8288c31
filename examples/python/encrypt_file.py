"""Encrypts or decrypts a file of any size in constant memory, and shows how far it is:

    python encrypt_file.py STORE-URL encrypt|decrypt FROM TO

The root key is taken from the environment (KMS_MASTER_KEY_FILE). The name of the original is the context: a ciphertext
that was given another name does not decrypt under it.
"""

# /// script
# requires-python = ">=3.11"
# dependencies = ["mini-kms", "tqdm"]
# ///

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import mini_kms
from mini_kms import Config, Kms, Session
from tqdm import tqdm

KEY = "files"
SUFFIX = ".sealed"


def copy(session: Session, mode: str, src: Path, dst: Path) -> mini_kms.StreamSummary:
    """Encrypts or decrypts a file. The destination appears when it is complete, and not before."""
    original = src if mode == "encrypt" else dst
    context = {"file": original.name.removesuffix(SUFFIX)}
    part = dst.with_name(dst.name + ".part")
    with src.open("rb") as source, part.open("wb") as destination:
        os.chmod(part, 0o600)
        with tqdm(total=src.stat().st_size, unit="B", unit_scale=True, desc=src.name) as bar:

            def progress(done: int) -> None:
                bar.update(done - bar.n)

            try:
                if mode == "encrypt":
                    summary = session.encrypt_file(KEY, source, destination, context=context, progress=progress)
                else:
                    # The output is genuine, but only now is it known to be complete.
                    summary = session.decrypt_file(source, destination, context=context, progress=progress)
            except BaseException:
                part.unlink()
                raise
        destination.flush()
        os.fsync(destination.fileno())
    part.replace(dst)
    return summary


def main() -> int:
    parser = argparse.ArgumentParser(description="Encrypt or decrypt a file.")
    parser.add_argument("store", help="such as sqlite:kms.db")
    parser.add_argument("mode", choices=["encrypt", "decrypt"])
    parser.add_argument("src", type=Path)
    parser.add_argument("dst", type=Path)
    options = parser.parse_args()
    os.environ["KMS_STORE_URL"] = options.store
    try:
        with Kms.open(Config.from_env()) as kms:
            alice = kms.session("alice", role="admin")
            try:
                alice.create_key(KEY)
            except mini_kms.NameTaken:
                pass
            summary = copy(alice, options.mode, options.src, options.dst)
    except (mini_kms.KmsError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"{options.mode}ed {summary.length} bytes with version {summary.version}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
