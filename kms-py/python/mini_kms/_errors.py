"""The exceptions: one class for each code of the service, in groups."""

from __future__ import annotations

from typing import ClassVar


class KmsError(Exception):
    """An error of the service. Compare ``code`` or catch a subclass; messages may change with any release.

    The message says what failed, why, and what to do, and never holds a secret.
    """

    code: ClassVar[int] = 0
    """The number, the same in every interface; ``docs/errors.md`` lists all of them."""
    name: ClassVar[str] = ""
    """The code's name, the same in every interface."""
    retryable: ClassVar[bool] = False
    """Whether the same call may succeed when it is made again, after a short wait."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
        """The message, without the code."""


class InvalidInput(KmsError):
    """An argument, a name or the configuration is wrong (1xx)."""


class Denied(KmsError):
    """The caller is not authenticated, or lacks the permission (2xx)."""


class KeyFault(KmsError):
    """The key or version is missing, or in a state that does not allow the operation (3xx)."""


class CryptoFault(KmsError):
    """The ciphertext cannot be decrypted, or the plaintext not encrypted (4xx)."""


class StoreFault(KmsError):
    """The store cannot be used, or was altered or rolled back (5xx)."""


class RootKeyFault(KmsError):
    """The root key cannot be used (6xx)."""


class ServiceFault(KmsError):
    """The service in this process cannot accept the call (7xx)."""


class InternalFault(KmsError):
    """A fault in this software (9xx)."""


class NotFound(KmsError):
    """There is no such key, version, grant or credential."""


class Unavailable(KmsError):
    """The service is unusable at the moment: retry if ``retryable``, else an operator must act."""


class InvalidArgument(InvalidInput):
    """An argument is malformed, out of range or too large."""

    code = 101
    name = "InvalidArgument"


class InvalidName(InvalidInput):
    """The name of a key is empty, too long, contains unprintable characters or has the form of a UUID."""

    code = 102
    name = "InvalidName"


class InvalidConfiguration(InvalidInput):
    """The configuration is wrong or incomplete."""

    code = 103
    name = "InvalidConfiguration"


class IdempotencyConflict(InvalidInput):
    """The idempotency key was used for another request."""

    code = 104
    name = "IdempotencyConflict"


class NotAuthenticated(Denied):
    """The caller is not authenticated: the token is malformed, unknown, revoked or expired."""

    code = 201
    name = "NotAuthenticated"


class AccessDenied(Denied):
    """No grant or role of the caller allows the operation."""

    code = 202
    name = "AccessDenied"


class GrantNotFound(NotFound):
    """There is no such grant."""

    code = 203
    name = "GrantNotFound"


class CredentialNotFound(NotFound):
    """There is no such credential."""

    code = 204
    name = "CredentialNotFound"


class NameTaken(KeyFault):
    """A key with this name exists or existed. Names are never reused."""

    code = 301
    name = "NameTaken"


class KeyNotFound(KeyFault, NotFound):
    """There is no such key."""

    code = 302
    name = "KeyNotFound"


class VersionNotFound(KeyFault, NotFound):
    """The key has no such version."""

    code = 303
    name = "VersionNotFound"


class KeyDisabled(KeyFault):
    """The key is disabled."""

    code = 304
    name = "KeyDisabled"


class KeyRevoked(KeyFault):
    """The key is revoked. Revocation is final."""

    code = 305
    name = "KeyRevoked"


class KeyPendingDeletion(KeyFault):
    """The key is scheduled for deletion."""

    code = 306
    name = "KeyPendingDeletion"


class KeyDestroyed(KeyFault):
    """The key's material has been erased."""

    code = 307
    name = "KeyDestroyed"


class VersionDisabled(KeyFault):
    """The version is disabled, or its grace window has ended."""

    code = 308
    name = "VersionDisabled"


class VersionRevoked(KeyFault):
    """The version is revoked. Revocation is final."""

    code = 309
    name = "VersionRevoked"


class VersionDestroyed(KeyFault):
    """The version's material has been erased."""

    code = 310
    name = "VersionDestroyed"


class VersionNotCurrent(KeyFault):
    """A version that is not the current one was asked to encrypt, to sign or to be enabled."""

    code = 311
    name = "VersionNotCurrent"


class WrongState(KeyFault):
    """The state of the key or version does not allow this transition."""

    code = 312
    name = "WrongState"


class WrongPurpose(KeyFault):
    """The key's purpose does not include the operation."""

    code = 313
    name = "WrongPurpose"


class WrongKeyType(KeyFault):
    """The key's type cannot do the operation."""

    code = 314
    name = "WrongKeyType"


class KeyExhausted(KeyFault):
    """The version has encrypted as many messages as its algorithm allows."""

    code = 315
    name = "KeyExhausted"


class Conflict(KeyFault):
    """Another change came first, and the request no longer fits."""

    code = 316
    name = "Conflict"


class LimitExceeded(KeyFault):
    """A limit is reached, such as the number of versions of a key."""

    code = 317
    name = "LimitExceeded"


