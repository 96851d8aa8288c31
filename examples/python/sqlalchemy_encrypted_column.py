"""An encrypted column for SQLAlchemy: each value is bound to its table, its column and its row.

    python sqlalchemy_encrypted_column.py

A ciphertext that somebody copies to another row does not decrypt there. All values of a flush are encrypted by one
batch, which is one commit of the log; a value that is read is decrypted when it is asked for.
"""

# /// script
# requires-python = ">=3.11"
# dependencies = ["mini-kms", "sqlalchemy"]
# ///

from __future__ import annotations

import tempfile
from typing import Any
from uuid import UUID, uuid4

import mini_kms
import sqlalchemy as sa
from mini_kms import DecryptItem, EncryptItem, Kms
from sqlalchemy import event, orm

KEY = "cards"
BATCH = 1_000


class Secret:
    """A text that is stored encrypted. Until its row is known it can be neither stored nor read."""

    def __init__(self, text: str | None = None, ciphertext: bytes | None = None) -> None:
        self.text = text
        self.ciphertext = ciphertext
        self.context: dict[str, str] | None = None

    def reveal(self, vault: mini_kms.Session) -> str:
        """The text. ``DecryptionFailed`` if the ciphertext was made for another row, or altered."""
        if self.text is None:
            if self.context is None or self.ciphertext is None:
                raise LookupError("load the whole row: the value is bound to it")
            self.text = vault.decrypt(self.ciphertext, context=self.context).plaintext.decode()
        return self.text

    def __repr__(self) -> str:
        return "<Secret>"


class EncryptedText(sa.types.TypeDecorator[Secret]):
    """A column of ciphertexts, whose values are `Secret`."""

    impl = sa.LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Secret | None, dialect: sa.Dialect) -> bytes | None:
        if value is None:
            return None
        if value.ciphertext is None:
            raise LookupError("the value was not encrypted: store it through a session of the ORM")
        return value.ciphertext

    def process_result_value(self, value: bytes | None, dialect: sa.Dialect) -> Secret | None:
        return None if value is None else Secret(ciphertext=value)


def bind(instance: object) -> list[Secret]:
    """Binds the secrets of a row to their table, column and row, and returns them."""
    found = list[Secret]()
    state: Any = sa.inspect(instance)
    # The primary key is the row's identity. It is made in Python, so it is known before the row is stored.
    identity = "/".join(str(part) for part in state.mapper.primary_key_from_instance(instance))
    for column in state.mapper.columns:
        if isinstance(column.type, EncryptedText):
            name = state.mapper.get_property_by_column(column).key
            # Attributes that are not loaded are not fetched here.
            secret = state.dict.get(name)
            if secret is not None:
                context = {"table": str(state.mapper.local_table), "column": column.name, "row": identity}
                if secret.context not in (None, context):
                    raise ValueError("a secret belongs to one row: give the other one a secret of its own")
                secret.context = context
                found.append(secret)
    return found


def install(sessions: type[orm.Session] | orm.sessionmaker[orm.Session], vault: mini_kms.Session) -> None:
    """Makes the sessions of SQLAlchemy encrypt secrets before they store them."""

    @event.listens_for(sessions, "before_flush")
    def encrypt(session: orm.Session, *_: object) -> None:
        new = [secret for row in [*session.new, *session.dirty] for secret in bind(row) if secret.ciphertext is None]
        for begin in range(0, len(new), BATCH):
            part = new[begin : begin + BATCH]
            items = [EncryptItem(KEY, (secret.text or "").encode(), secret.context) for secret in part]
            for secret, done in zip(part, vault.encrypt_batch(items), strict=True):
                if isinstance(done, mini_kms.KmsError):
                    raise done
                secret.ciphertext = done.ciphertext


@event.listens_for(orm.Mapper, "load")
@event.listens_for(orm.Mapper, "refresh")
def loaded(row: object, *_: object) -> None:
    bind(row)


def reveal_all(vault: mini_kms.Session, values: list[Secret]) -> list[str]:
    """The texts of many values: one call for each thousand."""
    closed = [secret for secret in values if secret.text is None]
    for begin in range(0, len(closed), BATCH):
        part = closed[begin : begin + BATCH]
        items = [DecryptItem(secret.ciphertext or b"", secret.context) for secret in part]
        for secret, done in zip(part, vault.decrypt_batch(items), strict=True):
            if isinstance(done, mini_kms.KmsError):
                raise done
            secret.text = done.plaintext.decode()
    return [secret.text or "" for secret in values]


class Base(orm.MappedAsDataclass, orm.DeclarativeBase):
    pass


class Customer(Base):
    """A table with an encrypted column."""

    __tablename__ = "customers"

    name: orm.Mapped[str]
    card: orm.Mapped[Secret | None] = orm.mapped_column(EncryptedText, default=None)
    id: orm.Mapped[UUID] = orm.mapped_column(primary_key=True, default_factory=uuid4)


def demonstrate(vault: mini_kms.Session, engine: sa.Engine) -> None:
    Base.metadata.create_all(engine)
    sessions = orm.sessionmaker(engine)
    install(sessions, vault)
    with sessions.begin() as session:
        session.add_all(Customer(f"customer {number}", Secret(f"4111 {number}")) for number in range(1_500))
    with sessions() as session:
        customers = session.scalars(sa.select(Customer).order_by(Customer.name)).all()
        first, second = customers[:2]
        assert first.card is not None
        print("read       ", first.name, first.card.reveal(vault))
        texts = reveal_all(vault, [customer.card for customer in customers if customer.card])
        print("read all   ", len(texts), "values")
        ids = [first.id, second.id]

    # An attacker copies one customer's card to another customer.
    with engine.begin() as connection:
        steal = "UPDATE customers SET card = (SELECT card FROM customers WHERE id = :first) WHERE id = :second"
        names = {"first": ids[0].hex, "second": ids[1].hex}
        assert connection.execute(sa.text(steal), names).rowcount == 1
    with sessions() as session:
        other = session.get_one(Customer, ids[1])
        assert other.card is not None
        try:
            other.card.reveal(vault)
        except mini_kms.DecryptionFailed as error:
            print("refused    ", error)
        else:
            raise AssertionError("a card of another row was read")
        other.card = Secret("5500 0000")
        session.commit()
        loaded_anew = other.card
        assert loaded_anew is not None and loaded_anew.reveal(vault) == "5500 0000"
    with sessions() as session:
        changed = session.get_one(Customer, ids[1])
        assert changed.card is not None
        print("changed    ", changed.card.reveal(vault))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        # Two files: the application's own database, and the store, which no other SQLite of this process may open.
        with Kms.open(f"sqlite:{folder}/kms.db", root_key="passphrase:correct horse battery staple") as kms:
            alice = kms.session("alice", role="admin")
            alice.create_key(KEY)
            alice.put_grant("shop", KEY, ["encrypt", "decrypt"])
            engine = sa.create_engine(f"sqlite:///{folder}/shop.db")
            demonstrate(kms.session("shop"), engine)
            engine.dispose()


if __name__ == "__main__":
    main()
