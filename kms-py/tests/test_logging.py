"""The library's events in Python's logging."""

from __future__ import annotations

from support import run

# Each test runs in a process of its own, because the level belongs to the process.
HEAD = """
import logging, os, sys, time
import mini_kms
class Keep(logging.Handler):
    records = []
    def emit(self, record):
        self.records.append(record)
logging.getLogger("mini_kms").addHandler(Keep())
logging.getLogger("mini_kms").setLevel(1)
def use():
    with mini_kms.Kms.open(sys.argv[1], root_key=bytes(32), high_water=None) as kms:
        alice = kms.session("alice", "admin")
        alice.create_key(f"key {time.time_ns()}")
        alice.backup(sys.argv[1].removeprefix("sqlite:") + str(time.time_ns()))
    # The events come from tasks of the service, not from errors of callers.
    time.sleep(0.6)
"""


def test_events_arrive_only_while_logging_is_enabled(url: str) -> None:
    source = f"""{HEAD}
use()
assert not Keep.records
mini_kms.enable_logging("DEBUG")
mini_kms.enable_logging(5)
use()
mini_kms.disable_logging()
names = {{record.name for record in Keep.records}}
assert all(name == "mini_kms" or name.startswith("mini_kms.") for name in names), names
assert all("kms_lib" not in record.name for record in Keep.records)
text = "".join(record.getMessage() for record in Keep.records)
assert bytes(32).hex() not in text
count = len(Keep.records)
use()
assert len(Keep.records) == count
mini_kms.disable_logging()
"""
    run(source, url)


def test_a_child_enables_logging_again(url: str) -> None:
    source = f"""{HEAD}
mini_kms.enable_logging("DEBUG")
child = os.fork()
if child == 0:
    mini_kms.enable_logging("DEBUG")
    use()
    mini_kms.disable_logging()
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
use()
"""
    run(source, url)


def test_a_slow_handler_does_not_delay_operations(url: str) -> None:
    source = f"""{HEAD}
import threading
gate = threading.Event()
class Slow(logging.Handler):
    def emit(self, record):
        gate.wait(30)
logging.getLogger("mini_kms").addHandler(Slow())
mini_kms.enable_logging(5)
for _ in range(3):
    use()
gate.set()
"""
    run(source, url)


def test_wrong_levels() -> None:
    source = """
        import mini_kms
        for level in ("LOUD", None, 1.5):
            try:
                mini_kms.enable_logging(level)
            except (KeyError, ValueError, TypeError):
                continue
            raise SystemExit(f"{level} was taken")
        for level in (-1, 0, 50, 10_000):
            mini_kms.enable_logging(level)
    """
    run(source)
