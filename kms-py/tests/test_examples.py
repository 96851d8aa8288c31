"""Runs the examples, as a reader would run them."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from mini_kms import Kms, generate_root_key
from support import REPOSITORY, SECONDS
from test_servers import served

EXAMPLES = REPOSITORY / "examples" / "python"


def example(name: str, *arguments: object, **environment: str) -> str:
    return outcome(0, name, *arguments, **environment)


def outcome(status: int, name: str, *arguments: object, **environment: str) -> str:
    ended = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("KMS_")} | environment,
    )
    assert ended.returncode == status, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def test_quickstart() -> None:
    assert "tampered    record 5" in example("quickstart.py")


def test_sqlalchemy_encrypted_column() -> None:
    assert "refused" in example("sqlalchemy_encrypted_column.py")


def test_rotate_and_reencrypt() -> None:
    assert "encrypted 2499 rows anew, 1 failed" in example("rotate_and_reencrypt.py")


def test_encrypt_file(tmp_path: Path, url: str) -> None:
    plain, sealed, opened = tmp_path / "report", tmp_path / "report.sealed", tmp_path / "copies" / "report"
    opened.parent.mkdir()
    plain.write_bytes(os.urandom(5_000_000))
    variables = {"KMS_MASTER_KEY": generate_root_key()}
    assert "encrypted 5000000 bytes" in example("encrypt_file.py", url, "encrypt", plain, sealed, **variables)
    assert "decrypted 5000000 bytes" in example("encrypt_file.py", url, "decrypt", sealed, opened, **variables)
    assert opened.read_bytes() == plain.read_bytes()
    # Under another name, or cut, it is refused, and nothing is left behind.
    renamed, cut = tmp_path / "other", tmp_path / "cut"
    cut.write_bytes(sealed.read_bytes()[:-1])
    assert "DecryptionFailed" in outcome(1, "encrypt_file.py", url, "decrypt", sealed, renamed, **variables)
    opened.unlink()
    outcome(1, "encrypt_file.py", url, "decrypt", cut, opened, **variables)
    assert not list(opened.parent.iterdir())
    assert not renamed.exists()


def test_fastapi_app(url: str) -> None:
    variables = {"KMS_STORE_URL": url, "KMS_MASTER_KEY": generate_root_key()}
    token = example("fastapi_app.py", **variables).strip()
    command = ["uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--loop", "uvloop", "--log-level", "warning"]
    with served(EXAMPLES, url, [*command, "fastapi_app:app"], **variables) as port:

        def ask(name: str, token: str, body: bytes | None = None) -> tuple[int, bytes]:
            request = urllib.request.Request(f"http://127.0.0.1:{port}/{name}", body, method="PUT" if body else "GET")
            request.add_header("authorization", f"Bearer {token}")
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return answer.status, answer.read()
            except urllib.error.HTTPError as refused:
                return refused.code, refused.read()

        assert ask("ready", "") == (200, b'{"root_key":"ok"}')
        assert ask("notes/a", token, b"secret")[0] == 204
        assert ask("notes/a", token) == (200, b"secret")
        assert ask("notes/b", token)[0] == 404
        assert ask("notes/a", "nonsense") == (401, b'{"error":"NotAuthenticated"}')
        with Kms.open(url, root_key=variables["KMS_MASTER_KEY"]) as kms:
            operator = kms.operator_session()
            operator.revoke_grant(operator.list_grants().items[0])
        assert ask("notes/a", token) == (403, b'{"error":"AccessDenied"}')


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.name)
def test_every_example_is_tested_and_says_what_it_needs(file: Path) -> None:
    text = file.read_text()
    assert '# dependencies = ["mini-kms"' in text
    assert f"def test_{file.stem}(" in Path(__file__).read_text()
    assert f"python/{file.name}" in (REPOSITORY / "examples" / "README.md").read_text()