class ImportOpen(KeyFault):
    """The key belongs to an import that is not finalized: until then it can be changed only at its source."""

    code = 318
    name = "ImportOpen"


class ImportSuperseded(KeyFault):
    """A later run of the same import has begun. This run writes nothing more; what it wrote is kept."""

    code = 319
    name = "ImportSuperseded"


class InvalidCiphertext(CryptoFault):
    """The ciphertext is truncated, has an unknown format, or belongs to another key than the one in the request."""

    code = 401
    name = "InvalidCiphertext"


class DecryptionFailed(CryptoFault):
    """The ciphertext does not authenticate: it was altered, or the context differs."""

    code = 402
    name = "DecryptionFailed"


class PlaintextTooLong(CryptoFault):
    """The plaintext is too long for the key's algorithm."""

    code = 403
    name = "PlaintextTooLong"


class CryptoFailure(CryptoFault):
    """The cryptography provider failed."""

    code = 404
    name = "CryptoFailure"


class StoreUnavailable(StoreFault, Unavailable):
    """The store cannot be reached, opened or written."""

    code = 501
    name = "StoreUnavailable"
    retryable = True


class StoreContended(StoreFault, Unavailable):
    """Other callers or nodes wrote first until this node stopped retrying. Nothing was done."""

    code = 502
    name = "StoreContended"
    retryable = True


class StoreFull(StoreFault, Unavailable):
    """The store's disk or quota is full."""

    code = 503
    name = "StoreFull"
    retryable = True


class StoreReadOnly(StoreFault, Unavailable):
    """The store cannot be written: the file is read-only, or the process lacks write permission."""

    code = 504
    name = "StoreReadOnly"


class StoreCorrupt(StoreFault, Unavailable):
    """The file is not a database, or its content is inconsistent."""

    code = 505
    name = "StoreCorrupt"


class SchemaTooNew(StoreFault, Unavailable):
    """The store was written by a newer version of this software."""

    code = 506
    name = "SchemaTooNew"


class StoreInUse(StoreFault, Unavailable):
    """Another process uses the store, and this one cannot share it."""

    code = 507
    name = "StoreInUse"


class RestoreDetected(StoreFault, Unavailable):
    """The store is older than its last known state: a backup or snapshot was restored and not acknowledged."""

    code = 508
    name = "RestoreDetected"


class IntegrityFailure(StoreFault):
    """A row, record or signature does not match its seal, the signing key or the log."""

    code = 509
    name = "IntegrityFailure"


class OutcomeUnknown(StoreFault):
    """The store failed during a commit, and it is not known whether the commit took place."""

    code = 510
    name = "OutcomeUnknown"


class ClockSkew(StoreFault, Unavailable):
    """This machine's clock differs too much from the store's."""

    code = 511
    name = "ClockSkew"
    retryable = True


class InvalidRootKey(RootKeyFault, Unavailable):
    """No root key was given, or it is malformed."""

    code = 601
    name = "InvalidRootKey"


class WrongRootKey(RootKeyFault, Unavailable):
    """The root key is not one that this store is wrapped under."""

    code = 602
    name = "WrongRootKey"


class RootKeyUnavailable(RootKeyFault, Unavailable):
    """The service that holds the root key cannot be reached, or throttles calls."""

    code = 603
    name = "RootKeyUnavailable"
    retryable = True


class RootKeyRefused(RootKeyFault, Unavailable):
    """The service that holds the root key refuses to use it: access denied, key disabled or deleted."""

    code = 604
    name = "RootKeyRefused"


class Overloaded(ServiceFault, Unavailable):
    """The service has too much in flight. Nothing was done."""

    code = 701
    name = "Overloaded"
    retryable = True


class CallerOverloaded(ServiceFault, Unavailable):
    """This caller has too much in flight. Nothing was done."""

    code = 702
    name = "CallerOverloaded"
    retryable = True


class Closed(ServiceFault):
    """The service is closed or closing."""

    code = 703
    name = "Closed"


class UsedAfterFork(ServiceFault):
    """A handle was used in a process that was forked after the handle was made."""

    code = 704
    name = "UsedAfterFork"


class BlockingInAsync(ServiceFault):
    """A blocking call was made from within an asynchronous runtime."""

    code = 705
    name = "BlockingInAsync"


class InputOutput(ServiceFault):
    """The caller's own input or output failed: a stream, a backup, a file."""

    code = 706
    name = "InputOutput"


class Internal(InternalFault):
    """A fault in this software."""

    code = 901
    name = "Internal"


_BY_NAME: dict[str, type[KmsError]] = {
    cls.name: cls
    for cls in list(globals().values())
    if isinstance(cls, type) and issubclass(cls, KmsError) and cls.name
}


def make(
    name: str,
    message: str,
    *,
    classes: dict[str, type[KmsError]] = _BY_NAME,
    unknown: type[KmsError] = InternalFault,
) -> KmsError:
    """Creates the exception of a code, even while the interpreter shuts down and module globals are gone."""
    return classes.get(name, unknown)(message)
