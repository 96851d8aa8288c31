"""Floods: requests with which one principal can keep the service busy."""

import http.client
import json
import multiprocessing
import os
import subprocess
import urllib.request
from pathlib import Path

import sockets

LOWER = 10
# The kinds of service: over HTTP, over TLS with HTTP/2, with an issuer of JWTs, with keys that are cached for a second.
PLAIN, TLS, OIDC, COLD = "plain", "tls", "oidc", "cold"
# The requests of the victim: encryptions, encryptions with another JWT each time, signatures with a key that all use.
ENCRYPTS, NEW_JWTS, SIGNS = "encrypts", "new JWTs", "signs"


def headers(server, principal):
    token = server.tokens.get(principal, "not-a-token")
    return {"Authorization": f"Bearer {token}"}


def log_size(server):
    """The number of records in the log, according to its checkpoint."""
    request = urllib.request.Request(server.url + "/v1/audit/checkpoint", headers=server.headers)
    with urllib.request.urlopen(request, timeout=60, context=server.context) as answer:
        return int(answer.read().splitlines()[1])


class Client:
    """The victim, one request after the other."""

    def __init__(self, server, principal):
        kind = http.client.HTTPSConnection if server.context else http.client.HTTPConnection
        extra = {"context": server.context} if server.context else {}
        self.connection = kind("127.0.0.1", server.port, timeout=10, **extra)
        self.headers = headers(server, principal) | {"Content-Type": "application/json"}
        self.body = json.dumps({"keyId": "own", "plaintext": "x"})

    def encrypt(self):
        """Whether it was answered."""
        try:
            self.connection.request("POST", "/v1/crypto/encrypt", self.body, self.headers)
            answer = self.connection.getresponse()
            answer.read()
            return answer.status == 200
        except (OSError, http.client.HTTPException):
            self.connection.close()
            return False


class Wrk:
    """Sends one request again and again, by wrk."""

    def __init__(self, server, principal, method, path, body, connections, tokens=None):
        self.file = server.folder / f"{principal}.json"
        of_tokens = "-"
        if tokens is not None:
            of_tokens = server.folder / f"{principal}.tokens"
            of_tokens.write_text("\n".join(tokens) + "\n", encoding="utf-8")
        if body is not None:
            self.file.write_text(body if isinstance(body, str) else json.dumps(body), encoding="utf-8")
        self.url, self.connections, self.process = server.url, connections, None
        self.arguments = [method, path, str(self.file) if body is not None else "-", str(of_tokens),
                          *(f"{name}: {value}" for name, value in headers(server, principal).items())]

    def start(self, wrk, seconds, pause_ms, niceness):
        method, path, file, *rest = self.arguments
        script = Path(__file__).with_name("request.lua")
        command = ["nice", "-n", str(niceness), wrk, "-t1", f"-c{self.connections}", f"-d{seconds}s"]
        command += ["--timeout", "30s"]
        command += ["-s", str(script), self.url, "--", method, path, str(pause_ms), file, *rest]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return self

    def result(self):
        out, err = self.process.communicate()
        lines = [line for line in out.splitlines() if line.startswith("{")]
        if not lines:
            raise RuntimeError(f"wrk: {err}{out}")
        return json.loads(lines[-1])

    def stop(self):
        seen = self.result()
        return f"{seen['requests']:,} ({seen['refused']:,} refused, {seen['broken']:,} broken)"


class Sockets:
    """A flood that wrk cannot send, in a process of its own."""

    def __init__(self, act, server, principal):
        self.done, self.count = multiprocessing.Event(), multiprocessing.Value("q", 0)
        target = sockets.Target(server.port, server.context is not None, headers(server, principal)["Authorization"])
        self.process = multiprocessing.Process(target=self.run, args=(act, target), daemon=True)
        self.process.start()

    def run(self, act, target):
        os.nice(LOWER)
        act(target, self.done, self.count)

    def stop(self):
        self.done.set()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        return f"{self.count.value:,}"


class Requests:
    """A flood of the same request. `kind` is the service that it needs, and `victim` the victim's kind of request."""

    def __init__(self, name, principal, method, path, body=None, connections=64, kind=PLAIN, victim=ENCRYPTS):
        self.name, self.request, self.connections = name, (principal, method, path, body), connections
        self.kind, self.victim = kind, victim

    def start(self, wrk, server, seconds):
        principal, method, path, body = self.request
        if callable(body):
            body = body(server)
        return Wrk(server, principal, method, path, body, self.connections).start(wrk, seconds, 0, LOWER)


class Acts:
    """A flood of the other kind."""

    def __init__(self, name, principal, act, kind=PLAIN):
        self.name, self.principal, self.act, self.kind, self.victim = name, principal, act, kind, ENCRYPTS

    def start(self, _wrk, server, _seconds):
        return Sockets(self.act, server, self.principal)


