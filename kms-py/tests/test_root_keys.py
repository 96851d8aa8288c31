"""Root keys: adding, rewrapping, verifying and retiring one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import mini_kms
import pytest
from mini_kms import AwsRootKey, Kms, Session, generate_root_key
from support import ROOT_KEY


def test_a_root_key_is_replaced(kms_class: type[Kms], url: str) -> None:
    new = generate_root_key()
    with kms_class.open(url, root_key=ROOT_KEY) as kms:
        alice = kms.session("alice", "admin")
        for number in range(5):
            alice.create_key(f"key {number}")
        sealed = alice.encrypt("key 0", b"secret").ciphertext
        [first] = alice.list_root_keys()
        assert (first.generation, first.state, first.at_hand, first.retired_at) == (1, "ACTIVE", True, None)
        assert alice.verify_planned_root_key(new, dry_run=True).failed == 0
        assert alice.add_root_key(new).generation == 2
        plan = alice.plan_rewrap()
        assert plan.materials >= 5
        assert alice.rewrap(dry_run=True).failed == 0
        assert alice.plan_rewrap() == plan, "nothing was done"
        told = list[tuple[int, int]]()
        report = alice.rewrap(rate=10_000, progress=lambda done, total: told.append((done, total)))
        assert report.is_complete
        assert told[-1][0] == told[-1][1] == report.total
        assert alice.verify_root_key(2, progress=lambda *_: None).is_complete
        retired = alice.retire_root_key(1)
        assert retired.root_key.state == "RETIRED"
        assert retired.erased >= 5
        with pytest.raises(mini_kms.KmsError):
            alice.retire_root_key(2)
    with pytest.raises(mini_kms.WrongRootKey):
        kms_class.open(url, root_key=ROOT_KEY)
    with kms_class.open(url, root_key=new) as kms:
        assert kms.session("alice", "admin").decrypt(sealed).plaintext == b"secret"


def test_root_keys_have_several_forms(kms_class: type[Kms], url: str, tmp_path: Path) -> None:
    file = tmp_path / "root.key"
    file.write_text(f"hex:{ROOT_KEY.hex()}")
    file.chmod(0o600)
    kms_class.open(url, root_key=ROOT_KEY).close()
    kms_class.open(url, root_key=f"hex:{ROOT_KEY.hex()}").close()
    kms_class.open(url, root_key=f"file:{file}").close()
    kms_class.open(url, root_key=os.urandom(32), add_root_keys=[ROOT_KEY]).close()
    with pytest.raises(mini_kms.WrongRootKey):
        kms_class.open(url, root_key=generate_root_key())
    for wrong in (b"short", bytes(33), "hex:00", "", "base64:!"):
        with pytest.raises((mini_kms.InvalidRootKey, mini_kms.InvalidInput)) as failed:
            kms_class.open(url, root_key=wrong)
        assert not wrong or repr(wrong) not in str(failed.value)
    wrong_types: list[Any] = [None, 1, bytearray(32), [ROOT_KEY]]
    for key in wrong_types:
        with pytest.raises(TypeError):
            kms_class.open(url, root_key=key)
    with pytest.raises(mini_kms.InvalidRootKey):
        kms_class.open(url)


def test_a_root_key_in_aws_that_cannot_be_reached(kms_class: type[Kms], url: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    key = AwsRootKey("alias/x", "eu-central-1", endpoint="http://127.0.0.1:1", timeout=3.0, attempt_timeout=1.0)
    with pytest.raises(mini_kms.Unavailable) as failed:
        kms_class.open(url, root_key=key)
    assert failed.value.retryable
    assert isinstance(failed.value, mini_kms.RootKeyUnavailable)
    with pytest.raises(mini_kms.InvalidInput):
        kms_class.open(url, root_key=AwsRootKey("alias/x", timeout=-1.0))


def test_only_admins_see_root_keys(kms: Kms, alice: Session) -> None:
    shop = kms.session("shop")
    operations: list[Any] = [shop.list_root_keys, shop.plan_rewrap, shop.rewrap, lambda: shop.retire_root_key(1)]
    for operation in operations:
        with pytest.raises(mini_kms.AccessDenied):
            operation()
