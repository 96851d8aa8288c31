"""Memory leaks: thousands of calls of each kind, or a million with `tests/run --full`."""

from __future__ import annotations

import pytest
from support import FULL, run

HEAD = """
import asyncio, gc, os, sys
import mini_kms

def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

def check(turns, turn):
    # Caches, pools and the allocator grow at first, and are used again later.
    for number in range(turns // 4):
        turn(number)
    before, objects = resident(), len(gc.get_objects())
    for number in range(turns):
        turn(number)
    grown, more = resident() - before, len(gc.get_objects()) - objects
    assert more < 200, f"{more} objects more"
    assert grown < max(12, turns / 50_000), f"{grown:.1f} MiB more"

turns = int(sys.argv[2])
"""

SYNC = """
kms = mini_kms.Kms.open(sys.argv[1], root_key=bytes(32), audit_ack="queued")
alice = kms.session("alice", "admin")
alice.create_key("users")
sealed = alice.encrypt("users", b"x" * 1000, context={"row": "1"}).ciphertext
"""

OPERATIONS = {
    "crypto": """
def turn(number):
    again = alice.encrypt("users", bytes(1000), context={"row": "1"})
    alice.decrypt(bytearray(again.ciphertext), context={"row": "1"})
""",
    "buffers": """
buffer = bytearray(5000)
def turn(number):
    length = alice.encrypt_into("users", memoryview(buffer)[:1000], buffer).length
    alice.decrypt_into(memoryview(buffer)[:length], buffer)
""",
    "errors": """
operations = (
    lambda: alice.decrypt(sealed),
    lambda: alice.encrypt("users", None),
    lambda: alice.encrypt("users", memoryview(bytes(10))[::2]),
    lambda: alice.encrypt("users", b"", context={1: 2}),
    lambda: alice.decrypt_into(sealed, bytearray(1)),
    lambda: alice.create_key(""),
)
def turn(number):
    try:
        operations[number % len(operations)]()
    except (mini_kms.KmsError, TypeError, BufferError, ValueError):
        pass
""",
    "batches": """
items = [("users", bytes(100))] * 10
def turn(number):
    if number % 10 == 0:
        alice.decrypt_batch([(item.ciphertext,) for item in alice.encrypt_batch(items)] + [(b"nonsense",)])
""",
    "sessions": """
def turn(number):
    kms.session("bob", source_ip="192.0.2.1").with_request(request_id="x").with_idempotency_key("y")
    alice.get_key("users")
    with alice.generate_data_key("users") as data_key:
        bytes(data_key)
""",
    "streams": """
import io
def turn(number):
    if number % 10 == 0:
        out = io.BytesIO()
        alice.encrypt_file("users", io.BytesIO(bytes(100_000)), out)
        alice.decrypt_file(io.BytesIO(out.getvalue()), io.BytesIO())
        alice.encrypt_stream("users").update(bytes(100_000))
""",
}


@pytest.mark.parametrize("kind", OPERATIONS)
def test_calls(url: str, kind: str) -> None:
    turns = 1_000_000 if FULL else 3_000
    run(f"{HEAD}\n{SYNC}\n{OPERATIONS[kind]}\ncheck(turns, turn)\nkms.close()", url, turns, seconds=1_800)


def test_tasks(url: str) -> None:
    source = f"""{HEAD}
loop = asyncio.new_event_loop()
async def start():
    global kms, alice
    kms = await mini_kms.AsyncKms.open(sys.argv[1], root_key=bytes(32), audit_ack="queued")
    alice = kms.session("alice", "admin")
    await alice.create_key("users")
loop.run_until_complete(start())
async def operations(number):
    tasks = [asyncio.ensure_future(alice.encrypt("users", bytes(3000))) for _ in range(10)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    try:
        await alice.decrypt(b"nonsense")
    except mini_kms.KmsError:
        pass
    await asyncio.gather(*tasks, return_exceptions=True)
def turn(number):
    if number % 10 == 0:
        loop.run_until_complete(operations(number))
check(turns, turn)
loop.run_until_complete(kms.close())
"""
    run(source, url, 1_000_000 if FULL else 5_000, seconds=1_800)


def test_services(url: str) -> None:
    source = f"""{HEAD}
def turn(number):
    if number % 100 == 0:
        with mini_kms.Kms.open(sys.argv[1], root_key=bytes(32)) as kms:
            kms.session("alice", "admin").list_keys()
check(turns, turn)
"""
    run(source, url, 10_000 if FULL else 2_000)
