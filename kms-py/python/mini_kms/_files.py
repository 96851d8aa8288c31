"""Encrypting and decrypting files, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._native import Session, StreamDecryptor, StreamSummary
    from ._types import KeyRef, Reader, Writer

CHUNK = 256 * 1024
"""The number of bytes that are read at once."""


def read(src: Reader) -> bytes:
    """Reads the next bytes; empty at the end."""
    chunk = src.read(CHUNK)
    if chunk is None:
        raise BlockingIOError("the source is non-blocking and has no data now")
    return chunk


def write(dst: Writer, data: bytes) -> None:
    """Writes all bytes, even to a file that accepts only a part at a time."""
    if not data:
        return
    rest: bytes | memoryview = data
    while True:
        count = dst.write(rest)  # type: ignore[arg-type]
        if not isinstance(count, int) or count >= len(rest):
            return
        rest = memoryview(rest)[count:]


def encrypt(
    session: Session,
    key: KeyRef,
    src: Reader,
    dst: Writer,
    context: Mapping[str, str] | None,
    progress: Callable[[int], object] | None,
) -> StreamSummary:
    """Implements ``Session.encrypt_file``."""
    stream = session.encrypt_stream(key, context=context)
    done = 0
    while chunk := read(src):
        write(dst, stream.update(chunk))
        done += len(chunk)
        if progress is not None:
            progress(done)
    last, summary = stream.finish()
    write(dst, last)
    return summary


def decrypt(
    session: Session,
    src: Reader,
    dst: Writer,
    context: Mapping[str, str] | None,
    progress: Callable[[int], object] | None,
) -> StreamSummary:
    """Implements ``Session.decrypt_file``."""
    beginning = b""
    begun: tuple[StreamDecryptor, int] | None = None
    while begun is None:
        chunk = read(src)
        beginning += chunk
        begun = session.decrypt_stream(beginning, context=context)
        if begun is None and not chunk:
            raise cut()
    stream, taken = begun
    chunk, done = beginning[taken:], len(beginning)
    while True:
        write(dst, stream.update(chunk))
        if progress is not None:
            progress(done)
        chunk = read(src)
        if not chunk:
            break
        done += len(chunk)
    last, summary = stream.finish()
    write(dst, last)
    return summary


def cut() -> Exception:
    """Returns the error of a stream that ends within its header."""
    from ._errors import InvalidCiphertext

    return InvalidCiphertext("the stream ends within its header")
