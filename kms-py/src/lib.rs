//! `mini_kms._native`: Mini KMS for Python, over the asynchronous interface of `kms-lib`.
//!
//! Nothing here has a rule of its own: arguments, results and errors are translated, and `kms-lib` decides. Each method
//! is written once (`call::Caller`): in the synchronous mode it waits, with the GIL released; in the asynchronous one
//! it gives an asyncio future, which the event loop's own thread completes (`mailbox`). No thread of Rust ever waits
//! for the GIL.

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
mod results;
mod session;
mod settings;
mod stream;

use std::sync::atomic::{AtomicI64, Ordering};

use pyo3::exceptions::PyImportError;
use pyo3::ffi;
use pyo3::prelude::*;

/// Refuses every interpreter of the process but the first that imports the module: classes and caches are shared by
/// all.
fn refuse_subinterpreters(py: Python<'_>) -> PyResult<()> {
    static FIRST: AtomicI64 = AtomicI64::new(-1);
    // SAFETY: this thread is attached to an interpreter.
    let current = unsafe { ffi::PyInterpreterState_Get() };
    // SAFETY: the state is that of a living interpreter.
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

/// The native part of `mini_kms`.
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

    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::refuse_subinterpreters(module.py())?;
        super::errors::maker(module.py()).map(drop)
    }
}
