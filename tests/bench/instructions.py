#!/usr/bin/env python3
"""Counts the processor instructions of fixed work, and fails if one needs over 10% more than the committed count.

    tests/bench/instructions.py [--record]

Time depends on the machine and what else runs on it; instructions do not. They are counted by valgrind's callgrind in
kms-lib/benches/instructions.rs, built with optimization but without the optimization across crates, which would make
the build minutes longer. --record writes the counts, for the version of the compiler that is used, to
tests/bench/instructions.json. Counts of another version are not compared. Ends with 77 if that is so, or if valgrind is
missing.
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
# By work: the number of repetitions and the functions that are counted.
WORK = {
    "encrypt": (500, ["*measured_encrypt*"]),
    "decrypt": (500, ["*measured_decrypt*"]),
    # The plan of a batch, its rows and its signature. Each repetition has two batches, of 1 and of 64 records.
    "commit": (40, ["kms_lib::ledger::write::*::write::{{closure}}"]),
    "verify": (2_000, ["*measured_verify*"]),
}


def build():
    """The program, built with optimized code of kms-lib and the dependencies of the tests."""
    command = ["cargo", "build", "--locked", "--workspace", "--bench", "instructions", "--message-format=json"]
    command += ["--config", "profile.dev.package.kms-lib.opt-level=3"]
    environment = os.environ | {"CARGO_PROFILE_DEV_OPT_LEVEL": "0"}
    made = subprocess.run(
        command, cwd=tools.REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    messages = [json.loads(line) for line in made.stdout.splitlines() if line.startswith("{")]
    programs = [one["executable"] for one in messages if one.get("target", {}).get("name") == "instructions"]
    return next(program for program in programs if program)


def count(program, work):
    """The instructions of one repetition."""
    repetitions, functions = WORK[work]
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", "--collect-atstart=no"]
        command += [f"--toggle-collect={function}" for function in functions]
        ran = subprocess.run(
            [*command, program, work, str(repetitions)], capture_output=True, text=True, check=False
        )
    collected = re.search(r"Collected : (\d+)", ran.stderr)
    if ran.returncode != 0 or collected is None or collected[1] == "0":
        sys.exit(f"{work}: nothing was counted: {ran.stderr}{ran.stdout}")
    return int(collected[1]) // repetitions


def compiler():
    version = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout
    return f"{version.split()[1]} {os.uname().machine}"


def main():
    if shutil.which("valgrind") is None:
        tools.say("valgrind is missing")
        sys.exit(77)
    recorded = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
    record = "--record" in sys.argv
    known = recorded.get(compiler(), {})
    if not known and not record:
        tools.say(f"{RECORDED.name} has no counts for {compiler()}")
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
