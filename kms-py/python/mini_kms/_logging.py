"""The service's events in Python's logging."""

from __future__ import annotations

import atexit
import logging
import os
import threading

from . import _native

_WAIT = 0.25
_OFF = 255

_lock = threading.Lock()
_stop: threading.Event | None = None
_thread: threading.Thread | None = None
_process = 0


def enable_logging(level: int | str = "INFO") -> None:
    """Passes events of this level and above on to the loggers below ``mini_kms``.

    A Python thread fetches them, so they arrive with a short delay, and the service never waits for Python. Events
    that do not fit into the queue are dropped; a warning says how many. After a fork, call it again in the child.

    >>> enable_logging("WARNING")
    >>> disable_logging()
    """
    global _stop, _thread, _process
    number = level if isinstance(level, int) else logging.getLevelNamesMapping()[level]
    with _lock:
        _native._set_log_level(max(0, min(number, _OFF - 1)))
        if _thread is not None and _process == os.getpid():
            return
        _stop, _process = threading.Event(), os.getpid()
        _thread = threading.Thread(target=_pump, args=(_stop,), name="mini-kms-logging", daemon=True)
        _thread.start()


def disable_logging() -> None:
    """Turns logging off again. Events that are already in the queue are still passed on."""
    global _stop, _thread
    with _lock:
        _native._set_log_level(_OFF)
        stop, thread = _stop, _thread
        _stop = _thread = None
    if stop is not None and thread is not None and _process == os.getpid():
        stop.set()
        thread.join()


def _pump(stop: threading.Event) -> None:
    while True:
        ending = stop.is_set()
        entries, dropped = _native._next_events(0.0 if ending else _WAIT)
        for level, target, text in entries:
            name = target.replace("kms_lib", "mini_kms", 1).replace("::", ".")
            logging.getLogger(name).log(level, "%s", text)
        if dropped:
            logging.getLogger("mini_kms").warning("%d events were dropped", dropped)
        if ending and not entries:
            return


# No thread may be inside Rust code when the interpreter shuts down.
atexit.register(disable_logging)
