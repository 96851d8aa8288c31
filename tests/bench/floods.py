#!/usr/bin/env python3
"""Measures how long a caller waits while another principal floods the service, on this machine.

    tests/bench/floods.py [--seconds N] [--only NAME] [--records N] [--json FILE] [--markdown] [--folder PATH]
                          [--no-build | --binaries PATH]

`--only` takes a part of a flood's name, and can be given several times.

The victim sends encryptions of 256 bytes at a steady pace on 4 connections, alone and during each flood. Every record
is durable before its answer. The settings are the defaults. The programs that flood share the cores with the service
and the victim, at a lower priority, as if they ran elsewhere. While the flood goes on, the victim then sends the same
to another server, a bare axum handler that stores nothing (kms-http/examples/bare.rs): what that costs is the doing of
the machine, whose cores are busy, and not of the service. The table shows the victim's p50 and p99, its p99 as a
multiple of its p99 alone (the median of all measurements alone of the same requests), the same of the bare server,
requests of it that failed, the service's largest memory, what the flood added to the log (records) and to the log of
the process, and how long it took after the flood until the victim was served as before.
"""

import argparse
import base64
import json
import os
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import flooding
import issuer
import load
import servers
import tools

CONNECTIONS = 4
# How long each connection of the victim pauses between its requests; longer where each needs a token made in advance.
PAUSE_MS = {flooding.ENCRYPTS: 10, flooding.SIGNS: 20, flooding.NEW_JWTS: 100}
# More tokens than the victim needs.
TOKENS_PER_SECOND = CONNECTIONS * 1000 // 100
# The goals: p99 as a multiple of p99 alone, megabytes, seconds.
SLOWER, MEMORY_MB, RECOVERY = 5, 200, 2


class Tls(servers.Kms):
    """The same service behind TLS, where HTTP/2 is spoken."""

    name, port = "kms-http-tls", 18401

    @property
    def url(self):
        return f"https://127.0.0.1:{self.port}"

    def start(self):
        certificate, key = self.folder / "certificate.pem", self.folder / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-days", "2", "-subj", "/CN=localhost", "-keyout", key, "-out", certificate],
            check=True, capture_output=True)
        key.chmod(0o600)
        self.settings = {"KMS_HTTP_TLS_CERTIFICATE_FILE": str(certificate), "KMS_HTTP_TLS_KEY_FILE": str(key)}
        self.context = ssl._create_unverified_context()
        super().start()


class Oidc(servers.Kms):
    """The same service with an issuer of JWTs."""

    name, port = "kms-http-oidc", 18403

    def start(self):
        self.issuer = issuer.Issuer()
        self.settings = {
            "KMS_HTTP_AUTH": "token,oidc", "KMS_HTTP_TOKEN_PREFIX": "token:", "KMS_HTTP_OIDC_PRINCIPAL_PREFIX": "sso:",
            "KMS_HTTP_OIDC_ISSUER": issuer.URL, "KMS_HTTP_OIDC_AUDIENCES": "kms",
        }
        super().start()

    def stop(self):
        super().stop()
        self.issuer.stop()


class Cold(servers.Kms):
    """The same service, where unwrapped keys leave memory after a second."""

    name, port = "kms-http-cold", 18404

    def start(self):
        self.settings = {"KMS_CACHE_TTL_SECONDS": "1"}
        super().start()


KINDS = {flooding.PLAIN: servers.Kms, flooding.TLS: Tls, flooding.OIDC: Oidc, flooding.COLD: Cold}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=8, help="how long each flood lasts")
    parser.add_argument("--only", action="append", help="only floods whose name has this in it")
    parser.add_argument("--records", type=int, default=20_000, help="how many records the log has before")
    parser.add_argument("--json", type=Path, help="write every measurement to this file")
    parser.add_argument("--markdown", action="store_true", help="also print the table of docs/operations.md")
    folder = tools.REPOSITORY / "target" / "bench"
    parser.add_argument("--folder", type=Path, default=folder, help="on the disk to measure")
    parser.add_argument("--no-build", action="store_true", help="use what is built")
    parser.add_argument("--binaries", type=Path, help="where kms-http is, instead of building it")
    return parser.parse_args()


