"""Keys, their versions, and their lifecycle."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import mini_kms
import pytest
from mini_kms import Key, Session


def test_describes_a_new_key(alice: Session) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    made = alice.create_key(
        "cards",
        "AES256_GCM",
        "ENCRYPTION",
        rotation_period_days=90,
        grace_period_days=30,
        metadata={"team": ["shop", 1]},
    )
    assert (made.name, made.type, made.purpose, made.state) == ("cards", "AES256_GCM", "ENCRYPTION", "ENABLED")
    assert (made.current_version, made.rotation_period_days, made.grace_period_days) == (1, 90, 30)
    assert made.metadata == {"team": ["shop", 1]}
    assert before < made.created_at < datetime.now(UTC) + timedelta(seconds=5)
    assert made.created_at.tzinfo is not None
    assert made.rotate_at == made.created_at + timedelta(days=90)
    assert made.versions is not None
    assert [version.state for version in made.versions] == ["ENABLED"]
    assert made == alice.get_key("cards") == alice.get_key(made.id) == alice.get_key(made)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.name = "other"  # type: ignore[misc]


def test_names_are_used_once_and_checked(alice: Session) -> None:
    with pytest.raises(mini_kms.NameTaken):
        alice.create_key("users")
    for name in ("", "x" * 129, "a\nb", "00000000-0000-4000-8000-000000000000"):
        with pytest.raises(mini_kms.InvalidName):
            alice.create_key(name)
    assert alice.create_key("ключ 🔑").name == "ключ 🔑"


def test_a_type_without_the_purpose_is_refused(alice: Session) -> None:
    with pytest.raises(mini_kms.KmsError):
        alice.create_key("signer", "AES256_GCM", "SIGNING")
    rsa = alice.create_key("mail", "RSA_2048", "ENCRYPTION")
    assert alice.public_key(rsa, 1).startswith("-----BEGIN PUBLIC KEY-----")
    with pytest.raises(mini_kms.WrongKeyType):
        alice.public_key("users", 1)


@pytest.mark.parametrize("key", [None, 1, b"users", ["users"], object()])
def test_a_key_of_a_wrong_type_is_a_type_error(alice: Session, key: Any) -> None:
    operations: list[Any] = [alice.get_key, alice.rotate_key, alice.list_versions, alice.disable_key]
    for operation in operations:
        with pytest.raises(TypeError, match="a key must be a str or a Key"):
            operation(key)
    with pytest.raises(TypeError):
        alice.create_key(key)


def test_unknown_values_of_enumerations_are_refused(alice: Session) -> None:
    wrong: Any = "AES128"
    for arguments in ({"type": wrong}, {"purpose": wrong}, {"audit_context": wrong}):
        with pytest.raises(mini_kms.InvalidArgument):
            alice.create_key("new", **arguments)
    with pytest.raises(mini_kms.InvalidArgument):
        alice.list_keys(state=wrong)
    with pytest.raises(TypeError):
        alice.list_keys(state=1)  # type: ignore[arg-type]


def test_numbers_must_fit(alice: Session) -> None:
    for days in (-1, 1 << 32):
        with pytest.raises(OverflowError):
            alice.create_key("new", rotation_period_days=days)
    with pytest.raises(mini_kms.InvalidArgument):
        alice.create_key("new", rotation_period_days=0)
    with pytest.raises(TypeError):
        alice.create_key("new", rotation_period_days="90")  # type: ignore[arg-type]
    with pytest.raises(mini_kms.VersionNotFound):
        alice.get_version("users", 0)


def test_lists_page_by_page(alice: Session) -> None:
    names = [f"key {number:02}" for number in range(7)]
    for name in names:
        alice.create_key(name)
    found, cursor = list[str](), None
    while True:
        page = alice.list_keys(name_prefix="key ", limit=3, cursor=cursor)
        assert all(key.versions is None for key in page.items)
        found += [key.name for key in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert sorted(found) == names
    alice.disable_key("key 03")
    assert [key.name for key in alice.list_keys(state="DISABLED").items] == ["key 03"]
    assert alice.list_keys(type="RSA_2048").items == ()
    with pytest.raises(mini_kms.InvalidArgument):
        alice.list_keys(limit=0)
    with pytest.raises(TypeError):
        alice.list_keys(cursor=1)  # type: ignore[arg-type]


def test_versions(alice: Session) -> None:
    rotated = alice.rotate_key("users", expected_current=1)
    assert rotated.current_version == 2
    with pytest.raises(mini_kms.Conflict):
        alice.rotate_key("users", expected_current=1)
    listed = alice.list_versions(rotated)
    assert rotated.versions is not None
    assert sorted(version.version for version in listed.items) == [1, 2]
    assert {version.id for version in listed.items} == {version.id for version in rotated.versions}
    assert alice.get_version("users", 2).key_id == rotated.id

    assert alice.disable_version("users", 1).state == "ENABLED"
    assert alice.get_version("users", 1).state == "DISABLED"
    with pytest.raises(mini_kms.VersionNotCurrent):
        alice.enable_version("users", 1)
    alice.revoke_version("users", 1)
    assert alice.get_version("users", 1).state == "REVOKED"
    for version in (3, 4_000_000_000):
        with pytest.raises(mini_kms.VersionNotFound):
            alice.get_version("users", version)


def test_windows_are_times_with_a_zone(alice: Session) -> None:
    alice.rotate_key("users")
    plus_two = timezone(timedelta(hours=2))
    alice.set_window("users", 1, datetime(2100, 1, 1, 1, 30, tzinfo=plus_two))
    assert alice.get_version("users", 1).not_after == datetime(2099, 12, 31, 23, 30, tzinfo=UTC)
    alice.set_window("users", 1, None)
    assert alice.get_version("users", 1).not_after is None
    with pytest.raises(mini_kms.InvalidArgument, match="time zone"):
        alice.set_window("users", 1, datetime(2100, 1, 1))
    for wrong in ("2100-01-01T00:00:00Z", 4_102_444_800, datetime(2100, 1, 1, tzinfo=UTC).date()):
        with pytest.raises(TypeError, match="a time must be a datetime"):
            alice.set_window("users", 1, wrong)  # type: ignore[arg-type]
    # The service keeps milliseconds. It must not round the time up.
    exact = datetime(2100, 1, 1, 12, 0, 0, 123_456, tzinfo=UTC)
    alice.set_window("users", 1, exact)
    kept = alice.get_version("users", 1).not_after
    assert kept is not None
    assert timedelta() <= exact - kept < timedelta(milliseconds=1)


def test_states(alice: Session) -> None:
    assert alice.disable_key("users").state == "DISABLED"
    with pytest.raises(mini_kms.KeyDisabled):
        alice.encrypt("users", b"")
    assert alice.enable_key("users").state == "ENABLED"
    assert alice.revoke_key("users").state == "REVOKED"
    with pytest.raises(mini_kms.KeyRevoked):
        alice.encrypt("users", b"")
    with pytest.raises(mini_kms.KmsError):
        alice.enable_key("users")


def test_updates_change_only_the_given_fields(alice: Session) -> None:
    key = alice.update_key("users", rotation_period_days=30, grace_period_days=7, metadata={"a": None})
    assert (key.rotation_period_days, key.grace_period_days, key.metadata) == (30, 7, {"a": None})
    key = alice.update_key("users", grace_period_days=None, expected_revision=key.revision)
    assert (key.rotation_period_days, key.grace_period_days, key.metadata) == (30, None, {"a": None})
    key = alice.update_key("users", metadata=None, rotation_period_days=None)
    assert (key.rotation_period_days, key.metadata) == (None, None)
    assert alice.update_key("users", audit_context="hmac").audit_context == "hmac"
    with pytest.raises(mini_kms.Conflict):
        alice.update_key("users", rotation_period_days=1, expected_revision=key.revision - 1)


@pytest.mark.parametrize("metadata", [{"x": float("nan")}, {"x": object()}, {"x": b""}, {"x": "\ud800"}])
def test_metadata_must_be_json(alice: Session, metadata: Any) -> None:
    with pytest.raises((mini_kms.InvalidArgument, TypeError, ValueError)):
        alice.update_key("users", metadata=metadata)
    assert alice.get_key("users").metadata is None


def test_deletion_can_be_cancelled_until_it_takes_place(alice: Session) -> None:
    scheduled = alice.schedule_deletion("users", waiting_days=7)
    assert scheduled.state == "PENDING_DELETION"
    assert scheduled.delete_at is not None
    assert timedelta(days=6) < scheduled.delete_at - datetime.now(UTC) < timedelta(days=8)
    with pytest.raises(mini_kms.KeyPendingDeletion):
        alice.encrypt("users", b"")
    assert alice.cancel_deletion("users").delete_at is None
    with pytest.raises(mini_kms.InvalidArgument):
        alice.schedule_deletion("users", waiting_days=1)


def test_former_versions_are_trimmed(alice: Session) -> None:
    alice.rotate_key("users")
    alice.revoke_version("users", 1)
    assert alice.trim_key("users").current_version == 2
    assert alice.get_version("users", 1).state == "DESTROYED"


def test_an_idempotency_key_makes_a_change_once(alice: Session) -> None:
    once = alice.with_idempotency_key("order-4711")
    assert once.rotate_key("users").current_version == once.rotate_key("users").current_version == 2
    assert alice.rotate_key("users").current_version == 3
    with pytest.raises(mini_kms.IdempotencyConflict):
        once.create_key("other")
    with pytest.raises(mini_kms.InvalidArgument):
        alice.with_idempotency_key("")


def test_keys_that_do_not_exist(alice: Session) -> None:
    operations: list[Any] = [
        alice.get_key,
        alice.rotate_key,
        alice.enable_key,
        alice.disable_key,
        alice.revoke_key,
        alice.list_versions,
        alice.schedule_deletion,
        alice.cancel_deletion,
        alice.trim_key,
    ]
    for operation in operations:
        with pytest.raises(mini_kms.KeyNotFound):
            operation("nobody")
    with pytest.raises(mini_kms.NotFound):
        alice.get_key("00000000-0000-4000-8000-000000000000")


def test_a_description_can_be_compared_and_hashed_by_its_parts(alice: Session) -> None:
    first, second = alice.get_key("users"), alice.get_key("users")
    assert first == second
    assert first is not second
    assert isinstance(first, Key)
    assert dataclasses.replace(first, name="other") != first
