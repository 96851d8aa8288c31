//! Programs in C and C++ against the shared library: compiled pedantically by gcc and clang, run as they are, with
//! sanitizers, and under valgrind.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use support::{Bench, has, is_full, source};

const PROGRAMS: [&str; 8] =
    ["life.c", "admin.c", "import.c", "misuse.c", "threads.c", "fork.c", "panic.c", "wrapper.cpp"];

/// Valgrind counts what is lost for good; threads of the runtime that end with the process leave what is reachable.
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
fn programs_of_every_compiler_succeed() {
    let bench = Bench::new();
    for name in PROGRAMS {
        for compiler in compilers(name) {
            let program = bench.compile(compiler, &source(name), &[]);
            let output = bench.run(&[], &program);
            assert!(output.stdout.ends_with(b"ok\n"), "{name} of {compiler}");
        }
    }
}

#[test]
fn sanitizers_find_nothing() {
    let bench = Bench::new();
    let undefined = ["-fsanitize=undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"];
    let both = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"];
    // fork.c without the address sanitizer: its allocator does not survive a fork beside other threads before GCC 14
    // and LLVM 17.
    for name in ["life.c", "admin.c", "import.c", "misuse.c", "threads.c", "wrapper.cpp", "fork.c"] {
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
    // The long run: all of them. fork.c is left out: a child that leaks on purpose is what it is about.
    let programs: &[&str] = if is_full() { &["life.c", "misuse.c", "threads.c", "wrapper.cpp"] } else { &["misuse.c"] };
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
