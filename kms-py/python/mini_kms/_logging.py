"""The service's events in Python's logging."""

from __future__ import annotations


def enable_logging(level: int | str = "INFO") -> None:
    """Passes events of this level and above on to the loggers below ``mini_kms``."""
    raise NotImplementedError


def disable_logging() -> None:
    """Ends what ``enable_logging`` began."""
    raise NotImplementedError
