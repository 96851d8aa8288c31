"""A store for each test. Tests that take `kms_class`, `kms` or `alice` run twice: synchronously and asynchronously."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mini_kms import AsyncKms, Kms, Session
from support import ROOT_KEY, Driven


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'kms.db'}"


@pytest.fixture(params=["sync", "async"])
def kms_class(request: pytest.FixtureRequest) -> Iterator[type[Kms]]:
    """`Kms`, or `AsyncKms` with the synchronous interface of `Kms`."""
    if request.param == "sync":
        yield Kms
        return
    with asyncio.Runner() as runner:
        driven: Any = Driven(AsyncKms, runner)
        yield driven


@pytest.fixture
def kms(kms_class: type[Kms], url: str) -> Iterator[Kms]:
    """An open service."""
    with kms_class.open(url, root_key=ROOT_KEY) as kms:
        yield kms


@pytest.fixture
def alice(kms: Kms) -> Session:
    """An admin of a store with a key of each kind."""
    alice = kms.session("alice", "admin")
    alice.create_key("users")
    return alice


@pytest.fixture
def invoices(alice: Session) -> str:
    """The name of a key that signs."""
    return alice.create_key("invoices", "RSA_2048", "SIGNING").name
