"""Driving a server with wrk, and watching it meanwhile."""

import json
import os
import subprocess
import threading
import time
from pathlib import Path

from servers import Failed

PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")


def resident(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Watch(threading.Thread):
    """The peak memory of a process while it works."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.most, self.done = pid, 0, threading.Event()

    def run(self):
        while not self.done.wait(0.1):
            try:
                self.most = max(self.most, resident(self.pid))
            except OSError:
                return


def drive(wrk, server, kind, connections, seconds):
    """One measurement."""
    server.check(kind)
    path, body = server.work(kind)
    body_file = server.folder / f"{kind}.json"
    body_file.write_text(json.dumps(body), encoding="utf-8")
    script = Path(__file__).with_name("wrk.lua")
    headers = [f"{name}: {value}" for name, value in server.headers_of(kind).items()]
    command = [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script)]
    command += [server.url + path, "--", str(body_file), *headers]

    pid = server.process.pid
    watch = Watch(pid)
    watch.start()
    used, begun = cpu_seconds(pid), time.monotonic()
    ran = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    took = time.monotonic() - begun
    used = cpu_seconds(pid) - used
    watch.done.set()
    watch.join()

    lines = [line for line in ran.stdout.splitlines() if line.startswith("{")]
    if ran.returncode != 0 or not lines:
        raise Failed(f"wrk against {server.name}: {ran.stderr}{ran.stdout}")
    seen = json.loads(lines[-1])
    if seen["refused"] or seen["broken"] or not seen["requests"]:
        raise Failed(f"{server.name}, {kind} at {connections}: {seen}")
    return {
        "rate": seen["requests"] * 1e6 / seen["microseconds"],
        "p50_ms": seen["p50_us"] / 1000,
        "p99_ms": seen["p99_us"] / 1000,
        "memory_mb": watch.most / 1e6,
        "cpu": 100 * used / took,
    }


def sync_milliseconds(folder):
    """The time to make 4 KiB durable on this disk: the median of 200 writes."""
    path, times = folder / "sync", []
    with open(path, "wb", buffering=0) as file:
        for _ in range(200):
            file.write(b"x" * 4096)
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begun)
    path.unlink()
    return sorted(times)[100] * 1000
