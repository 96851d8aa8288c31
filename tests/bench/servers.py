"""The servers that are compared. Each starts in a folder of its own, and has the request for each kind of work."""

import base64
import json
import os
import subprocess
import time
import urllib.error
import urllib.request

PLAINTEXT = "k" * 256
BATCH = 100
ENCRYPT, DECRYPT, SIGN, MANY = "encrypt", "decrypt", "sign", "encrypt-many"


class Failed(Exception):
    """The error of a server that does not start or responds with an error."""


def b64(text):
    return base64.b64encode(text.encode()).decode()


class Server:
    name = ""
    port = 0

    def __init__(self, folder, binary):
        self.folder = folder / self.name
        self.folder.mkdir(parents=True)
        self.binary = str(binary)
        self.headers = {}
        self.process = None
        self.ciphertext = None
        # For TLS, and settings beside those of all runs.
        self.context = None
        self.settings = {}

    def start(self):
        """Starts it and makes the keys."""
        raise NotImplementedError

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def spawn(self, command, environment=None):
        log = open(self.folder / "server.log", "w", encoding="utf-8")
        self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, env=environment)

    def headers_of(self, kind):
        """The headers of a request of this kind; None is the set-up."""
        del kind
        return self.headers

    def call(self, method, path, body=None, kind=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **self.headers_of(kind)}
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60, context=self.context) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise Failed(f"{self.name}: {method} {path}: {error.code} {error.read()[:300]}") from error
        except OSError as error:
            raise Failed(f"{self.name}: {method} {path}: {error}") from error
        return json.loads(text) if text else None

    def wait(self, path):
        for _ in range(200):
            if self.process.poll() is not None:
                break
            try:
                urllib.request.urlopen(self.url + path, timeout=1, context=self.context).close()
                return
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.1)
        raise Failed(f"{self.name} does not start; see {self.folder / 'server.log'}")

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def work(self, kind):
        """Path and body of a request of this kind, or None if the server has none."""
        raise NotImplementedError

    def check(self, kind):
        """Sends one such request, and fails if the response is an error: errors must not be measured."""
        path, body = self.work(kind)
        return self.call("POST", path, body, kind)


class Bare(Server):
    """Axum and the cryptography alone: the upper limit."""

    name, port = "bare", 18300

    def start(self):
        self.spawn([self.binary, f"127.0.0.1:{self.port}"])
        self.wait("/")

    def work(self, kind):
        return {
            ENCRYPT: ("/encrypt", {"plaintext": PLAINTEXT}),
            MANY: ("/encrypt-many", {"items": [{"plaintext": PLAINTEXT}] * BATCH}),
            SIGN: ("/sign", {"payload": PLAINTEXT}),
        }.get(kind)


class Bao(Server):
    """OpenBao's transit engine on raft storage, with a file audit device (which it does not sync)."""

    name, port = "openbao", 18200

    def start(self):
        data = self.folder / "raft"
        data.mkdir()
        config = self.folder / "server.hcl"
        config.write_text(f"""
storage "raft" {{
  path = "{data}"
  node_id = "bench"
}}
listener "tcp" {{
  address = "127.0.0.1:{self.port}"
  tls_disable = true
}}
audit "file" "file" {{
  options = {{ file_path = "{self.folder / 'audit.log'}" }}
}}
api_addr = "{self.url}"
cluster_addr = "http://127.0.0.1:{self.port + 1}"
""", encoding="utf-8")
        self.spawn([self.binary, "server", f"-config={config}"])
        self.wait("/v1/sys/health")
        self.prepare()

    def prepare(self):
        keys = self.call("PUT", "/v1/sys/init", {"secret_shares": 1, "secret_threshold": 1})
        self.call("PUT", "/v1/sys/unseal", {"key": keys["keys"][0]})
        self.headers = {"X-Vault-Token": keys["root_token"]}
        for _ in range(100):
            try:
                self.call("POST", "/v1/sys/mounts/transit", {"type": "transit"})
                break
            except Failed:
                time.sleep(0.2)
        self.call("POST", "/v1/transit/keys/aes", {"type": "aes256-gcm96"})
        self.call("POST", "/v1/transit/keys/rsa", {"type": "rsa-2048"})
        sealed = self.call("POST", "/v1/transit/encrypt/aes", {"plaintext": b64(PLAINTEXT)})
        self.ciphertext = sealed["data"]["ciphertext"]
        if not (self.folder / "audit.log").stat().st_size:
            raise Failed("openbao writes no audit log")

    def work(self, kind):
        plaintext = b64(PLAINTEXT)
        return {
            ENCRYPT: ("/v1/transit/encrypt/aes", {"plaintext": plaintext}),
            DECRYPT: ("/v1/transit/decrypt/aes", {"ciphertext": self.ciphertext}),
            SIGN: ("/v1/transit/sign/rsa/sha2-256", {"input": plaintext, "signature_algorithm": "pkcs1v15"}),
            MANY: ("/v1/transit/encrypt/aes", {"batch_input": [{"plaintext": plaintext}] * BATCH}),
        }[kind]


