"""Runs the examples of the docstrings."""

from __future__ import annotations

import doctest
import io
from pathlib import Path
from typing import Any

import mini_kms
import pytest


def documented() -> list[tuple[str, str]]:
    found = []
    for name in mini_kms.__all__:
        member = getattr(mini_kms, name)
        found.append((name, getattr(member, "__doc__", None) or ""))
        if isinstance(member, type):
            found += [(f"{name}.{part}", getattr(value, "__doc__", None) or "") for part, value in vars(member).items()]
    return [(name, text) for name, text in found if ">>>" in text]


@pytest.mark.parametrize(("name", "text"), [pytest.param(*both, id=both[0]) for both in documented()])
def test_example(name: str, text: str, tmp_path: Path) -> None:
    names: dict[str, Any] = {part: getattr(mini_kms, part) for part in mini_kms.__all__}
    names |= {"io": io, "url": f"sqlite:{tmp_path / 'other.db'}"}
    with mini_kms.Kms.open(f"sqlite:{tmp_path / 'kms.db'}", root_key=bytes(32)) as kms:
        alice = kms.session("alice", "admin")
        if name != "Session.create_key":
            alice.create_key("users")
            alice.create_key("invoices", "RSA_2048", "SIGNING")
        names |= {"kms": kms, "alice": alice}
        test = doctest.DocTestParser().get_doctest(text, names, name, None, 0)
        output = io.StringIO()
        failed = doctest.DocTestRunner(verbose=False).run(test, out=output.write, clear_globs=False)
        assert failed.failed == 0, output.getvalue()
