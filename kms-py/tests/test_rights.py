"""Permissions: sessions, grants and tokens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import mini_kms
import pytest
from mini_kms import Conditions, Kms, Session

TOMORROW = datetime.now(UTC) + timedelta(days=1)


def test_sessions_have_a_principal_and_a_role(kms: Kms, alice: Session) -> None:
    shop = kms.session("shop", source_ip="192.0.2.7", request_id="request-1")
    assert (shop.principal, shop.role) == ("shop", "app")
    assert (kms.operator_session().role, alice.role) == ("admin", "admin")
    with pytest.raises(mini_kms.AccessDenied):
        shop.encrypt("users", b"")
    record = alice.list_audit(actor="shop").items[0]
    assert (record.status, record.request_id) == ("FAILURE", "request-1")
    other = shop.with_request(request_id="request-2")
    with pytest.raises(mini_kms.AccessDenied):
        other.encrypt("users", b"")
    assert alice.list_audit(request_id="request-2").items[0].actor == "shop"
    for wrong in ("", "x" * 257, "\ud800"):
        with pytest.raises((mini_kms.InvalidArgument, UnicodeEncodeError)):
            kms.session(wrong)
    with pytest.raises(mini_kms.InvalidArgument):
        kms.session("shop", "root")  # type: ignore[arg-type]
    with pytest.raises(mini_kms.InvalidArgument, match="source_ip"):
        kms.session("shop", source_ip="nowhere")
    nobody: Any = None
    with pytest.raises(TypeError):
        kms.session(nobody)


def test_a_grant_allows_until_it_is_revoked(kms: Kms, alice: Session) -> None:
    shop = kms.session("shop")
    grant = alice.put_grant("shop", "users", ["encrypt", "decrypt"])
    assert (grant.principal, grant.role, grant.granted_by) == ("shop", "app", "alice")
    assert sorted(grant.allowed_ops) == ["decrypt", "encrypt"]
    assert shop.decrypt(shop.encrypt("users", b"secret").ciphertext).plaintext == b"secret"
    with pytest.raises(mini_kms.AccessDenied):
        shop.rotate_key("users")
    alice.revoke_grant(grant)
    with pytest.raises(mini_kms.AccessDenied):
        shop.encrypt("users", b"")
    with pytest.raises(mini_kms.GrantNotFound):
        alice.revoke_grant(grant.id)
    with pytest.raises(mini_kms.InvalidArgument):
        alice.revoke_grant("nonsense")
    wrong: Any = 1
    with pytest.raises((TypeError, AttributeError)):
        alice.revoke_grant(wrong)


def test_conditions_hold(kms: Kms, alice: Session) -> None:
    conditions = Conditions(
        not_before=datetime(2020, 1, 1, tzinfo=UTC),
        not_after=TOMORROW.replace(microsecond=0),
        source_ip=("192.0.2.0/24", "2001:db8::/32"),
        encryption_context_equals={"table": "users"},
        encryption_context_subset={"table": "users"},
    )
    grant = alice.put_grant("shop", "users", {"encrypt"}, conditions=conditions)
    assert grant.conditions == conditions
    assert alice.list_grants(principal="shop").items == (grant,)
    inside, outside = kms.session("shop", source_ip="192.0.2.7"), kms.session("shop", source_ip="198.51.100.1")
    assert inside.encrypt("users", b"", context={"table": "users"}).version == 1
    for session, context in ((outside, {"table": "users"}), (inside, {"table": "cards"}), (kms.session("shop"), {})):
        with pytest.raises(mini_kms.AccessDenied):
            session.encrypt("users", b"", context=context)
    wrong: list[Any] = [{"sourceIp": []}, "all", 1]
    for value in wrong:
        with pytest.raises((TypeError, AttributeError)):
            alice.put_grant("shop", "users", ["encrypt"], conditions=value)
    with pytest.raises(mini_kms.InvalidArgument):
        alice.put_grant("shop", "users", ["encrypt"], conditions=Conditions(source_ip=("nowhere",)))


def test_permissions_are_checked(alice: Session) -> None:
    wrong: list[Any] = [["fly"], ["ENCRYPT"]]
    for allow in wrong:
        with pytest.raises(mini_kms.InvalidArgument):
            alice.put_grant("shop", "users", allow)
    not_iterable: list[Any] = [None, 1, [1]]
    for allow in not_iterable:
        with pytest.raises(TypeError):
            alice.put_grant("shop", "users", allow)


def test_cascading_revokes_delegated_grants(kms: Kms, alice: Session) -> None:
    first = alice.put_grant("bob", "users", ["grant", "encrypt"])
    second = kms.session("bob").put_grant("carol", "users", ["encrypt"])
    assert second.granted_through == (first.id,)
    everywhere = alice.put_grant("dave", "*", ["encrypt"])
    assert {grant.id for grant in alice.list_grants().items} == {first.id, second.id, everywhere.id}
    assert [grant.id for grant in alice.list_grants(key="*").items] == [everywhere.id]
    page = alice.list_grants(key="users", limit=1)
    assert page.next_cursor is not None
    assert len(alice.list_grants(key="users", limit=1, cursor=page.next_cursor).items) == 1
    alice.revoke_grant(first, cascade=True)
    assert [grant.id for grant in alice.list_grants().items] == [everywhere.id]


def test_tokens(kms: Kms, alice: Session) -> None:
    made = alice.create_token("shop", label="web shop", expires_at=TOMORROW)
    assert made.token not in repr(made)
    assert made.token not in str(made)
    assert (made.credential.principal, made.credential.role, made.credential.label) == ("shop", "app", "web shop")
    assert alice.list_credentials().items == (made.credential,)
    session = kms.authenticate(made.token, source_ip="192.0.2.7", request_id="r")
    assert (session.principal, session.role) == ("shop", "app")
    alice.put_grant("shop", "users", ["encrypt"])
    assert session.encrypt("users", b"").version == 1
    alice.revoke_credential(made.credential)
    for use in (lambda: kms.authenticate(made.token), lambda: session.encrypt("users", b"")):
        with pytest.raises(mini_kms.NotAuthenticated):
            use()
    with pytest.raises(mini_kms.CredentialNotFound):
        alice.revoke_credential(made.credential.id)


def test_tokens_are_checked(kms: Kms, alice: Session) -> None:
    for token in ("", "nonsense", "x" * 10_000):
        with pytest.raises(mini_kms.NotAuthenticated) as failed:
            kms.authenticate(token)
        assert isinstance(failed.value, mini_kms.Denied)
        assert not token or token not in str(failed.value)
    wrong: Any = b"token"
    with pytest.raises(TypeError):
        kms.authenticate(wrong)
    with pytest.raises(mini_kms.WrongState):
        alice.create_token("shop", expires_at=datetime.now(UTC) - timedelta(days=1))
    with pytest.raises(mini_kms.AccessDenied):
        kms.session("shop").create_token("shop", role="admin")


def test_the_first_token_is_made_once(kms: Kms) -> None:
    made = kms.operator_session().create_first_token("root")
    assert kms.authenticate(made.token).role == "admin"
    with pytest.raises(mini_kms.Conflict):
        kms.operator_session().create_first_token("root")
