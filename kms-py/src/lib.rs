//! `mini_kms._native`: Mini KMS for Python, over the asynchronous interface of `kms-lib`.
//!
//! Nothing here has a rule of its own: arguments, results and errors are translated, and `kms-lib` decides. Each method is
//! written once ([`call::Caller`]): in the synchronous mode it waits, with the GIL released; in the asynchronous one it gives
//! an asyncio future, which the event loop's own thread completes ([`mailbox`]). No thread of Rust ever waits for the GIL.

#![deny(unsafe_op_in_unsafe_fn)]
#![warn(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block)]

mod answer;
mod arguments;
mod buffers;
mod call;
mod config;
mod data_key;
mod engine;
mod errors;
mod kms;
mod logging;
mod mailbox;
mod results;
mod session;
mod settings;
mod stream;

use pyo3::prelude::*;

/// The native part of `mini_kms`.
#[pymodule]
mod _native {
    #[pymodule_export]
    use super::config::Config;
    #[pymodule_export]
    use super::data_key::DataKey;
    #[pymodule_export]
    use super::errors::error_codes;
    #[pymodule_export]
    use super::kms::{Kms, close_all, open, restore, verify_backup};
    #[pymodule_export]
    use super::logging::{next_events, set_log_level};
    #[pymodule_export]
    use super::results::{
        Ciphertext, Decrypted, Encrypted, Receipt, Reencrypted, Signature, StreamSummary, Verification, Written,
    };
    #[pymodule_export]
    use super::session::Session;
    #[pymodule_export]
    use super::settings::generate_root_key;
    #[pymodule_export]
    use super::stream::{StreamDecryptor, StreamEncryptor};
}
