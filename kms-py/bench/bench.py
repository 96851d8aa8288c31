"""Compares the cost of a call from Python with other libraries and services, in one run: kms-py/bench/run --help

Each line is the median of the rounds, in microseconds for one operation on 256 bytes. The systems take turns in each
round, so that other load on the machine affects all of them. Compare only figures of one run. A second table has the
same operations in Rust, on the same service, and the median of the differences and ratios within a round. On a machine
with other load, `--cpu` measures the CPU time of this process instead, which does not include waiting for the disk.

`cryptography` and Tink are ciphers in the process: they keep no log, and check no rights. moto imitates AWS KMS on this
machine, so its lines show the cost of boto3 and of HTTP without a network. OpenBao runs in its development mode, in
memory.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import mini_kms

SIZE = 256
ROUNDS = 7
PLAINTEXT = bytes(range(SIZE))
BIN = Path(sys.executable).parent

Measure = Callable[[int], float]
"""Performs a number of operations, and returns the seconds that they took."""


class Table:
    """The operations to be measured, and the same operations in Rust."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, Measure]] = []
        self.of_rust: dict[str, Measure] = {}

    def add(self, name: str, count: int, measure: Measure, of_rust: Measure | None = None) -> None:
        """Adds a measure, and the measure of the same operations in Rust."""
        self.rows.append((name, count, measure))
        if of_rust is not None:
            self.of_rust[name] = of_rust

    def loop(self, name: str, count: int, operation: Callable[[], object], of_rust: Measure | None = None) -> None:
        """Adds a measure of operations that run one after the other."""

        def measure(count: int) -> float:
            begun = time.perf_counter()
            for _ in range(count):
                operation()
            return time.perf_counter() - begun

        self.add(name, count, measure, of_rust)

    def run(self, scale: int, cpu: bool) -> None:
        """Prints the tables. With `cpu`, the measures are CPU time of all threads of this process."""
        taken: dict[str, list[float]] = {name: [] for name, _, _ in self.rows}
        in_rust: dict[str, list[float]] = {name: [] for name in self.of_rust}
        for turn in range(ROUNDS + 1):
            for name, count, measure in self.rows:
                count = max(count // scale, 1)
                measures = [(taken, measure)]
                if name in self.of_rust:
                    measures.append((in_rust, self.of_rust[name]))
                # The order alternates. The first round only warms up.
                for values, one in measures if turn % 2 else reversed(measures):
                    used = time.process_time()
                    seconds = one(count)
                    if cpu:
                        seconds = time.process_time() - used
                    if turn:
                        values[name].append(seconds / count * 1e6)
        print("| operation | us | per second |\n| --- | ---: | ---: |")
        for name, values in taken.items():
            middle = statistics.median(values)
            print(f"| {name} | {middle:,.2f} | {1e6 / middle:,.0f} |", flush=True)
        print("\n| operation | Python, us | Rust, us | difference, us | ratio |\n| --- | ---: | ---: | ---: | ---: |")
        for name, rust in in_rust.items():
            python = taken[name]
            more = statistics.median(mine - its for mine, its in zip(python, rust, strict=True))
            times = statistics.median(mine / its for mine, its in zip(python, rust, strict=True))
            middles = f"{statistics.median(python):,.2f} | {statistics.median(rust):,.2f}"
            print(f"| {name} | {middles} | {more:,.2f} | {times:,.2f} |", flush=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def server(command: list[str], port: int, **variables: str) -> Iterator[None]:
    """Runs a server on this machine until the end of the block."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | variables
    )
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        else:
            raise TimeoutError(f"{command[0]} does not listen")
        yield
    finally:
        process.terminate()
        process.wait(30)


def open_store(folder: str, ack: Any) -> tuple[mini_kms.Config, mini_kms.Kms, mini_kms.Session]:
    config = mini_kms.Config(
        f"sqlite:{folder}/{ack}.db",
        root_key=bytes(range(32)),
        audit_ack=ack,
        scheduler=mini_kms.Scheduler(enabled=False),
        limits=(65_536, 1 << 30),
    )
    kms = mini_kms.Kms.open(config)
    session = kms.session("bench", "admin")
    session.create_key("aes")
    return config, kms, session


def rust(session: Any, operation: str, form: str, data: bytes) -> Measure:
    """Measures the same operations in Rust, on the same service, with the feature `bench` of the native module."""
    native: Any = mini_kms._native
    return lambda count: native._measure_rust(session, operation, form, data, count)


def ours(table: Table, stack: ExitStack, folder: str, ack: Any) -> None:
    """Adds the synchronous interface: one thread, batches, and eight threads."""
    _, kms, session = open_store(folder, ack)
    stack.enter_context(kms)
    sealed = session.encrypt("aes", PLAINTEXT).ciphertext
    single = 20_000 if ack == "queued" else 200
    to_encrypt, to_decrypt = ("encrypt", PLAINTEXT), ("decrypt", sealed)

    def in_rust(form: str, what: tuple[str, bytes]) -> Measure:
        return rust(session, what[0], form, what[1])

    table.loop(
        f"mini_kms, {ack}: encrypt",
        single,
        lambda: session.encrypt("aes", PLAINTEXT),
        in_rust("call", to_encrypt),
    )
    table.loop(f"mini_kms, {ack}: decrypt", single, lambda: session.decrypt(sealed), in_rust("call", to_decrypt))
    buffer = bytearray(4_096)
    table.loop(f"mini_kms, {ack}: encrypt_into", single, lambda: session.encrypt_into("aes", PLAINTEXT, buffer))
    encryptions = [mini_kms.EncryptItem("aes", PLAINTEXT)] * 1_000
    decryptions = [mini_kms.DecryptItem(sealed)] * 1_000

    def batches(operation: Callable[[], object]) -> Measure:
        def measure(count: int) -> float:
            begun = time.perf_counter()
            for _ in range(count // 1_000):
                operation()
            return time.perf_counter() - begun

        return measure

    tuples: list[Any] = [("aes", PLAINTEXT)] * 1_000
    short: list[Any] = [(sealed,)] * 1_000
    for operation, what, kind in (
        (lambda: session.encrypt_batch(encryptions), to_encrypt, ""),
        (lambda: session.encrypt_batch(tuples), to_encrypt, " tuples"),
        (lambda: session.decrypt_batch(decryptions), to_decrypt, ""),
        (lambda: session.decrypt_batch(short), to_decrypt, " tuples"),
    ):
        name = f"mini_kms, {ack}: {what[0]}, batches of 1,000{kind}"
        table.add(name, 40_000, batches(operation), in_rust("batch", what))
    pool = stack.enter_context(ThreadPoolExecutor(8))

    def threads(operation: Callable[[], object]) -> Measure:
        def work(count: int) -> None:
            for _ in range(count):
                operation()

        def measure(count: int) -> float:
            begun = time.perf_counter()
            list(pool.map(work, [-(-count // 8)] * 8))
            return time.perf_counter() - begun

        return measure

    many = 8_000 if ack == "queued" else 1_600
    for operation, what in (
        (lambda: session.encrypt("aes", PLAINTEXT), to_encrypt),
        (lambda: session.decrypt(sealed), to_decrypt),
    ):
        table.add(f"mini_kms, {ack}: {what[0]}, 8 threads", many, threads(operation), in_rust("threads", what))


def together(runner: asyncio.Runner, make: Callable[[], Any]) -> Measure:
    """Measures 1,000 tasks at a time."""

    async def work(count: int) -> None:
        for _ in range(count // 1_000):
            await asyncio.gather(*(make() for _ in range(1_000)))

    def measure(count: int) -> float:
        begun = time.perf_counter()
        runner.run(work(count))
        return time.perf_counter() - begun

    return measure


def alone(runner: asyncio.Runner, make: Callable[[], Any]) -> Measure:
    """Measures coroutines that are awaited one after the other."""

    async def work(count: int) -> None:
        for _ in range(count):
            await make()

    def measure(count: int) -> float:
        begun = time.perf_counter()
        runner.run(work(count))
        return time.perf_counter() - begun

    return measure


def asyncio_itself(table: Table, stack: ExitStack) -> None:
    """Adds the cost of asyncio: coroutines that do nothing, and futures that complete in the next turn of the loop."""
    runner = stack.enter_context(asyncio.Runner())

    async def nothing() -> None:
        return

    async def turn() -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        await future

    for name, make in (("nothing", nothing), ("a future", turn)):
        table.add(f"asyncio: {name}, 1,000 tasks", 10_000, together(runner, make))
        table.add(f"asyncio: {name}, await", 20_000, alone(runner, make))


def ours_asynchronous(table: Table, stack: ExitStack, folder: str, ack: Any) -> None:
    """Adds asyncio: 1,000 tasks at a time, and one operation after the other."""
    config, kms, session = open_store(folder, ack)
    sealed = session.encrypt("aes", PLAINTEXT).ciphertext
    kms.close()
    runner = stack.enter_context(asyncio.Runner())
    opened = runner.run(mini_kms.AsyncKms.open(config))
    stack.callback(lambda: runner.run(opened.close()))
    tasks = opened.session("bench", "admin")

    native: Any = tasks._native
    single = 20_000 if ack == "queued" else 200
    for operation, make, data in (
        ("encrypt", lambda: tasks.encrypt("aes", PLAINTEXT), PLAINTEXT),
        ("decrypt", lambda: tasks.decrypt(sealed), sealed),
    ):
        name = f"mini_kms, {ack}: {operation}"
        tasks_in_rust = rust(native, operation, "tasks", data)
        table.add(f"{name}, 1,000 tasks", 10_000, together(runner, make), tasks_in_rust)
        table.add(f"{name}, await", single, alone(runner, make), rust(native, operation, "await", data))


def ciphers(table: Table) -> None:
    """Adds ciphers that run in the process."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher = AESGCM(bytes(range(32)))

    def seal() -> bytes:
        nonce = os.urandom(12)
        return nonce + cipher.encrypt(nonce, PLAINTEXT, b"context")

    sealed = seal()
    table.loop("cryptography, AESGCM: encrypt", 20_000, seal)
    table.loop("cryptography, AESGCM: decrypt", 20_000, lambda: cipher.decrypt(sealed[:12], sealed[12:], b"context"))

    try:
        import tink
        from tink import aead
    except ImportError as error:
        print(f"Tink is left out: {error}")
        return
    aead.register()
    primitive = tink.new_keyset_handle(aead.aead_key_templates.AES256_GCM).primitive(aead.Aead)
    tinked = primitive.encrypt(PLAINTEXT, b"context")
    table.loop("Tink, AES256_GCM: encrypt", 20_000, lambda: primitive.encrypt(PLAINTEXT, b"context"))
    table.loop("Tink, AES256_GCM: decrypt", 20_000, lambda: primitive.decrypt(tinked, b"context"))


def aws(table: Table, stack: ExitStack) -> None:
    """Adds boto3, which calls moto."""
    import boto3

    port = free_port()
    stack.enter_context(server([str(BIN / "moto_server"), "-p", str(port)], port))
    client: Any = boto3.client(
        "kms",
        region_name="eu-central-1",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    key = client.create_key()["KeyMetadata"]["KeyId"]
    sealed = client.encrypt(KeyId=key, Plaintext=PLAINTEXT)["CiphertextBlob"]
    table.loop("boto3, moto: encrypt", 50, lambda: client.encrypt(KeyId=key, Plaintext=PLAINTEXT))
    table.loop("boto3, moto: decrypt", 50, lambda: client.decrypt(CiphertextBlob=sealed))


def openbao(table: Table, stack: ExitStack) -> None:
    """Adds hvac, which calls the transit engine of OpenBao."""
    import base64

    import hvac

    program = shutil.which("bao", path=str(BIN)) or "bao"
    port = free_port()
    address = f"127.0.0.1:{port}"
    options = ["server", "-dev", "-dev-root-token-id=bench", f"-dev-listen-address={address}", "-dev-no-store-token"]
    stack.enter_context(server([program, *options], port))
    client: Any = hvac.Client(f"http://{address}", token="bench")
    for _ in range(100):
        if client.sys.is_initialized() and not client.sys.is_sealed():
            break
        time.sleep(0.1)
    client.sys.enable_secrets_engine("transit")
    transit = client.secrets.transit
    transit.create_key("aes", key_type="aes256-gcm96")
    plaintext = base64.b64encode(PLAINTEXT).decode()
    sealed = transit.encrypt_data("aes", plaintext)["data"]["ciphertext"]
    table.loop("hvac, OpenBao: encrypt", 100, lambda: transit.encrypt_data("aes", plaintext))
    table.loop("hvac, OpenBao: decrypt", 100, lambda: transit.decrypt_data("aes", sealed))
    # By default, OpenBao refuses batches of 1,000.
    batch = [{"plaintext": plaintext}] * 250

    def batches(count: int) -> float:
        begun = time.perf_counter()
        for _ in range(count // 250):
            transit.encrypt_data("aes", batch_input=batch)
        return time.perf_counter() - begun

    table.add("hvac, OpenBao: encrypt, batches of 250", 5_000, batches)


PARTS = ["durable", "queued", "asyncio", "ciphers", "aws", "openbao"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure Mini KMS from Python, beside others.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="a tenth of the operations")
    parser.add_argument("--cpu", action="store_true", help="CPU time of this process, for a machine with other load")
    options = parser.parse_args()
    chosen = options.parts or PARTS
    unknown = set(chosen) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    others: dict[str, Callable[[Table, ExitStack], None]] = {
        "asyncio": asyncio_itself,
        "ciphers": lambda table, _: ciphers(table),
        "aws": aws,
        "openbao": openbao,
    }
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        table = Table()
        for part in chosen:
            if part in others:
                try:
                    others[part](table, stack)
                except (ImportError, OSError) as error:
                    print(f"{part} is left out: {type(error).__name__}: {error}")
                continue
            for number, make in enumerate((ours, ours_asynchronous)):
                place = Path(folder) / f"{part}-{number}"
                place.mkdir()
                make(table, stack, str(place), part)
        table.run(10 if options.quick else 1, options.cpu)


if __name__ == "__main__":
    main()
