"""Opening, configuring and closing a service."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mini_kms
import pytest
from mini_kms import AsyncKms, AsyncSession, Config, Kms, Scheduler, Session
from support import ROOT_KEY, Driven


def test_closes(kms: Kms, alice: Session) -> None:
    assert not kms.closed
    assert "closed" not in repr(kms)
    kms.close()
    kms.close()
    assert kms.closed
    assert "closed" in repr(kms)
    operations: list[Any] = [
        lambda: alice.encrypt("users", b""),
        lambda: alice.encrypt_batch([("users", b"")]),
        lambda: alice.list_keys(),
        lambda: alice.rotate_key("users"),
        lambda: alice.verify_audit(),
        lambda: alice.encrypt_stream("users"),
        lambda: kms.ready(),
        lambda: kms.run_scheduler(),
    ]
    for operation in operations:
        with pytest.raises(mini_kms.Closed):
            operation()


def test_leaving_the_block_closes(kms_class: type[Kms], url: str) -> None:
    with pytest.raises(LookupError, match="mine"), kms_class.open(url, root_key=ROOT_KEY) as kms:
        raise LookupError("mine")
    assert kms.closed
    with kms_class.open(url, root_key=ROOT_KEY) as kms:
        kms.close()


def test_a_session_keeps_its_service_alive(kms_class: type[Kms], url: str) -> None:
    alice = kms_class.open(url, root_key=ROOT_KEY).session("alice", "admin")
    assert alice.create_key("users").name == "users"


def test_opens_what_another_handle_has_open(kms_class: type[Kms], kms: Kms, url: str, alice: Session) -> None:
    sealed = alice.encrypt("users", b"secret").ciphertext
    with kms_class.open(url, root_key=ROOT_KEY) as second:
        assert second.session("bob", "admin").decrypt(sealed).plaintext == b"secret"


def test_reads_only(kms_class: type[Kms], kms: Kms, alice: Session, url: str) -> None:
    kms.close()
    with kms_class.open_read_only(url, root_key=ROOT_KEY) as looking:
        bob = looking.session("bob", "admin")
        assert [key.name for key in bob.list_keys().items] == ["users"]
        assert bob.verify_audit().ok
        with pytest.raises(mini_kms.StoreReadOnly):
            bob.encrypt("users", b"")


def test_ready_telemetry_and_jobs(kms: Kms, alice: Session) -> None:
    assert kms.ready().root_key == "ok"
    telemetry = kms.telemetry()
    assert telemetry.records > 0
    assert telemetry.keys_by_state["ENABLED"] == 1
    report = kms.run_scheduler()
    assert (report.rotated, report.failed) == ((), ())
    assert report.verification is None or report.verification.ok


def test_wrong_stores(kms_class: type[Kms], tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    other.write_bytes(b"no database" * 1000)
    for url, kind in (
        (f"sqlite:{other}", mini_kms.StoreCorrupt),
        (f"sqlite:{tmp_path}/missing/kms.db", mini_kms.KmsError),
        (f"sqlite:{tmp_path}", mini_kms.KmsError),
        ("oracle://x", mini_kms.InvalidConfiguration),
        ("", mini_kms.InvalidConfiguration),
        ("sqlite:\0", mini_kms.KmsError),
    ):
        with pytest.raises(kind):
            kms_class.open(url, root_key=ROOT_KEY)
    with pytest.raises(mini_kms.KmsError):
        kms_class.open(f"sqlite:{tmp_path / 'new.db'}", root_key=ROOT_KEY, make_store=False)
    wrong: list[Any] = [None, 1, b"sqlite:kms.db", tmp_path]
    for url in wrong:
        with pytest.raises(TypeError):
            kms_class.open(url, root_key=ROOT_KEY)


def test_every_setting_is_taken(kms_class: type[Kms], url: str, tmp_path: Path) -> None:
    settings: mini_kms.Settings = {
        "root_key": ROOT_KEY,
        "add_root_keys": [bytes(32)],
        "grace_days": 3,
        "audit_ack": "queued",
        "crypto_provider": "rust-crypto",
        "scheduler": Scheduler(enabled=False, cron="0 3 * * *"),
        "cache": (10, 1.5),
        "deletion_wait": (20, 5),
        "limits": (100, 1 << 20),
        "high_water": tmp_path / "high-water",
        "make_store": True,
        "acknowledge_restore": False,
        "disk_space": (1, 0),
        "lock_memory": False,
        "reverify_days": 3,
    }
    config = Config(url, **settings)
    described = config.describe()
    assert described["audit.ack"] == "queued"
    assert ROOT_KEY.hex() not in str(described)
    with kms_class.open(config) as kms:
        assert kms.session("alice", "admin").create_key("users").name == "users"
    rest: mini_kms.Settings = {"store_password_file": "secret", "acknowledge_clock": datetime(2026, 1, 1, tzinfo=UTC)}
    assert set(settings) | set(rest) == set(mini_kms.Settings.__annotations__), "the test knows all settings"
    config.replace(**rest)


def test_wrong_settings(url: str) -> None:
    with pytest.raises(TypeError, match="grace"):
        Config(url, grace=3)  # type: ignore[call-arg]
    wrong: list[tuple[str, Any]] = [
        ("grace_days", "3"),
        ("audit_ack", None),
        ("cache", 3),
        ("scheduler", {"enabled": True}),
        ("limits", (1,)),
        ("acknowledge_clock", "2026-01-01"),
        ("high_water", 1),
        ("make_store", "yes"),
    ]
    for name, value in wrong:
        with pytest.raises((TypeError, ValueError)):
            Config(url, **{name: value})
    wrong = [("audit_ack", "sometimes"), ("crypto_provider", "openssl"), ("cache", (1, -1.0))]
    for name, value in wrong:
        with pytest.raises(mini_kms.InvalidInput):
            Config(url, **{name: value})


def test_configurations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = 'store_url = "sqlite:kms.db"\nmaster_key = "passphrase:correct horse battery staple"\n'
    config = Config.from_toml(text)
    assert "horse" not in repr(config) + str(config.describe())
    assert "secret" not in repr(Config("mysql://user:secret@host/kms"))
    file = tmp_path / "kms.toml"
    file.write_text(text)
    with pytest.raises(mini_kms.InvalidConfiguration, match=r"0600|600|readable"):
        Config.load(file)
    file.chmod(0o600)
    monkeypatch.setenv("KMS_STORE_URL", "sqlite:other.db")
    assert "other.db" in repr(Config.load(file))
    monkeypatch.setenv("KMS_MASTER_KEY", "passphrase:correct horse battery staple")
    assert "other.db" in repr(Config.from_env())
    for broken in ("nonsense", "store_url = 1", "unknown = 1"):
        with pytest.raises(mini_kms.InvalidConfiguration):
            Config.from_toml(broken)


def test_handles_are_neither_pickled_nor_copied(kms: Kms, alice: Session) -> None:
    handles: list[Any] = [kms, alice, alice.encrypt_stream("users"), alice.generate_data_key("users")]
    for handle in handles:
        handle = handle.handle if isinstance(handle, Driven) else handle
        for way in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="can be neither pickled nor copied"):
                way(handle)


@pytest.mark.parametrize("kind", [Kms, Session, AsyncKms, AsyncSession, mini_kms.DataKey, mini_kms.Receipt])
def test_handles_are_made_by_the_library_only(kind: Any) -> None:
    with pytest.raises(TypeError):
        type("Mine", (kind,), {})
    if kind in (Kms, Session, mini_kms.DataKey, mini_kms.Receipt):
        with pytest.raises(TypeError):
            kind()
