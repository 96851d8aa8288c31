"""The programs of the documentation are valid Python, and its short program runs."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import mini_kms
import pytest
from support import REPOSITORY

DOCUMENTS = ["docs/python.md", "kms-py/README.md"]
BLOCKS = [
    pytest.param(block, id=f"{document} {number}")
    for document in DOCUMENTS
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", (REPOSITORY / document).read_text(), re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_programs_are_python(block: str) -> None:
    # Some end in the middle, where the reader's own program goes on.
    compile(block, "document", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for name in re.findall(r"\bmini_kms\.(\w+)", block):
        assert hasattr(mini_kms, name)
    for name in re.findall(r"\balice\.(\w+)", block):
        assert hasattr(mini_kms.Session, name)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_first_program_runs(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    block = re.search(r"```python\n(.*?)```", (REPOSITORY / document).read_text(), re.DOTALL)
    assert block is not None
    program = block[1].replace("file:/etc/myapp/root.key", "passphrase:correct horse battery staple")
    exec(compile(program, document, "exec"), {})
