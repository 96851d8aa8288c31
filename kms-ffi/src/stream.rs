//! Streams: inputs of any size in constant memory, piece by piece or through callbacks.

use std::ffi::{c_char, c_void};
use std::io::{self, Read, Write};
use std::sync::{Mutex, PoisonError};

use kms_lib::blocking::Session;
use kms_lib::{Context, Error, ErrorCode, StreamDecryptor, StreamEncryptor, StreamSummary, Zeroizing};

use crate::arguments::{self, Extensible};
use crate::boundary::{call, free};
use crate::buffer::mkms_buffer;
use crate::context::{self, mkms_context};
use crate::error::mkms_error;
use crate::failure::{Failure, Outcome};
use crate::handle::{self, Opaque, tag};
use crate::operation::{ID, id};
use crate::session::mkms_session;
use crate::status::mkms_status;

/// The maximum number of bytes that a piece may consist of, so that the memory of a result is bounded by that of the
/// input.
const PIECE: usize = 64 * 1024;

/// The description of an encrypted or decrypted stream. Set `size` to `sizeof(mkms_stream_summary)` before it is
/// filled.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mkms_stream_summary {
    /// `sizeof(mkms_stream_summary)`.
    pub size: usize,
    /// The number of plaintext bytes.
    pub plaintext_bytes: u64,
    /// The sequence number of the audit record of the stream's data key; 0 if it is not written yet.
    pub record: u64,
    /// The version of the key.
    pub version: u32,
    /// The identifier of the key, with a NUL at its end.
    pub key_id: [c_char; 37],
}

// SAFETY: integers; the size comes first.
unsafe impl Extensible for mkms_stream_summary {
    const NAME: &'static str = "mkms_stream_summary";
}

impl From<StreamSummary> for mkms_stream_summary {
    fn from(summary: StreamSummary) -> Self {
        let key_id: [c_char; ID] = id(summary.key);
        let record = summary.receipt.seq;
        Self { size: 0, plaintext_bytes: summary.bytes, record, version: summary.version, key_id }
    }
}

/// Reads input: fills up to `capacity` bytes of `buffer`, and sets `*read` to their number; 0 at the end. Returns 0, or
/// another number if reading failed, which the error message contains. No exception may leave the callback.
pub type mkms_read =
    Option<unsafe extern "C" fn(user: *mut c_void, buffer: *mut u8, capacity: usize, read: *mut usize) -> i32>;

/// Writes all `length` bytes of `data`. Returns 0, or another number if writing failed, which the error message
/// contains. No exception may leave the callback.
pub type mkms_write = Option<unsafe extern "C" fn(user: *mut c_void, data: *const u8, length: usize) -> i32>;

/// The callbacks of a caller, and the pointer that is passed to them.
struct Callbacks {
    read: unsafe extern "C" fn(*mut c_void, *mut u8, usize, *mut usize) -> i32,
    write: unsafe extern "C" fn(*mut c_void, *const u8, usize) -> i32,
    user: *mut c_void,
}

struct Input<'a>(&'a Callbacks);
struct Output<'a>(&'a Callbacks);

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        // SAFETY: the caller keeps the contract of the header: the callback is a function of this type.
        let status = unsafe { (self.0.read)(self.0.user, buffer.as_mut_ptr(), buffer.len(), &raw mut read) };
        match status {
            0 if read <= buffer.len() => Ok(read),
            0 => Err(io::Error::other("the read callback returned a length beyond the buffer")),
            status => Err(io::Error::other(format!("the read callback returned {status}"))),
        }
    }
}