class Moto(Server):
    """moto, the emulator of AWS KMS. It stores and logs nothing on disk, and checks no signatures of requests."""

    name, port = "moto", 18500
    TARGETS = {ENCRYPT: "Encrypt", DECRYPT: "Decrypt", SIGN: "Sign"}

    def start(self):
        self.spawn([self.binary, "-H", "127.0.0.1", "-p", str(self.port)])
        self.wait("/moto-api/")
        self.aes = self.make({"KeySpec": "SYMMETRIC_DEFAULT"})
        self.rsa = self.make({"KeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY"})
        self.ciphertext = self.call("POST", "/", self.work(ENCRYPT)[1], ENCRYPT)["CiphertextBlob"]

    def make(self, key):
        return self.call("POST", "/", key)["KeyMetadata"]["KeyId"]

    def headers_of(self, kind):
        scope = "Credential=bench/20260101/us-east-1/kms/aws4_request"
        return {
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": f"TrentService.{self.TARGETS.get(kind, 'CreateKey')}",
            "Authorization": f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0",
        }

    def work(self, kind):
        plaintext = b64(PLAINTEXT)
        algorithm = "RSASSA_PKCS1_V1_5_SHA_256"
        return {
            ENCRYPT: ("/", {"KeyId": self.aes, "Plaintext": plaintext}),
            DECRYPT: ("/", {"KeyId": self.aes, "CiphertextBlob": self.ciphertext}),
            SIGN: ("/", {"KeyId": self.rsa, "Message": plaintext, "SigningAlgorithm": algorithm}),
        }.get(kind)


class Kms(Server):
    """Mini KMS on SQLite; every record is durable before its response."""

    name, port = "kms-http", 18400

    def start(self):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KMS_")}
        environment |= {
            "HOME": str(self.folder),
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            "XDG_DATA_HOME": str(self.folder / "data"),
            "KMS_HTTP_LISTEN": f"127.0.0.1:{self.port}",
        } | self.settings
        command = [self.binary, "init", "--json"]
        made = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            raise Failed(f"kms-http init: {made.stderr}")
        self.headers = {"Authorization": f"Bearer {json.loads(made.stdout)['token']}"}
        self.spawn([self.binary, "serve"], environment)
        self.wait("/v1/healthz")
        self.prepare()

    def prepare(self):
        self.call("POST", "/v1/keys", {"name": "aes", "type": "AES256_GCM", "purpose": "ENCRYPTION"})
        self.call("POST", "/v1/keys", {"name": "rsa", "type": "RSA_2048", "purpose": "SIGNING"})
        sealed = self.call("POST", "/v1/crypto/encrypt", {"keyId": "aes", "plaintext": PLAINTEXT})
        self.ciphertext = sealed["ciphertext"]

    def work(self, kind):
        return {
            ENCRYPT: ("/v1/crypto/encrypt", {"keyId": "aes", "plaintext": PLAINTEXT}),
            DECRYPT: ("/v1/crypto/decrypt", {"keyId": "aes", "ciphertext": self.ciphertext}),
            SIGN: ("/v1/crypto/sign", {"keyId": "rsa", "payload": PLAINTEXT}),
            MANY: ("/v1/crypto/encrypt", {"items": [{"keyId": "aes", "plaintext": PLAINTEXT}] * BATCH}),
        }[kind]
