"""The asynchronous interface: the operations of ``Kms`` and ``Session`` as coroutines."""

from __future__ import annotations

from asyncio import isfuture
from collections.abc import Callable
from inspect import isawaitable
from typing import Any

from . import _native
from ._files import CHUNK, cut


async def _awaited(result: Any) -> Any:
    """Returns the result of an operation, and awaits it if it is a future."""
    return await result if isfuture(result) else result


def _coroutine(native: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps an operation in a coroutine function. Cancelling its task does not cancel the operation."""

    async def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = native(self._native, *args, **kwargs)
        return await result if isfuture(result) else result

    method.__name__ = native.__name__
    method.__wrapped__ = native  # type: ignore[attr-defined]
    method.__doc__ = f"See :meth:`{native.__qualname__}`."  # type: ignore[attr-defined]
    return method


def _operations(native: type, *, but: frozenset[str]) -> Callable[[type], type]:
    """Adds the operations of a native class to a class, as coroutine functions."""

    def add(cls: type) -> type:
        for name, member in vars(native).items():
            if not name.startswith("_") and callable(member) and name not in but and name not in vars(cls):
                method = _coroutine(member)
                method.__qualname__ = f"{cls.__name__}.{name}"
                method.__module__ = cls.__module__
                setattr(cls, name, method)
        return cls

    return add


def _made(cls: Any, native: Any) -> Any:
    """Creates an object of one of the classes below, whose constructors are private."""
    made = cls.__new__(cls)
    made._native = native
    return made


def _not_portable(kind: str) -> TypeError:
    return TypeError(f"an {kind} can be neither pickled nor copied: open the service in the process that uses it")


@_operations(_native.Session, but=frozenset())
class AsyncSession:
    """The operations of one actor, for asyncio: ``Session`` with coroutines.

    It works on any event loop, including uvloop. Cancelling a task that awaits an operation does not cancel the
    operation: it may take effect.
    """

    __slots__ = ("__weakref__", "_native")

    _native: _native.Session

    def __init__(self) -> None:
        raise TypeError("use AsyncKms.session")

    def __init_subclass__(cls) -> None:
        raise TypeError("AsyncSession cannot be subclassed")

    @property
    def principal(self) -> str:
        """The principal of the session."""
        return self._native.principal

    @property
    def role(self) -> str:
        """The role of the session."""
        return self._native.role

    def with_idempotency_key(self, key: str) -> AsyncSession:
        """Returns a session whose next change takes effect once, however often it is sent within 24 hours."""
        return _made(AsyncSession, self._native.with_idempotency_key(key))

    def with_request(self, *, source_ip: str | None = None, request_id: str | None = None) -> AsyncSession:
        """Returns a session of the same actor for one request; an idempotency key is not inherited."""
        return _made(AsyncSession, self._native.with_request(source_ip=source_ip, request_id=request_id))

    async def encrypt_file(self, key: Any, src: Any, dst: Any, *, context: Any = None, progress: Any = None) -> Any:
        """Like ``Session.encrypt_file``; results of ``read`` and ``write`` are awaited if they are awaitable."""
        stream = await self.encrypt_stream(key, context=context)  # type: ignore[attr-defined]
        done = 0
        while chunk := await _read(src):
            await _write(dst, stream.update(chunk))
            done += len(chunk)
            if progress is not None:
                progress(done)
        last, summary = stream.finish()
        await _write(dst, last)
        return summary

    async def decrypt_file(self, src: Any, dst: Any, *, context: Any = None, progress: Any = None) -> Any:
        """Like ``Session.decrypt_file``; results of ``read`` and ``write`` are awaited if they are awaitable."""
        beginning, begun = b"", None
        while begun is None:
            chunk = await _read(src)
            beginning += chunk
            begun = await self.decrypt_stream(beginning, context=context)  # type: ignore[attr-defined]
            if begun is None and not chunk:
                raise cut()
        stream, taken = begun
        chunk, done = beginning[taken:], len(beginning)
        while True:
            await _write(dst, stream.update(chunk))
            if progress is not None:
                progress(done)
            chunk = await _read(src)
            if not chunk:
                break
            done += len(chunk)
        last, summary = stream.finish()
        await _write(dst, last)
        return summary

    def __reduce__(self) -> Any:
        raise _not_portable("AsyncSession")

    def __repr__(self) -> str:
        return repr(self._native).replace("Session", "AsyncSession", 1)


@_operations(
    _native.Kms, but=frozenset({"open", "open_read_only", "restore", "session", "operator_session", "verify_backup"})
)
class AsyncKms:
    """A service that is open on one store, for asyncio: ``Kms`` with coroutines.

    >>> import asyncio
    >>> async def main():
    ...     async with await AsyncKms.open(url, root_key="passphrase:correct horse battery staple") as kms:
    ...         alice = kms.session("alice", role="admin")
    ...         await alice.create_key("users")
    ...         sealed = await alice.encrypt("users", b"secret")
    ...         return (await alice.decrypt(sealed.ciphertext)).plaintext
    >>> asyncio.run(main())
    b'secret'
    """

    __slots__ = ("__weakref__", "_native")

    _native: _native.Kms

    def __init__(self) -> None:
        raise TypeError("use AsyncKms.open")

    def __init_subclass__(cls) -> None:
        raise TypeError("AsyncKms cannot be subclassed")

    @classmethod
    async def open(cls, url: Any, **settings: Any) -> AsyncKms:
        """Opens the store at a URL, and creates it if it is missing."""
        return _made(cls, await _awaited(_native._open(False, url, **settings)))

    @classmethod
    async def open_read_only(cls, url: Any, **settings: Any) -> AsyncKms:
        """Opens a SQLite store without writing anything: see ``Kms.open_read_only``."""
        return _made(cls, await _awaited(_native._open(True, url, **settings)))

    @staticmethod
    async def verify_backup(config: Any, path: Any, *, progress: Any = None) -> Any:
        """Verifies a backup without restoring it, with the root key of ``config``."""
        return await _awaited(_native._verify_backup(config, path, progress, True))

    @staticmethod
    async def restore(config: Any, path: Any, *, progress: Any = None) -> Any:
        """Verifies a backup, and restores it to the store that ``config`` names, which must not exist yet."""
        return await _awaited(_native._restore(config, path, progress, True))

    def session(
        self, principal: str, role: Any = "app", *, source_ip: str | None = None, request_id: str | None = None
    ) -> AsyncSession:
        """Creates a session of a principal: see ``Kms.session``."""
        return _made(AsyncSession, self._native.session(principal, role, source_ip=source_ip, request_id=request_id))

    def operator_session(self, *, source_ip: str | None = None, request_id: str | None = None) -> AsyncSession:
        """Creates a session of the operator: see ``Kms.operator_session``."""
        return _made(AsyncSession, self._native.operator_session(source_ip=source_ip, request_id=request_id))

    async def authenticate(
        self, token: str, *, source_ip: str | None = None, request_id: str | None = None
    ) -> AsyncSession:
        """Creates a session of the principal that a token was issued to: see ``Kms.authenticate``."""
        found = self._native.authenticate(token, source_ip=source_ip, request_id=request_id)
        return _made(AsyncSession, await _awaited(found))

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._native.closed

    async def __aenter__(self) -> AsyncKms:
        return self

    async def __aexit__(self, kind: Any, error: Any, traceback: Any, /) -> None:
        await _awaited(self._native.close())

    def __reduce__(self) -> Any:
        raise _not_portable("AsyncKms")

    def __repr__(self) -> str:
        return repr(self._native).replace("Kms", "AsyncKms", 1)


async def _read(src: Any) -> bytes:
    chunk = src.read(CHUNK)
    if isawaitable(chunk):
        chunk = await chunk
    if chunk is None:
        raise BlockingIOError("the source is non-blocking and has no data now")
    return bytes(chunk)


async def _write(dst: Any, data: bytes) -> None:
    rest: bytes | memoryview = data
    while rest:
        count = dst.write(rest)
        if isawaitable(count):
            count = await count
        if not isinstance(count, int):
            return
        rest = memoryview(rest)[count:]