def start(wrk, kind, folder, binary, records):
    """A service with a victim, principals that flood, and a log."""
    server = kind(folder, binary)
    server.start()
    server.call("POST", "/v1/keys", {"name": "own", "type": "AES256_GCM", "purpose": "ENCRYPTION"})
    server.tokens = {}
    for principal, role in [("victim", "app"), ("reader", "auditor"), ("maker", "admin"), ("stranger", "app")]:
        made = server.call("POST", "/v1/tokens", {"principal": principal, "role": role})
        server.tokens[principal] = made["token"]
    # It has the form of a token, but no principal has it.
    server.tokens["forger"] = "kms_" + base64.urlsafe_b64encode(os.urandom(48)).decode()
    own = "token:victim" if kind is Oidc else "victim"
    grants = [(own, "own", "encrypt"), (own, "rsa", "sign"), ("sso:victim", "own", "encrypt")]
    for principal, key, permission in grants if kind is Oidc else grants[:2]:
        grant = {"principal": principal, "role": "app", "keyId": key, "allowedOps": [permission]}
        server.call("POST", "/v1/grants", grant)
    for _ in range(20):
        server.call("POST", "/v1/keys/rsa/rotate", {})
    filling = flooding.Requests("", "maker", "POST", "/v1/crypto/encrypt", {"keyId": "aes", "plaintext": "x"})
    while flooding.log_size(server) < records:
        filling.start(wrk, server, 2).stop()
    return server


def victim(wrk, server, seconds, asks):
    """Prepares what the victim sends. The function that it returns sends it, and returns what the victim sees."""
    path, body, tokens = "/v1/crypto/encrypt", {"keyId": "own", "plaintext": servers.PLAINTEXT}, None
    if asks == flooding.SIGNS:
        path, body = "/v1/crypto/sign", {"keyId": "rsa", "payload": servers.PLAINTEXT}
    if asks == flooding.NEW_JWTS:
        tokens = [server.issuer.token("victim") for _ in range(seconds * TOKENS_PER_SECOND + CONNECTIONS)]
    asked = flooding.Wrk(server, "victim", "POST", path, body, CONNECTIONS, tokens)
    return lambda: asked.start(wrk, seconds, PAUSE_MS[asks], niceness=0).result()


def bystander(folder, binary):
    """A bare server with requests of the victim, or None if it is not built."""
    if not binary.exists():
        return tools.skip("the bare server", "it is not built")
    server = servers.Bare(folder, binary)
    server.start()
    server.tokens = {}
    return server


def beside_bare(wrk, bare, seconds):
    """The latencies of the bare server that the victim measures."""
    path, body = bare.work(servers.ENCRYPT)
    asked = flooding.Wrk(bare, "victim", "POST", path, body, CONNECTIONS)
    return asked.start(wrk, seconds, PAUSE_MS[flooding.ENCRYPTS], niceness=0).result()


def recovery(server, limit_ms):
    """Seconds until twenty requests of the victim in a row take no longer than this."""
    begun, good, since = time.monotonic(), 0, time.monotonic()
    client = flooding.Client(server, "victim")
    while good < 20 and time.monotonic() - begun < 60:
        sent = time.monotonic()
        is_good = client.encrypt() and (time.monotonic() - sent) * 1000 <= limit_ms
        good = good + 1 if is_good else 0
        if not is_good:
            since = time.monotonic()
    return since - begun if good == 20 else float("inf")


def measure(wrk, server, bare, flood, seconds):
    """One flood: measures the victim alone, then during the flood, then until its latency is as before."""
    alone = victim(wrk, server, seconds, flood.victim)()
    bare_alone = beside_bare(wrk, bare, seconds) if bare else None
    asking = victim(wrk, server, seconds, flood.victim)
    pid, log = server.process.pid, server.folder / "server.log"
    records, bytes_before = flooding.log_size(server), log.stat().st_size
    watch = load.Watch(pid)
    watch.start()
    running = flood.start(wrk, server, 3 + (2 if bare else 1) * seconds)
    # Waits until the flood has begun.
    time.sleep(1.5)
    beside = asking()
    bare_beside = beside_bare(wrk, bare, seconds) if bare else None
    told = running.stop()
    watch.done.set()
    watch.join()
    back = recovery(server, max(3 * alone["p99_us"] / 1000, 10))
    return {
        "flood": flood.name,
        "of": f"{flood.kind}, {flood.victim}",
        "alone_p50_ms": alone["p50_us"] / 1000,
        "alone_p99_ms": alone["p99_us"] / 1000,
        "p50_ms": beside["p50_us"] / 1000,
        "p99_ms": beside["p99_us"] / 1000,
        "bare_p99_ms": bare_beside["p99_us"] / 1000 if bare else None,
        "bare_slower": bare_beside["p99_us"] / bare_alone["p99_us"] if bare else None,
        "requests": beside["requests"],
        "failed": beside["refused"] + beside["broken"],
        "memory_mb": watch.most / 1e6,
        "records": flooding.log_size(server) - records - beside["requests"],
        "log_bytes": log.stat().st_size - bytes_before,
        "recovery_s": back,
        "flood_requests": told,
    }


