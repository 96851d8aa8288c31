//! The `kms-http` program.

fn main() {}
