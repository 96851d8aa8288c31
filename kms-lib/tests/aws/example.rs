//! Runs the example `examples/rust/aws-root-key/main.rs` without changes.

#![allow(dead_code, clippy::print_stdout, reason = "it is a program of its own")]

#[path = "../../../examples/rust/aws-root-key/main.rs"]
mod aws_root_key;

use kms_test_support::test_name;

use crate::{calls, root, with_aws};

#[test]
fn the_example_succeeds() {
    with_aws(test_name!(), async |aws| {
        let (folder, key) = (tempfile::tempdir().unwrap(), aws.admin.create_key());
        aws_root_key::tour(&folder.path().join("kms.db"), root(&aws, &key.arn)).await.unwrap();
        assert!(calls(&aws).len() >= 8);
    });
}
