# Shortcuts for the commands of CONTRIBUTING.md (https://just.systems). Nothing here is needed to build or test.

# List the recipes.
default:
    @just --list

# Run the quickstart.
quickstart:
    cargo run -p quickstart

# Run the unit tests.
fast:
    tests/run --fast

# Run all tests but the long random suites.
test:
    tests/run

# Run one suite of kms-lib/tests/engines on an engine: sqlite, mysql or postgres.
suite name engine="sqlite":
    KMS_TEST_ENGINE={{ engine }} cargo test -p kms-lib --test engines {{ name }}

# Check formatting, lints and spelling.
lint:
    cargo fmt --all --check
    cargo clippy --locked --workspace --all-targets -- -D warnings
    tests/spelling

# Build the documentation of all crates.
docs:
    cargo doc --workspace --no-deps --open

# Compare in-process speed with bare SQLite and bare ciphers.
bench:
    cargo bench -p kms-lib --bench kms