def compare(rows):
    """Notes for each flood the p99 as a multiple of the p99 alone: one measurement alone varies too much."""
    for row in rows:
        alone = [other["alone_p99_ms"] for other in rows if other["of"] == row["of"]]
        row["slower"] = row["p99_ms"] / statistics.median(alone)


def of_bare(row):
    """The p99 of the victim of the bare server during the same flood, and as a multiple of its p99 alone."""
    return "-" if row["bare_p99_ms"] is None else f"{row['bare_p99_ms']:.1f} ms, {row['bare_slower']:.1f} x"


def table(rows):
    head = (f"{'flood':44} {'p50 ms':>7} {'p99 ms':>8} {'of alone':>8} {'bare p99':>16} {'failed':>6} {'MB':>5}"
            f" {'records':>8} {'log KB':>7} {'back s':>6}  flood's requests")
    lines = [head, "-" * len(head)]
    for row in rows:
        goals = [("p99", row["slower"], SLOWER), ("memory", row["memory_mb"], MEMORY_MB),
                 ("recovery", row["recovery_s"], RECOVERY)]
        missed = [name for name, value, most in goals if value > most]
        missed += ["failures"] * (row["failed"] > 0)
        lines.append(
            f"{row['flood']:44} {row['p50_ms']:7.2f} {row['p99_ms']:8.2f} {row['slower']:6.1f} x"
            f" {of_bare(row):>16} {row['failed']:6}"
            f" {row['memory_mb']:5.0f} {row['records']:8,} {row['log_bytes'] / 1000:7.1f} {row['recovery_s']:6.2f}"
            f"  {row['flood_requests']}{'   MISSED: ' + ', '.join(missed) if missed else ''}"
        )
    alone = [f"{statistics.median(row[f'alone_{p}_ms'] for row in rows):.2f} ms" for p in ("p50", "p99")]
    return "\n".join([*lines, "", f"alone: p50 {alone[0]}, p99 {alone[1]} (medians over the runs)"])


def markdown(rows):
    """The table of docs/operations.md."""
    lines = ["| flood by another principal | p50 ms | p99 ms | p99 of alone | p99 of a bare server | memory MB"
             " | recovery s |",
             "| --- | --- | --- | --- | --- | --- | --- |"]
    lines += [f"| {row['flood']} | {row['p50_ms']:.1f} | {row['p99_ms']:.0f} | {row['slower']:.1f} x"
              f" | {of_bare(row)} | {row['memory_mb']:.0f} | {row['recovery_s']:.1f} |" for row in rows]
    met = [sum(row[name] <= most for row in rows) for name, most in
           [("slower", SLOWER), ("memory_mb", MEMORY_MB), ("recovery_s", RECOVERY)]]
    failed = sum(row["failed"] for row in rows)
    lines += ["", f"Goals met of {len(rows)}: p99 {met[0]}, memory {met[1]}, recovery {met[2]}."
                  f" Failed requests of the victim: {failed}."]
    return "\n".join(lines)


def main():
    options = arguments()
    wrk = tools.wrk()
    if wrk is None:
        sys.exit("wrk is missing and cannot be installed from here")
    build = not options.no_build and options.binaries is None
    if build and not tools.built("-p", "kms-http", "--bin", "kms-http", "--example", "bare"):
        sys.exit("kms-http does not build")
    binaries = options.binaries or tools.target()
    binary = binaries / "kms-http"
    only = options.only or [""]
    floods = [flood for flood in flooding.FLOODS if any(part in flood.name for part in only)]
    options.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="floods-", dir=options.folder))
    rows, running = [], []
    bare = bystander(folder, binaries / "examples" / "bare")
    try:
        for flood in floods:
            # Each flood gets a new service, so that the memory measured is due to this flood alone.
            running.append(start(wrk, KINDS[flood.kind], folder / str(len(rows)), binary, options.records))
            tools.say(f"{flood.name}")
            rows.append(measure(wrk, running[-1], bare, flood, options.seconds))
            running.pop().stop()
        compare(rows)
        print(f"\n{os.cpu_count()} cores; load before the table {os.getloadavg()[0]:.1f};"
              f" making 4 KiB durable takes {load.sync_milliseconds(folder):.2f} ms; floods of {options.seconds} s\n")
        print(table(rows))
        if options.markdown:
            print("\n" + markdown(rows))
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    finally:
        for server in running + [bare] * (bare is not None):
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
