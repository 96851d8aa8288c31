"""The errors: one class for each code of the service."""

from __future__ import annotations

import pickle
import re
import sys

import mini_kms
import pytest
from mini_kms import KmsError, _errors, _native
from support import REPOSITORY

CODES = _native._error_codes()
GROUPS = {
    1: mini_kms.InvalidInput,
    2: mini_kms.Denied,
    3: mini_kms.KeyFault,
    4: mini_kms.CryptoFault,
    5: mini_kms.StoreFault,
    6: mini_kms.RootKeyFault,
    7: mini_kms.ServiceFault,
    9: mini_kms.InternalFault,
}


def leaves(kind: type[KmsError]) -> list[type[KmsError]]:
    below = [leaf for child in kind.__subclasses__() for leaf in leaves(child)]
    return below or [kind]


@pytest.mark.parametrize(("name", "number", "retryable", "unusable"), CODES, ids=[code[0] for code in CODES])
def test_every_code_has_its_class(name: str, number: int, retryable: bool, unusable: bool) -> None:
    kind: type[KmsError] = getattr(mini_kms, name)
    assert (kind.name, kind.code, kind.retryable) == (name, number, retryable)
    assert issubclass(kind, mini_kms.Unavailable) == (unusable or retryable)
    assert issubclass(kind, mini_kms.NotFound) == name.endswith("NotFound")
    # The codes 203 and 204 mean "not found", so they are no subclass of Denied, which is about permissions.
    assert issubclass(kind, GROUPS[number // 100]) or issubclass(kind, mini_kms.NotFound)
    made = _errors.make(name, "why")
    assert (type(made), made.message, str(made)) == (kind, "why", "why")


def test_there_are_no_other_classes() -> None:
    named = {kind.name for kind in leaves(KmsError) if kind.name}
    assert named == {code[0] for code in CODES}


def test_the_documentation_lists_the_same_codes() -> None:
    table = (REPOSITORY / "docs" / "errors.md").read_text()
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| \d+ \| (yes|no)", table, re.MULTILINE)
    assert [(name, int(number), retry == "yes") for number, name, retry in rows] == [code[:3] for code in CODES]


def test_errors_can_be_pickled() -> None:
    for name, *_ in CODES:
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            error = _errors.make(name, "why")
            again = pickle.loads(pickle.dumps(error, protocol))
            assert (type(again), again.message, again.args) == (type(error), "why", ("why",))


def test_an_unknown_code_is_an_internal_fault() -> None:
    assert type(_errors.make("NewOne", "why")) is mini_kms.InternalFault


def test_errors_can_carry_notes_and_causes() -> None:
    error = _errors.make("KeyNotFound", "why")
    error.add_note("for the reader")
    with pytest.raises(KmsError) as caught:
        raise error from LookupError("below")
    assert isinstance(caught.value.__cause__, LookupError)
    assert caught.value.__notes__ == ["for the reader"]


def test_references_to_a_class_are_not_leaked() -> None:
    kind = mini_kms.KeyNotFound
    before = sys.getrefcount(kind)
    for _ in range(100):
        _errors.make("KeyNotFound", "why")
    assert sys.getrefcount(kind) - before < 10
