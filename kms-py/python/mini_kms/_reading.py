"""Reads the service's JSON into data classes. The reader of each type is created once."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any, Union, get_args, get_origin, get_type_hints

from ._reports import (
    BackupComparison,
    BackupReport,
    Fault,
    ImportReport,
    JobReport,
    Metrics,
    Ready,
    Report,
    RewrapPlan,
    RootKeyReport,
    Telemetry,
)
from ._results import (
    AuditKey,
    AuditRecord,
    CreatedToken,
    Credential,
    Grant,
    ImportedRow,
    IntegrityKeyReplacement,
    Key,
    KeyVersion,
    Page,
    QuarantinedRow,
    Retirement,
    RootKey,
    T,
)

_RENAMED = {"start": "from"}
_Read = Callable[[Any], Any]
_readers: dict[Any, _Read] = {}


def _json_name(name: str) -> str:
    return _RENAMED.get(name) or re.sub(r"_([a-z])", lambda found: found[1].upper(), name)


def _same(value: Any) -> Any:
    return value


def _fault(value: dict[str, Any]) -> Fault:
    return Fault(value.pop("seq"), value.pop("kind"), value)


def _class_reader(cls: Any, arguments: Mapping[Any, Any]) -> _Read:
    hints = get_type_hints(cls)
    parts = [(f.name, _json_name(f.name), _reader(hints[f.name], arguments)) for f in fields(cls)]

    def read(value: dict[str, Any]) -> Any:
        return cls(**{name: part(value[key]) for name, key, part in parts if value.get(key) is not None})

    return read


def _make_reader(kind: Any, arguments: Mapping[Any, Any]) -> _Read:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Fault:
        return _fault
    if kind is datetime:
        return datetime.fromisoformat
    if origin in (Union, types.UnionType):
        (only,) = (part for part in inner if part is not types.NoneType)
        return _reader(only, arguments)
    if origin is tuple and inner[-1] is Ellipsis:
        item = _reader(arguments.get(inner[0], inner[0]), arguments)
        return lambda value: tuple(map(item, value))
    if origin is tuple:
        return tuple
    if origin is Page:
        return _class_reader(Page, {T: inner[0]})
    if hasattr(kind, "__dataclass_fields__"):
        return _class_reader(kind, arguments)
    return _same


def _reader(kind: Any, arguments: Mapping[Any, Any]) -> _Read:
    key = (kind, tuple(arguments.items()))
    if key not in _readers:
        _readers[key] = _make_reader(kind, arguments)
    return _readers[key]


_KINDS: dict[str, Any] = {
    "Key": Key,
    "KeyPage": Page[Key],
    "KeyVersion": KeyVersion,
    "KeyVersionPage": Page[KeyVersion],
    "Grant": Grant,
    "GrantPage": Page[Grant],
    "CreatedToken": CreatedToken,
    "CredentialPage": Page[Credential],
    "AuditRecordPage": Page[AuditRecord],
    "ImportedRowPage": Page[ImportedRow],
    "AuditKeys": tuple[AuditKey, ...],
    "Report": Report,
    "BackupReport": BackupReport,
    "BackupComparison": BackupComparison,
    "Metrics": Metrics,
    "Telemetry": Telemetry,
    "Ready": Ready,
    "JobReport": JobReport,
    "QuarantinedRows": tuple[QuarantinedRow, ...],
    "RootKey": RootKey,
    "RootKeys": tuple[RootKey, ...],
    "RewrapPlan": RewrapPlan,
    "RootKeyReport": RootKeyReport,
    "ImportReport": ImportReport,
    "Retirement": Retirement,
    "IntegrityKeyReplacement": IntegrityKeyReplacement,
}


def load(kind: str, text: str) -> Any:
    """Reads a result of the service; the native module calls this."""
    return _reader(_KINDS[kind], {})(json.loads(text))
