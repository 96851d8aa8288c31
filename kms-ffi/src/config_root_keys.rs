//! Root keys of a configuration.

use std::ffi::c_char;
use std::time::Duration;

use kms_lib::{AwsRootKey, RootKeySource};

use crate::arguments::{self, Extensible};
use crate::boundary::call;
use crate::config::mkms_config;
use crate::error::mkms_error;
use crate::failure::{Failure, Outcome};
use crate::handle;
use crate::status::mkms_status;

/// A key in AWS KMS as a root key, as `docs/aws-kms.md` describes it. The AWS SDK finds the credentials. Set `size` to
/// `sizeof(mkms_aws_root_key)`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mkms_aws_root_key {
    /// `sizeof(mkms_aws_root_key)`.
    pub size: usize,
    /// The key: id, ARN or alias (`alias/NAME`).
    pub key_id: *const c_char,
    /// Length of `key_id`.
    pub key_id_len: usize,
    /// The region; NULL for the region of the ARN, or else of the AWS SDK (`AWS_REGION`, profile, instance metadata).
    pub region: *const c_char,
    /// Length of `region`.
    pub region_len: usize,
    /// The URL of an endpoint other than the region's public one; NULL for none. `http:` is accepted only for this
    /// machine.
    pub endpoint: *const c_char,
    /// Length of `endpoint`.
    pub endpoint_len: usize,
    /// The time limit for one attempt in milliseconds, at most 300,000; 0 for 5 seconds.
    pub attempt_timeout_ms: u64,
    /// The time limit for a call with all its attempts in milliseconds, at most 300,000; 0 for 15 seconds.
    pub timeout_ms: u64,
}

// SAFETY: integers and raw pointers; the size comes first.
unsafe impl Extensible for mkms_aws_root_key {
    const NAME: &'static str = "mkms_aws_root_key";
}

/// Reads a key in AWS KMS. The names are checked when the key is used.
///
/// # Safety
/// As [`arguments::structure`], and the pointers in it are NULL or valid for their lengths.
unsafe fn aws(pointer: *const mkms_aws_root_key, name: &'static str) -> Outcome<AwsRootKey> {
    // SAFETY: as the caller promises.
    let given = unsafe { arguments::structure(pointer, name) }?;
    let field = |pointer, length, name| {
        // SAFETY: as the caller promises.
        unsafe { arguments::optional_text(pointer, length, name) }
    };
    let key_id = field(given.key_id, given.key_id_len, "root_key->key_id")?;
    let mut key = AwsRootKey::new(key_id.ok_or_else(|| Failure::null("root_key->key_id"))?);
    if let Some(region) = field(given.region, given.region_len, "root_key->region")? {
        key = key.region(region);
    }
    if let Some(endpoint) = field(given.endpoint, given.endpoint_len, "root_key->endpoint")? {
        key = key.endpoint(endpoint);
    }
    if given.attempt_timeout_ms > 0 {
        key = key.attempt_timeout(Duration::from_millis(given.attempt_timeout_ms));
    }
    if given.timeout_ms > 0 {
        key = key.timeout(Duration::from_millis(given.timeout_ms));
    }
    Ok(key)
}

/// Reads a key in AWS KMS as a source of root keys.
///
/// # Safety
/// `pointer` is NULL, or points to a struct whose texts can be read for their lengths.
pub unsafe fn aws_source(pointer: *const mkms_aws_root_key, name: &'static str) -> Outcome<RootKeySource> {
    // SAFETY: as the caller promises.
    unsafe { aws(pointer, name) }.map(RootKeySource::aws)
}

/// Sets the root key as text: `passphrase:...`, `base64:...`, `hex:...` or `file:PATH`, as `docs/configuration.md`
/// describes.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_INVALID_ROOT_KEY`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_config_root_key(
    config: *mut mkms_config,
    root_key: *const c_char,
    root_key_len: usize,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; config = handle::get [config]; root_key = arguments::text [root_key, root_key_len]; => {
        config.change(|settings| settings.root_key(root_key))
    })
}

/// Sets the root key as 32 bytes, which are copied.
///
/// Errors: `MKMS_INVALID_ARGUMENT` if there are not exactly 32 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_config_root_key_bytes(
    config: *mut mkms_config,
    root_key: *const u8,
    root_key_len: usize,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; config = handle::get [config]; root_key = arguments::bytes [root_key, root_key_len]; => {
        let key = root_key.try_into().map_err(|_| Failure::invalid("root_key must have exactly 32 bytes"))?;
        config.change(|settings| Ok(settings.root_key_bytes(key)))
    })
}

/// Adds another root key as text: the key of a generation that the store already has, or of one that will be added with
/// `mkms_add_root_key`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_INVALID_ROOT_KEY`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_config_add_root_key(
    config: *mut mkms_config,
    root_key: *const c_char,
    root_key_len: usize,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; config = handle::get [config]; root_key = arguments::text [root_key, root_key_len]; => {
        config.change(|settings| settings.add_root_key(root_key))
    })
}

/// Adds another root key as 32 bytes, which are copied.
///
/// Errors: `MKMS_INVALID_ARGUMENT` if there are not exactly 32 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_config_add_root_key_bytes(
    config: *mut mkms_config,
    root_key: *const u8,
    root_key_len: usize,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; config = handle::get [config]; root_key = arguments::bytes [root_key, root_key_len]; => {
        let key = root_key.try_into().map_err(|_| Failure::invalid("root_key must have exactly 32 bytes"))?;
        config.change(|settings| Ok(settings.add_root_key_bytes(key)))
    })
}

/// Sets a key in AWS KMS as the root key. The library must have been built with the feature `aws-kms`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`. The names and the use of the key are checked when a service is opened.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_config_aws_root_key(
    config: *mut mkms_config,
    root_key: *const mkms_aws_root_key,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; config = handle::get [config]; root_key = aws [root_key]; => {
        config.change(|settings| Ok(settings.aws_root_key(root_key)))
    })
}

/// Adds a key in AWS KMS as another root key, as `mkms_config_add_root_key` does for a local one.
///
/// Errors: those of `mkms_config_aws_root_key`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_config_add_aws_root_key(
    config: *mut mkms_config,
    root_key: *const mkms_aws_root_key,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; config = handle::get [config]; root_key = aws [root_key]; => {
        config.change(|settings| Ok(settings.add_aws_root_key(root_key)))
    })
}
