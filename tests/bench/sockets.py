"""Misbehaving callers: floods that need sockets of their own."""

import json
import resource
import selectors
import socket
import ssl
import struct
import time
from dataclasses import dataclass

ENCRYPT = json.dumps({"keyId": "aes", "plaintext": "x" * 256})


@dataclass
class Target:
    """The address of the service, and the credential for it."""

    port: int
    is_secure: bool
    authorization: str

    def connect(self, receive_buffer=None, source=None):
        raw = socket.socket()
        raw.settimeout(5)
        if source:
            raw.bind((source, 0))
        if receive_buffer:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        raw.connect(("127.0.0.1", self.port))
        if not self.is_secure:
            return raw
        context = ssl._create_unverified_context()
        context.set_alpn_protocols(["h2"])
        return context.wrap_socket(raw)

    def head(self, method, path, length=None):
        lines = [f"{method} {path} HTTP/1.1", "host: localhost", f"authorization: {self.authorization}"]
        if length is not None:
            lines += ["content-type: application/json", f"content-length: {length}"]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


def many(target, done, count, most, begin, drip=b"", receive_buffer=None, networks=0):
    """Holds this many connections: begins each with some bytes, and once a second sends a little more on each. One that
    the service closes is opened again. The connections come from as many addresses of this machine as `networks`."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    most = min(most, limit - 100)
    open_ones, dripped = [], time.monotonic()
    selector = selectors.DefaultSelector()
    while not done.is_set():
        try:
            while len(open_ones) < most and not done.is_set():
                n = count.value % networks if networks else 0
                one = target.connect(receive_buffer, f"127.1.{n // 250}.{n % 250 + 1}" if networks else None)
                one.setblocking(False)
                if begin:
                    one.send(begin)
                # The service never sends anything before it closes, or what it sends is not read.
                if receive_buffer is None:
                    selector.register(one, selectors.EVENT_READ)
                open_ones.append(one)
                count.value += 1
        except OSError:
            time.sleep(0.05)
        closed = {key.fileobj for key, _ in selector.select(0.1)}
        if drip and time.monotonic() - dripped > 1:
            dripped = time.monotonic()
            for one in open_ones:
                try:
                    one.send(drip)
                except BlockingIOError:
                    pass
                except OSError:
                    closed.add(one)
        if closed:
            for one in closed:
                if one in selector.get_map():
                    selector.unregister(one)
                one.close()
            open_ones = [one for one in open_ones if one not in closed]
        time.sleep(0.05)


def slow_bodies(target, done, count):
    begin = target.head("POST", "/v1/crypto/encrypt", 8_000) + b'{"keyId":"' + b"x" * 4_000
    many(target, done, count, 2_000, begin, drip=b"x")


def busy(target, done, count):
    begin = target.head("POST", "/v1/crypto/encrypt", 8_000) + b"{"
    many(target, done, count, 13_000, begin, drip=b" ")


def slow_readers(target, done, count):
    many(target, done, count, 1_000, target.head("GET", "/v1/audit?limit=1000"), receive_buffer=4_096)


def big_heads(target, done, count):
    many(target, done, count, 10_000, b"GET /v1/keys HTTP/1.1\r\nhost: localhost\r\nx-large: " + b"x" * 30_000)


def heads_of_networks(target, done, count):
    begin = b"GET /v1/keys HTTP/1.1\r\nhost: localhost\r\nx-large: " + b"x" * 30_000
    many(target, done, count, 8_000, begin, networks=2_000)


def unread_batches(target, done, count):
    # The response is ten times as long as the request.
    body = json.dumps({"items": [{"keyId": "aes", "plaintext": ""}] * 1_000}, separators=(",", ":")).encode()
    request, held = target.head("POST", "/v1/crypto/encrypt", len(body)) + body, []
    while not done.is_set():
        try:
            one = target.connect(receive_buffer=4_096)
            held.append(one)
            one.sendall(request)
            count.value += 1
        except OSError:
            time.sleep(0.01)
        if len(held) > 500:
            held.pop(0).close()


def silent(target, done, count):
    many(target, done, count, 15_000, b"")


def repeated(target, done, count, begin, part):
    """Sends the same bytes again and again on a few connections, and reads nothing."""
    held = []
    while not done.is_set():
        try:
            while len(held) < 16:
                one = target.connect()
                one.sendall(begin)
                one.setblocking(False)
                held.append(one)
        except OSError:
            time.sleep(0.05)
        sent = 0
        for one in list(held):
            try:
                sent += one.send(part)
            except (BlockingIOError, ssl.SSLWantWriteError):
                pass
            except OSError:
                held.remove(one)
                one.close()
        count.value += sent
        if not sent:
            time.sleep(0.01)


def pipelined(target, done, count):
    repeated(target, done, count, b"", b"GET /v1/healthz HTTP/1.1\r\nhost: localhost\r\n\r\n" * 200)


def tiny_chunks(target, done, count):
    lines = ["POST /v1/crypto/encrypt HTTP/1.1", "host: localhost", f"authorization: {target.authorization}",
             "content-type: application/json", "transfer-encoding: chunked"]
    repeated(target, done, count, ("\r\n".join(lines) + "\r\n\r\n").encode(), b"1\r\n \r\n" * 2_000)


def half_handshakes(target, done, count):
    # The beginning of a handshake record; the rest is never sent.
    plain = Target(target.port, False, target.authorization)
    many(plain, done, count, 5_000, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")


def handshakes(target, done, count):
    while not done.is_set():
        try:
            target.connect().close()
            count.value += 1
        except OSError:
            time.sleep(0.01)


def hang_up(target, done, count, request):
    while not done.is_set():
        try:
            one = target.connect()
            one.sendall(request)
            one.close()
            count.value += 1
        except OSError:
            time.sleep(0.01)


def hang_up_verifications(target, done, count):
    hang_up(target, done, count, target.head("POST", "/v1/audit/verify", 2) + b"{}")


def hang_up_encryptions(target, done, count):
    hang_up(target, done, count, target.head("POST", "/v1/crypto/encrypt", len(ENCRYPT)) + ENCRYPT.encode())


DATA, HEADERS, RESET, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
INITIAL_WINDOW_SIZE = 4


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(text):
    raw = text.encode()
    if len(raw) < 127:
        return bytes([len(raw)]) + raw
    rest, out = len(raw) - 127, [127]
    while rest >= 128:
        out.append(rest % 128 + 128)
        rest //= 128
    return bytes([*out, rest]) + raw


def head_block(target, method, path):
    """Literal fields without indexing (RFC 7541, section 6.2.2)."""
    fields = [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path),
              ("authorization", target.authorization), ("content-type", "application/json")]
    return b"".join(b"\0" + literal(name) + literal(value) for name, value in fields)


def http2(target, window=65_535):
    """A connection that speaks HTTP/2."""
    one = target.connect()
    settings = struct.pack(">HI", INITIAL_WINDOW_SIZE, window)
    one.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, settings) + frame(SETTINGS, ACK, 0, b""))
    return one


def http2_resets(target, done, count):
    block = head_block(target, "GET", "/v1/audit?limit=1000")
    while not done.is_set():
        try:
            one, stream = http2(target), 1
            while not done.is_set() and stream < 2**30:
                burst = b""
                for _ in range(100):
                    burst += frame(HEADERS, END_HEADERS | END_STREAM, stream, block)
                    burst += frame(RESET, 0, stream, struct.pack(">I", 8))
                    stream += 2
                one.sendall(burst)
                count.value += 100
        except OSError:
            time.sleep(0.01)


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b"")


def http2_pings(target, done, count):
    repeated(target, done, count, PREFACE, frame(PING, 0, 0, bytes(8)) * 500)


def http2_settings(target, done, count):
    repeated(target, done, count, PREFACE, frame(SETTINGS, 0, 0, b"") * 500)


def http2_endless_heads(target, done, count):
    begin = PREFACE + frame(HEADERS, 0, 1, head_block(target, "GET", "/v1/keys"))
    repeated(target, done, count, begin, frame(CONTINUATION, 0, 1, b" " * 10) * 500)


def http2_held(target, done, count, connections, bursts, window):
    """Holds this many connections on which no request ends. Each sends one burst after the other: flow control
    lets no more through at once."""
    held = []
    while not done.is_set():
        try:
            for _ in range(min(20, connections - len(held))):
                one = http2(target, window)
                one.setblocking(False)
                held.append([one, 0])
                count.value += 1
        except OSError:
            time.sleep(0.05)
        alive = []
        for one, sent in held:
            try:
                if sent < len(bursts):
                    one.send(bursts[sent])
                    sent += 1
                if not drained(one):
                    continue
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
                pass
            except OSError:
                one.close()
                continue
            alive.append([one, sent])
        held = alive
        time.sleep(0.1)


def drained(one):
    """Reads what has arrived. Returns whether the connection is still open."""
    while one.recv(65_536):
        pass
    one.close()
    return False


def http2_bodies(target, done, count):
    block = head_block(target, "POST", "/v1/crypto/encrypt")
    streams = [frame(HEADERS, END_HEADERS, n, block) + frame(DATA, 0, n, b"x" * 8_000) for n in range(1, 256, 2)]
    http2_held(target, done, count, 400, [b"".join(streams[n : n + 8]) for n in range(0, 128, 8)], 65_535)


def http2_half_heads(target, done, count):
    block = head_block(target, "GET", "/v1/keys") + b"\0" + literal("x-large") + b"\x7f\xff\xff\x00"
    http2_held(target, done, count, 1_000, [frame(HEADERS, 0, 1, block + b"x" * 16_000)[:15_000]], 65_535)


def http2_errors_behind_zero_window(target, done, count):
    block = head_block(target, "GET", "/v1/nowhere")
    burst = b"".join(frame(HEADERS, END_HEADERS | END_STREAM, stream, block) for stream in range(1, 256, 2))
    http2_held(target, done, count, 200, [burst], 0)


def http2_zero_window(target, done, count):
    block = head_block(target, "GET", "/v1/audit?limit=100")
    burst = b"".join(frame(HEADERS, END_HEADERS | END_STREAM, stream, block) for stream in range(1, 256, 2))
    http2_held(target, done, count, 200, [burst], 0)