impl Write for Output<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if data.is_empty() {
            return Ok(0);
        }
        // SAFETY: the caller keeps the contract of the header: the callback is a function of this type.
        match unsafe { (self.0.write)(self.0.user, data.as_ptr(), data.len()) } {
            0 => Ok(data.len()),
            status => Err(io::Error::other(format!("the write callback returned {status}"))),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// # Safety
/// The callbacks are NULL or functions of their types.
unsafe fn callbacks(read: mkms_read, write: mkms_write, user: *mut c_void, _name: &str) -> Outcome<Callbacks> {
    let (Some(read), Some(write)) = (read, write) else {
        return Err(Failure::null(if read.is_none() { "read" } else { "write" }));
    };
    Ok(Callbacks { read, write, user })
}

/// Encrypts all input of `read`, and passes the ciphertext to `write`, in constant memory. After an error, the output
/// is incomplete, and decrypting it fails. `user` is passed to the callbacks, which are called on this thread.
///
/// `context`, `user` and `summary` may be NULL.
///
/// Errors: those of `mkms_encrypt`, `MKMS_INPUT_OUTPUT` if a callback failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_encrypt_stream(
    session: *const mkms_session,
    key: *const c_char,
    key_len: usize,
    context: *const mkms_context,
    read: mkms_read,
    write: mkms_write,
    user: *mut c_void,
    summary: *mut mkms_stream_summary,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    key = arguments::text [key, key_len];
    context = context::read [context];
    callbacks = callbacks [read, write, user];
    summary = arguments::optional_filled [summary];
    => {
        let (input, output) = (&mut Input(&callbacks), &mut Output(&callbacks));
        let done = session.session.encrypt_reader(key, &context, input, output)?;
        summary.set(|| done.into());
        Ok(())
    })
}

/// Decrypts all input of `read`, and passes the plaintext to `write`, in constant memory. The output is authentic, but
/// it is complete only if the call returns `MKMS_OK`: do not act on it earlier. `user` is passed to the callbacks,
/// which are called on this thread.
///
/// `context`, `user` and `summary` may be NULL.
///
/// Errors: those of `mkms_decrypt`, `MKMS_INPUT_OUTPUT` if a callback failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_decrypt_stream(
    session: *const mkms_session,
    context: *const mkms_context,
    read: mkms_read,
    write: mkms_write,
    user: *mut c_void,
    summary: *mut mkms_stream_summary,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    context = context::read [context];
    callbacks = callbacks [read, write, user];
    summary = arguments::optional_filled [summary];
    => {
        let (input, output) = (&mut Input(&callbacks), &mut Output(&callbacks));
        let done = session.session.decrypt_reader(&context, input, output)?;
        summary.set(|| done.into());
        Ok(())
    })
}

/// A stream that is being encrypted piece by piece. Its calls take turns if several threads make them.
pub struct mkms_encryptor {
    _opaque: (),
}

impl Opaque for mkms_encryptor {
    type Value = Mutex<Option<StreamEncryptor>>;
    const TAG: u64 = tag(b"mkmsencr");
    const NAME: &'static str = "mkms_encryptor";
    const BOUND_TO_PROCESS: bool = true;
}

/// Begins to encrypt a stream under the current version of a key, bound to `context`. One audit record is written, for
/// the stream's data key. The caller frees the encryptor with `mkms_encryptor_free`.
///
/// `context` may be NULL.
///
/// Errors: those of `mkms_encrypt`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_encryptor_new(
    session: *const mkms_session,
    key: *const c_char,
    key_len: usize,
    context: *const mkms_context,
    encryptor: *mut *mut mkms_encryptor,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    key = arguments::text [key, key_len];
    context = context::read [context];
    encryptor = arguments::place [encryptor];
    => {
        encryptor.set(handle::new(Mutex::new(Some(session.session.encrypt_stream(key, &context)?))));
        Ok(())
    })
}

