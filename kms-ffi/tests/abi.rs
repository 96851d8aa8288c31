//! Compares the binary interface with the committed lists in `abi/`: exported symbols, declarations, constants, and
//! sizes and offsets of structs.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::process::Command;

use support::declarations::{Struct, functions, header, structs};
use support::{Bench, built, compare, crate_dir, has, succeed};

/// The functions that are exported only for tests.
const HOOKS: [&str; 1] = ["mkms_test_panic"];

fn exported() -> BTreeSet<String> {
    let output = succeed(Command::new("readelf").args(["--dyn-syms", "-W"]).arg(built().join("libmini_kms.so")));
    let text = String::from_utf8(output.stdout).unwrap();
    let defined = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        // Number, value, size, type, binding, visibility, section, name.
        let is_entry = words.first().is_some_and(|word| word.trim_end_matches(':').parse::<u32>().is_ok());
        (is_entry && words.len() == 8 && words[6] != "UND" && words[4] != "LOCAL").then(|| words[7])
    });
    defined.filter(|name| !HOOKS.contains(name)).map(str::to_owned).collect()
}

#[test]
fn exactly_the_functions_of_the_header_are_exported() {
    if !has("readelf") {
        return;
    }
    let declared: BTreeSet<String> = functions(&header()).into_iter().map(|function| function.name).collect();
    assert_eq!(exported(), declared);
    let list: String = declared.iter().map(|name| format!("{name}\n")).collect();
    compare(&list, &crate_dir().join("abi/symbols"));
}

#[test]
fn layouts_and_declarations_have_not_changed() {
    let header = header();
    let mut dump = String::new();
    for function in functions(&header) {
        let parameters: Vec<&str> = function.parameters.iter().map(|(kind, _)| kind.as_str()).collect();
        writeln!(dump, "{}({})", function.name, parameters.join(", ")).unwrap();
    }
    for line in header.lines().filter(|line| line.starts_with("#define MKMS_") && !line.contains("MKMS_VERSION")) {
        writeln!(dump, "{}", line.trim_start_matches("#define ")).unwrap();
    }
    let mut prints = String::new();
    for Struct { name, fields } in structs(&header) {
        writeln!(prints, "    printf(\"{name}: %zu\\n\", sizeof({name}));").unwrap();
        for field in fields {
            let size = format!("sizeof((({name} *)0)->{field})");
            writeln!(prints, "    printf(\"{name}.{field}: %zu, %zu\\n\", offsetof({name}, {field}), {size});")
                .unwrap();
        }
    }
    if !has("gcc") {
        return;
    }
    let bench = Bench::new();
    let source = bench.path("layout.c");
    let program =
        format!("#include <stdio.h>\n#include \"mini_kms.h\"\nint main(void) {{\n{prints}    return 0;\n}}\n");
    fs::write(&source, program).unwrap();
    let program = bench.compile("gcc", &source, &[]);
    dump.push_str(&String::from_utf8(bench.run(&[], &program).stdout).unwrap());
    // The committed sizes and offsets are those of 64-bit platforms.
    assert_eq!(size_of::<usize>(), 8);
    compare(&dump, &crate_dir().join("abi/layout"));
}
