//! Compiles programs in C and C++ with gcc and clang, links them with the shared library, and runs them: plainly, with
//! sanitizers, and under valgrind.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use support::{Bench, has, is_full, source};

const PROGRAMS: [&str; 8] =
    ["cryptography.c", "admin.c", "import.c", "misuse.c", "threads.c", "fork.c", "panic.c", "wrapper.cpp"];

/// Valgrind reports only memory to which no pointer is left: runtime threads that end with the process leave memory
/// that is still reachable.
const VALGRIND: [&str; 6] = [
    "valgrind",
    "--quiet",
    "--error-exitcode=9",
    "--leak-check=full",
    "--errors-for-leak-kinds=definite",
    "--show-leak-kinds=definite",
];

fn compilers(source: &str) -> Vec<&'static str> {
    let all = if source.ends_with(".c") { ["gcc", "clang"] } else { ["g++", "clang++"] };
    all.into_iter().filter(|compiler| has(compiler)).collect()
}

#[test]
fn programs_run_with_every_compiler() {
    let bench = Bench::new();
    for name in PROGRAMS {
        for compiler in compilers(name) {
            let program = bench.compile(compiler, &source(name), &[]);
            let output = bench.run(&[], &program);
            assert!(output.stdout.ends_with(b"ok\n"), "{name}, compiled with {compiler}");
        }
    }
}

#[test]
fn sanitizers_find_nothing() {
    let bench = Bench::new();
    let undefined = ["-fsanitize=undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"];
    let both = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"];
    // fork.c runs without the address sanitizer, whose allocator supports forks of processes with several threads only
    // since GCC 14 and LLVM 17.
    for name in ["cryptography.c", "admin.c", "import.c", "misuse.c", "threads.c", "wrapper.cpp", "fork.c"] {
        let Some(compiler) = compilers(name).first().copied() else { continue };
        let flags = if name == "fork.c" { undefined } else { both };
        let program = bench.compile(compiler, &source(name), &flags);
        bench.run(&[], &program);
    }
}

#[test]
fn valgrind_finds_nothing() {
    if !has("valgrind") {
        return;
    }
    let bench = Bench::new();
    // fork.c is left out, because its child leaks memory on purpose.
    let programs: &[&str] =
        if is_full() { &["cryptography.c", "misuse.c", "threads.c", "wrapper.cpp"] } else { &["misuse.c"] };
    for name in programs {
        let Some(compiler) = compilers(name).first().copied() else { continue };
        let program = bench.compile(compiler, &source(name), &[]);
        bench.run(&VALGRIND, &program);
    }
}

#[test]
fn memory_stays_flat_over_many_calls() {
    if !has("gcc") {
        return;
    }
    let bench = Bench::new();
    let program = bench.compile("gcc", &source("loop.c"), &[]);
    let calls = if is_full() { "1000000" } else { "20000" };
    let output = bench.run(&[program.to_str().unwrap()], std::path::Path::new(calls));
    println!("{}", String::from_utf8_lossy(&output.stdout));
}