/// Takes plaintext of any length, and returns the ciphertext that is ready, which is often empty. The caller frees it
/// with `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT` after the end and for a piece for which memory is insufficient,
/// `MKMS_PLAINTEXT_TOO_LONG`, `MKMS_USED_AFTER_FORK`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_encryptor_update(
    encryptor: *const mkms_encryptor,
    plaintext: *const u8,
    plaintext_len: usize,
    ciphertext: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    encryptor = handle::get_here [encryptor];
    plaintext = arguments::bytes [plaintext, plaintext_len];
    ciphertext = arguments::place [ciphertext];
    => {
        let mut stream = encryptor.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = room(plaintext.len())?;
        stream.as_mut().ok_or_else(ended)?.update(plaintext, &mut out)?;
        ciphertext.set(handle::new(out));
        Ok(())
    })
}

/// Ends the stream and returns the rest of the ciphertext; without it, decryption fails. The caller frees it with
/// `mkms_buffer_free`.
///
/// `summary` may be NULL.
///
/// Errors: `MKMS_INVALID_ARGUMENT` after the end, `MKMS_USED_AFTER_FORK`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_encryptor_finish(
    encryptor: *const mkms_encryptor,
    ciphertext: *mut *mut mkms_buffer,
    summary: *mut mkms_stream_summary,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    encryptor = handle::get_here [encryptor];
    ciphertext = arguments::place [ciphertext];
    summary = arguments::optional_filled [summary];
    => {
        let stream = encryptor.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or_else(ended)?;
        let mut out = Zeroizing::new(Vec::with_capacity(2 * PIECE));
        let done = stream.finish(&mut out)?;
        summary.set(|| done.into());
        ciphertext.set(handle::new(out));
        Ok(())
    })
}

/// Frees an encryptor and sets `*encryptor` to NULL. NULL and a pointer to NULL are ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_encryptor_free(encryptor: *mut *mut mkms_encryptor) -> mkms_status {
    free!(encryptor)
}

/// A stream that is being decrypted piece by piece. Its calls take turns if several threads make them.
pub struct mkms_decryptor {
    _opaque: (),
}

/// The state of a stream that is being decrypted.
pub enum Decryption {
    /// The header of the stream is not complete yet.
    Header {
        /// The session that decrypts the data key.
        session: Session,
        /// The context that the stream is bound to.
        context: Context,
        /// The part of the header that was read.
        beginning: Vec<u8>,
    },
    /// The header of the stream was read.
    Body(StreamDecryptor),
    /// The stream has ended or failed.
    Ended,
}

impl Opaque for mkms_decryptor {
    type Value = Mutex<Decryption>;
    const TAG: u64 = tag(b"mkmsdecr");
    const NAME: &'static str = "mkms_decryptor";
    const BOUND_TO_PROCESS: bool = true;
}

/// Begins to decrypt a stream that is bound to `context`. The data key is decrypted, with one record, once the header
/// of the stream is complete. The caller frees the decryptor with `mkms_decryptor_free`.
///
/// `context` may be NULL.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_USED_AFTER_FORK`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_decryptor_new(
    session: *const mkms_session,
    context: *const mkms_context,
    decryptor: *mut *mut mkms_decryptor,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get_here [session];
    context = context::read [context];
    decryptor = arguments::place [decryptor];
    => {
        context.check()?;
        let (session, context) = (session.session.clone(), context.into_owned());
        let begun = Decryption::Header { session, context, beginning: Vec::new() };
        decryptor.set(handle::new(Mutex::new(begun)));
        Ok(())
    })
}

/// Takes ciphertext of any length, and returns the plaintext that is ready, which is often empty. It is authentic, but
/// it is complete only when `mkms_decryptor_finish` returns `MKMS_OK`: do not act on it earlier. The caller frees it
/// with `mkms_buffer_free`, which wipes it.
///
/// Errors: those of `mkms_decrypt`, `MKMS_INVALID_ARGUMENT` after the end or another error, and for a piece for which
/// memory is insufficient.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_decryptor_update(
    decryptor: *const mkms_decryptor,
    ciphertext: *const u8,
    ciphertext_len: usize,
    plaintext: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    decryptor = handle::get_here [decryptor];
    ciphertext = arguments::bytes [ciphertext, ciphertext_len];
    plaintext = arguments::place [plaintext];
    => {
        let mut stream = decryptor.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = room(ciphertext.len())?;
        // An error ends the stream.
        let (next, result) = std::mem::replace(&mut *stream, Decryption::Ended).take(ciphertext, &mut out);
        *stream = next;
        result?;
        plaintext.set(handle::new(out));
        Ok(())
    })
}

