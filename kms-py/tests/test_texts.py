"""Every text argument of every method in the stubs: a text without a UTF-8 form raises `InvalidArgument`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mini_kms
import pytest
from mini_kms import Config, Kms, Session
from support import ROOT_KEY, VALUES, arguments

TEXTS = {
    "str",
    "AuditContext",
    "KeyPurpose",
    "KeyRef",
    "KeyState",
    "KeyType",
    "Path",
    "Permission",
    "Role",
    "RootKeySource",
    "SignatureAlgorithm",
    "Status",
}
LONE = "\ud800"


def names(annotation: ast.expr | None) -> set[str]:
    return {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)} if annotation else set()


def texts(kind: str) -> Iterator[tuple[str, str, list[str]]]:
    """Lists each argument that may be a text: its method, its name, and the other arguments that the method needs."""
    for method, argument, needed in arguments(kind):
        if names(argument.annotation) & TEXTS:
            yield method, argument.arg, needed


def lone(argument: str) -> Any:
    if argument in ("context", "destination_context", "metadata"):
        return {"row": LONE}
    return [LONE] if argument in ("allow", "aws_keys") else LONE


def refused(method: Any, argument: str, others: dict[str, Any]) -> None:
    with pytest.raises(mini_kms.InvalidArgument, match="surrogate"):
        method(**{argument: lone(argument)}, **others)


def test_the_stubs_were_read() -> None:
    assert len(list(texts("Session"))) > 60
    assert ("encrypt", "context", ["key", "plaintext"]) in list(texts("Session"))


@pytest.mark.parametrize(("method", "argument", "needed"), list(texts("Session")))
def test_texts_of_a_session(alice: Session, method: str, argument: str, needed: list[str]) -> None:
    refused(getattr(alice, method), argument, {name: VALUES[name] for name in needed})


@pytest.mark.parametrize(("method", "argument", "needed"), list(texts("Kms")))
def test_texts_of_a_service(kms: Kms, method: str, argument: str, needed: list[str]) -> None:
    values = {"config": Config("sqlite:x.db"), "token": "x", "path": "x", **VALUES}
    refused(getattr(kms, method), argument, {name: values[name] for name in needed})


@pytest.mark.parametrize(("method", "argument", "needed"), list(texts("Config")))
def test_texts_of_a_configuration(method: str, argument: str, needed: list[str]) -> None:
    refused(getattr(Config("sqlite:x.db"), method), argument, {name: VALUES[name] for name in needed})


@pytest.mark.parametrize(
    "settings",
    [
        {"store_password_file": LONE},
        {"root_key": LONE},
        {"add_root_keys": [LONE]},
        {"root_key": mini_kms.AwsRootKey(LONE)},
        {"root_key": mini_kms.AwsRootKey("x", LONE)},
        {"root_key": mini_kms.AwsRootKey("x", endpoint=LONE)},
        {"audit_ack": LONE},
        {"crypto_provider": LONE},
        {"scheduler": mini_kms.Scheduler(cron=LONE)},
        {"high_water": LONE},
    ],
)
def test_texts_of_settings(settings: Any) -> None:
    with pytest.raises(mini_kms.InvalidArgument, match="surrogate"):
        Config("sqlite:x.db", **settings)
    with pytest.raises(mini_kms.InvalidArgument, match="surrogate"):
        Config(LONE)


@pytest.mark.parametrize(
    ("method", "item"),
    [
        ("encrypt_batch", mini_kms.EncryptItem(LONE, b"x")),
        ("encrypt_batch", mini_kms.EncryptItem("users", b"x", {LONE: "x"})),
        ("decrypt_batch", mini_kms.DecryptItem(b"x", {"x": LONE})),
        ("decrypt_batch", mini_kms.DecryptItem(b"x", key=LONE)),
        ("sign_batch", mini_kms.SignItem(LONE, b"x", "RSASSA_PSS_SHA_256")),
        ("sign_batch", ("users", b"x", LONE)),
        ("verify_batch", mini_kms.VerifyItem(LONE, b"x", b"x", "RSASSA_PSS_SHA_256")),
        ("reencrypt_batch", mini_kms.ReencryptItem(b"x", {LONE: "x"})),
        ("reencrypt_batch", mini_kms.ReencryptItem(b"x", destination=LONE)),
    ],
)
def test_texts_of_items(alice: Session, method: str, item: Any) -> None:
    with pytest.raises(mini_kms.InvalidArgument, match="surrogate"):
        getattr(alice, method)([item])


def test_texts_of_conditions(alice: Session) -> None:
    for conditions in (
        mini_kms.Conditions(source_ip=(LONE,)),
        mini_kms.Conditions(encryption_context_equals={"x": LONE}),
        mini_kms.Conditions(encryption_context_subset={LONE: "x"}),
    ):
        with pytest.raises(mini_kms.InvalidArgument, match="surrogate"):
            alice.put_grant("bob", "users", ["encrypt"], conditions=conditions)


def test_file_names_that_are_not_utf8_can_be_used(tmp_path: Path) -> None:
    # Python shows the byte 0xFF of a file name as this surrogate.
    file = tmp_path / "settings-\udcff.toml"
    file.write_text('store_url = "sqlite:x.db"')
    assert repr(Config.load(file)) == "Config('sqlite:x.db')"


def test_a_store_whose_path_is_not_text(kms_class: type[Kms]) -> None:
    with pytest.raises(mini_kms.InvalidArgument, match="surrogate"):
        kms_class.open(LONE, root_key=ROOT_KEY)
