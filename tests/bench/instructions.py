#!/usr/bin/env python3
"""Counts the processor instructions of fixed work, and fails if one needs over 10% more than the committed count.

    tests/bench/instructions.py [--record]

Time depends on the machine and what else runs on it; instructions do not: two runs differ by less than 1%. They are
counted by valgrind's callgrind in kms-lib/benches/instructions.rs, built with the dependencies of the tests, so that
only kms-lib is compiled again, with optimization. Its debug assertions are off, because their checks of pointers would
be half of the count. --record writes the counts to tests/bench/instructions.json, for the compiler and the processor's
vector instructions that are used. Counts of others are not compared. Ends with 77 if there are none to compare with, or
if valgrind is missing.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import tools

RECORDED = Path(__file__).with_suffix(".json")
ALLOWED = 1.10
# By work: the number of repetitions. `commit` writes 64 records, and `verify` has as many records as repetitions.
WORK = {"encrypt": 200, "decrypt": 200, "commit": 20, "verify": 500}
# The status of a run in which another thread did a part of the work.
INCOMPLETE = 3
ATTEMPTS = 5
# The number of codegen units decides what is inlined.
PROFILE = {"opt-level": "2", "codegen-units": "16", "debug-assertions": "false", "overflow-checks": "false"}


def build():
    """The program, built with optimized code of kms-lib and the dependencies of the tests."""
    command = ["cargo", "build", "--locked", "--workspace", "--bench", "instructions", "--message-format=json"]
    for name, value in PROFILE.items():
        command += ["--config", f"profile.dev.package.kms-lib.{name}={value}"]
    environment = os.environ | {"CARGO_PROFILE_DEV_OPT_LEVEL": "0", "CARGO_INCREMENTAL": "0"}
    made = subprocess.run(
        command, cwd=tools.REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    messages = [json.loads(line) for line in made.stdout.splitlines() if line.startswith("{")]
    programs = [one["executable"] for one in messages if one.get("target", {}).get("name") == "instructions"]
    return next(program for program in programs if program)


def count(program, work):
    """The instructions of one repetition."""
    repetitions = WORK[work]
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", "--collect-atstart=no"]
        command += [f"--toggle-collect=*measured_{work}*", program, work, str(repetitions)]
        for _ in range(ATTEMPTS):
            ran = subprocess.run(command, capture_output=True, text=True, check=False)
            if ran.returncode != INCOMPLETE:
                break
    collected = re.search(r"Collected : (\d+)", ran.stderr)
    if ran.returncode != 0 or collected is None or collected[1] == "0":
        sys.exit(f"{work}: nothing was counted: {ran.stderr}{ran.stdout}")
    return int(collected[1]) // repetitions


def compiler():
    """The version of the compiler, and what decides which code of the cryptography runs."""
    version = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    flags = Path("/proc/cpuinfo")
    vectors = " avx2" if flags.exists() and " avx2 " in flags.read_text(encoding="utf-8") else ""
    return f"{version} {os.uname().machine}{vectors}"


def main():
    if shutil.which("valgrind") is None:
        tools.say("valgrind is missing")
        sys.exit(77)
    recorded = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
    record = "--record" in sys.argv
    known = recorded.get(compiler(), {})
    if not known and not record:
        tools.say(f"{RECORDED.name} has no counts for {compiler()}, but for {', '.join(recorded)}")
        sys.exit(77)
    program = build()
    seen, exceeded = {}, []
    for work in WORK:
        seen[work] = count(program, work)
        ratio = seen[work] / known[work] if work in known else 1
        print(f"{work:8} {seen[work]:>12,} instructions  {ratio:.3f} of the committed count", flush=True)
        if ratio > ALLOWED:
            exceeded.append(work)
    if record:
        RECORDED.write_text(json.dumps({compiler(): seen}, indent=2) + "\n", encoding="utf-8")
    elif exceeded:
        sys.exit(f"over {ALLOWED:.0%} of the committed count: {', '.join(exceeded)}; find out why, or commit new counts"
                 " (tests/bench/instructions.py --record) and say why in the commit")


if __name__ == "__main__":
    main()
