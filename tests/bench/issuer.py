"""An OpenID Connect issuer on this machine, whose tokens are signed in advance."""

import base64
import hashlib
import http.server
import json
import re
import secrets
import subprocess
import threading
import time

PORT = 18402
URL = f"http://127.0.0.1:{PORT}"
# DigestInfo of SHA-256 (RFC 8017, section 9.2).
SHA256 = bytes.fromhex("3031300d060960864801650304020105000420")


def b64(raw):
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def number(value):
    return b64(value.to_bytes((value.bit_length() + 7) // 8, "big"))


class Key:
    """An RSA key of 2048 bits, made by openssl."""

    def __init__(self):
        made = subprocess.run(["openssl", "genrsa", "2048"], check=True, capture_output=True)
        text = subprocess.run(["openssl", "rsa", "-noout", "-text"], input=made.stdout, check=True, capture_output=True)
        parts = dict(re.findall(r"^(\w+):\n((?:    .*\n)+)", text.stdout.decode(), re.MULTILINE))
        values = {name: int(re.sub(r"[^0-9a-f]", "", part), 16) for name, part in parts.items()}
        self.n, self.e = values["modulus"], 65_537
        self.p, self.q, self.d = values["prime1"], values["prime2"], values["privateExponent"]

    def jwk(self):
        return {"kty": "RSA", "kid": "bench", "alg": "RS256", "use": "sig", "n": number(self.n), "e": number(self.e)}

    def sign(self, message):
        """RSASSA-PKCS1-v1_5 with SHA-256, by the Chinese remainder theorem."""
        digest = SHA256 + hashlib.sha256(message).digest()
        padded = int.from_bytes(b"\0\1" + b"\xff" * (256 - 3 - len(digest)) + b"\0" + digest, "big")
        of_p = pow(padded, self.d % (self.p - 1), self.p)
        of_q = pow(padded, self.d % (self.q - 1), self.q)
        signed = of_q + self.q * ((of_p - of_q) * pow(self.q, -1, self.p) % self.p)
        return signed.to_bytes(256, "big")


class Issuer:
    """Serves its key, and makes tokens for the audience `kms`."""

    def __init__(self):
        self.key = Key()
        documents = {
            "/.well-known/openid-configuration": {"issuer": URL, "jwks_uri": f"{URL}/keys"},
            "/keys": {"keys": [self.key.jwk()]},
        }

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                text = json.dumps(documents.get(self.path, {})).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def token(self, subject, is_forged=False):
        """Returns another token at each call."""
        end = int(time.time()) + 3_600
        claims = {"iss": URL, "aud": "kms", "sub": subject, "exp": end, "jti": secrets.token_hex(8)}
        parts = [{"alg": "RS256", "kid": "bench", "typ": "JWT"}, claims]
        signed = ".".join(b64(json.dumps(part).encode()) for part in parts)
        return f"{signed}.{b64(secrets.token_bytes(256) if is_forged else self.key.sign(signed.encode()))}"

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
