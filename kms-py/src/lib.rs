//! `mini_kms._native`: Mini KMS for Python, over the asynchronous interface of `kms-lib`.
//!
//! This crate translates arguments, results and errors; all rules are in `kms-lib`. Each method is written once
//! (`call::Caller`): in synchronous mode it waits with the GIL released; in asynchronous mode it returns an asyncio
//! future, which the thread of the event loop completes (`mailbox`). No Rust thread ever waits for the GIL.

#![deny(unsafe_op_in_unsafe_fn)]
#![warn(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block)]

mod answer;
mod arguments;
#[cfg(feature = "bench")]
mod bench;
mod buffers;
mod call;
mod config;
mod data_key;
mod engine;
mod errors;
mod kms;
mod logging;
mod mailbox;
mod operation;
mod results;
mod service;
mod session;
mod settings;
mod stream;

use std::sync::atomic::{AtomicI64, Ordering};

use pyo3::exceptions::PyImportError;
use pyo3::ffi;
use pyo3::prelude::*;

/// Refuses every interpreter of the process except the first that imports the module, because interpreters share
/// classes and caches.
fn refuse_subinterpreters(py: Python<'_>) -> PyResult<()> {
    static FIRST: AtomicI64 = AtomicI64::new(-1);
    // SAFETY: this thread is attached to an interpreter.
    let current = unsafe { ffi::PyInterpreterState_Get() };
    // SAFETY: the state belongs to a living interpreter.
    let id = unsafe { ffi::PyInterpreterState_GetID(current) };
    if id < 0 {
        return Err(PyErr::fetch(py));
    }
    match FIRST.compare_exchange(-1, id, Ordering::SeqCst, Ordering::SeqCst) {
        Err(first) if first != id => Err(PyImportError::new_err(
            "mini_kms works in one interpreter of a process; subinterpreters are not supported",
        )),
        _ => Ok(()),
    }
}

/// The native module of the package `mini_kms`.
#[pymodule]
mod _native {
    #[cfg(feature = "bench")]
    #[pymodule_export]
    use super::bench::measure_rust;
    #[pymodule_export]
    use super::config::Config;
    #[pymodule_export]
    use super::data_key::DataKey;
    #[pymodule_export]
    use super::errors::error_codes;
    #[pymodule_export]
    use super::kms::{Kms, open, restore, verify_backup};
    #[pymodule_export]
    use super::logging::{next_events, set_log_level};
    #[pymodule_export]
    use super::results::{
        Ciphertext, Decrypted, Encrypted, Receipt, Reencrypted, Signature, StreamSummary, Verification, Written,
    };
    #[pymodule_export]
    use super::service::close_all;
    #[pymodule_export]
    use super::session::Session;
    #[pymodule_export]
    use super::settings::generate_root_key;
    #[pymodule_export]
    use super::stream::{StreamDecryptor, StreamEncryptor};

    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::refuse_subinterpreters(module.py())?;
        super::errors::maker(module.py()).map(drop)
    }
}