impl Decryption {
    /// Processes ciphertext and returns the new state of the stream.
    fn take(self, ciphertext: &[u8], out: &mut Zeroizing<Vec<u8>>) -> (Self, Outcome<()>) {
        match self.advance(ciphertext, out) {
            Ok(next) => (next, Ok(())),
            Err(failure) => (Self::Ended, Err(failure)),
        }
    }
    fn advance(self, ciphertext: &[u8], out: &mut Zeroizing<Vec<u8>>) -> Outcome<Self> {
        match self {
            Self::Ended => Err(ended()),
            Self::Body(mut stream) => {
                stream.update(ciphertext, out)?;
                Ok(Self::Body(stream))
            }
            Self::Header { session, context, mut beginning } => {
                // The header has a few hundred bytes; of input without a valid header, no more than one piece is kept.
                let (head, rest) = ciphertext.split_at(ciphertext.len().min(PIECE));
                beginning.extend_from_slice(head);
                match session.decrypt_stream(&beginning, &context)? {
                    None => Ok(Self::Header { session, context, beginning }),
                    Some((mut stream, length)) => {
                        stream.update(&beginning[length..], out)?;
                        stream.update(rest, out)?;
                        Ok(Self::Body(stream))
                    }
                }
            }
        }
    }
}

/// Ends the stream and returns the rest of the plaintext. `MKMS_OK` means that the stream was complete. The caller
/// frees the plaintext with `mkms_buffer_free`, which wipes it.
///
/// `summary` may be NULL.
///
/// Errors: `MKMS_DECRYPTION_FAILED` if the stream was cut or altered, `MKMS_INVALID_CIPHERTEXT` if it ends within its
/// header, `MKMS_INVALID_ARGUMENT` after the end or another error, `MKMS_USED_AFTER_FORK`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_decryptor_finish(
    decryptor: *const mkms_decryptor,
    plaintext: *mut *mut mkms_buffer,
    summary: *mut mkms_stream_summary,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    decryptor = handle::get_here [decryptor];
    plaintext = arguments::place [plaintext];
    summary = arguments::optional_filled [summary];
    => {
        let mut place = decryptor.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = match std::mem::replace(&mut *place, Decryption::Ended) {
            Decryption::Body(stream) => stream,
            Decryption::Ended => return Err(ended()),
            Decryption::Header { .. } => {
                let text = "the stream is empty or ends within its header";
                return Err(Error::new(ErrorCode::InvalidCiphertext, text).into());
            }
        };
        let mut out = Zeroizing::new(Vec::with_capacity(2 * PIECE));
        let done = stream.finish(&mut out)?;
        summary.set(|| done.into());
        plaintext.set(handle::new(out));
        Ok(())
    })
}

/// Frees a decryptor and sets `*decryptor` to NULL. NULL and a pointer to NULL are ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_decryptor_free(decryptor: *mut *mut mkms_decryptor) -> mkms_status {
    free!(decryptor)
}

/// Allocates a buffer for the result of a piece of this length.
fn room(length: usize) -> Outcome<Zeroizing<Vec<u8>>> {
    let mut out = Zeroizing::new(Vec::new());
    out.try_reserve_exact(length.saturating_add(2 * PIECE)).map_err(|_| {
        Failure::invalid(format!("there is no memory for a piece of {length} bytes; pass smaller ones"))
    })?;
    Ok(out)
}

fn ended() -> Failure {
    Failure::invalid("the stream was ended, or has failed before")
}