BAD = {"keyId": "rsa", "payload": "x", "signature": "A" * 342 + "=="}
NEW = {"name": "flood-@N@", "type": "RSA_2048", "purpose": "SIGNING"}
NOTHING = "/v1/audit?limit=1000&requestId=nobody-sent-this&action=KEY_CREATE&status=FAILURE"


SIGNATURES = {"items": [{"keyId": "rsa", "payload": "x"}] * 1000}


def forged(server):
    """A body, with a token in the place of that of the forger."""
    server.tokens["forger of JWTs"] = server.issuer.token("forger", is_forged=True)
    return {"keyId": "own", "plaintext": "x"}


def garbage(_server):
    return {"keyId": "own", "ciphertext": "A" * 2728}


FLOODS = [
    Requests("verifications of the log", "reader", "POST", "/v1/audit/verify", {}, 260),
    Requests("lists of the log", "reader", "GET", "/v1/audit?limit=1000"),
    Requests("filters that match nothing", "reader", "GET", NOTHING),
    Requests("lists of all keys", "reader", "GET", "/v1/keys"),
    Requests("batches of 1,000 bad signatures", "maker", "POST", "/v1/crypto/verify", {"items": [BAD] * 1000}),
    Requests("bad signatures over 100 kB", "maker", "POST", "/v1/crypto/verify", {**BAD, "payload": "x" * 100_000}),
    Requests("single signatures on 400 connections", "maker", "POST", "/v1/crypto/sign",
             {"keyId": "rsa", "payload": "x"}, 400),
    Requests("batches of 1,000 signatures, a shared cold key", "maker", "POST", "/v1/crypto/sign", SIGNATURES, 64, COLD,
             SIGNS),
    Requests("creating RSA keys", "maker", "POST", "/v1/keys", NEW),
    Requests("rotations of one RSA key", "maker", "POST", "/v1/keys/rsa/rotate", {}),
    Requests("batches of 1,000 encryptions", "maker", "POST", "/v1/crypto/encrypt",
             {"items": [{"keyId": "aes", "plaintext": "x" * 256}] * 1000}),
    Requests("single encryptions on 256 connections", "maker", "POST", "/v1/crypto/encrypt",
             {"keyId": "aes", "plaintext": "x" * 256}, 256),
    Requests("calls of 1 MiB", "maker", "POST", "/v1/crypto/encrypt", {"keyId": "aes", "plaintext": "x" * 1_040_000}),
    Requests("calls of 64 MiB, over the limit", "maker", "POST", "/v1/crypto/encrypt",
             {"keyId": "aes", "plaintext": "x" * (64 * 1024 * 1024)}, 16),
    Requests("malformed ciphertexts without the right", "stranger", "POST", "/v1/crypto/decrypt", garbage),
    Requests("failed authentication", "nobody", "POST", "/v1/crypto/encrypt", {"keyId": "own", "plaintext": "x"}),
    Requests("failed authentication, well-formed tokens", "forger", "POST", "/v1/crypto/encrypt",
             {"keyId": "own", "plaintext": "x"}),
    Requests("forged JWTs, victim's JWTs are new", "forger of JWTs", "POST", "/v1/crypto/encrypt", forged, 1_000, OIDC,
             NEW_JWTS),
    Acts("batches, responses not read", "maker", sockets.unread_batches),
    Acts("heads of 30 kB from 2,000 networks", "nobody", sockets.heads_of_networks),
    Acts("slow bodies on 2,000 connections", "maker", sockets.slow_bodies),
    Acts("busy connections, 13,000", "maker", sockets.busy),
    Acts("pipelined requests, answers not read", "nobody", sockets.pipelined),
    Acts("bodies in chunks of one byte", "maker", sockets.tiny_chunks),
    Acts("slow readers on 1,000 connections", "reader", sockets.slow_readers),
    Acts("heads of 30 kB on 10,000 connections", "nobody", sockets.big_heads),
    Acts("silent connections, 15,000", "nobody", sockets.silent),
    Acts("verifications whose callers hang up", "reader", sockets.hang_up_verifications),
    Acts("encryptions whose callers hang up", "maker", sockets.hang_up_encryptions),
    Acts("half TLS handshakes on 5,000 connections", "nobody", sockets.half_handshakes, TLS),
    Acts("TLS handshakes", "nobody", sockets.handshakes, TLS),
    Acts("HTTP/2 pings", "nobody", sockets.http2_pings, TLS),
    Acts("HTTP/2 settings", "nobody", sockets.http2_settings, TLS),
    Acts("HTTP/2 heads without an end", "nobody", sockets.http2_endless_heads, TLS),
    Acts("HTTP/2 heads, never complete", "nobody", sockets.http2_half_heads, TLS),
    Acts("HTTP/2 errors behind a zero window", "nobody", sockets.http2_errors_behind_zero_window, TLS),
    Acts("HTTP/2 resets", "maker", sockets.http2_resets, TLS),
    Acts("HTTP/2 bodies of 8 KiB, never complete", "maker", sockets.http2_bodies, TLS),
    Acts("HTTP/2 answers behind a zero window", "reader", sockets.http2_zero_window, TLS),
]
