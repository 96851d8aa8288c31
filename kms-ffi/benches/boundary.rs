//! The cost of the C boundary: the same calls on one service through the functions of the header and through the
//! blocking Rust interface, in turns, and raw AES-256-GCM of OpenSSL beside them (`openssl speed`).
//!
//! `cargo bench -p kms-ffi` prints the table of docs/c.md.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::ffi::c_char;
use std::hint::black_box;
use std::process::Command;
use std::ptr::{null, null_mut};
use std::time::Instant;

use kms_lib::blocking::Session;
use kms_lib::{AuditAck, Context, NewKey};
use mini_kms::config::{mkms_config, mkms_config_audit_ack, mkms_config_free, mkms_config_new};
use mini_kms::config_root_keys::mkms_config_root_key_bytes;
use mini_kms::crypto::{mkms_decrypt_into, mkms_encrypt_into};
use mini_kms::kms::{mkms_close, mkms_kms, mkms_kms_free, mkms_open};
use mini_kms::operation::mkms_operation;
use mini_kms::session::{MKMS_ROLE_ADMIN, mkms_session, mkms_session_free, mkms_session_new};
use mini_kms::status::{MKMS_BUFFER_TOO_SMALL, MKMS_OK};
use mini_kms::test_hooks::{rust_decrypt, rust_encrypt, rust_session};

const KEY: &str = "users";
const PLAINTEXT: [u8; 256] = [42; 256];

/// One service, with a session for both interfaces. Of two services, one always has the luckier memory, store and
/// ledger, by more than the boundary costs.
struct Service {
    kms: *mut mkms_kms,
    session: *mut mkms_session,
    rust: Session,
    _folder: tempfile::TempDir,
}

impl Service {
    fn open(ack: AuditAck) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = match ack {
            AuditAck::Queued => "queued",
            _ => "durable",
        };
        let (kms, session) = open_c(&format!("sqlite:{}", folder.path().join("kms.db").display()), name);
        // SAFETY: the session was just made.
        let rust = unsafe { rust_session(session) }.unwrap();
        rust.create_key(NewKey::aes(KEY)).unwrap();
        Self { kms, session, rust, _folder: folder }
    }
}

fn open_c(url: &str, ack: &str) -> (*mut mkms_kms, *mut mkms_session) {
    let (mut config, mut kms, mut session): (*mut mkms_config, _, _) = (null_mut(), null_mut(), null_mut());
    let text = |text: &str| (text.as_ptr().cast::<c_char>(), text.len());
    let ((url, url_len), (ack, ack_len), (name, name_len)) = (text(url), text(ack), text("alice"));
    // SAFETY: pointers and lengths are those of living texts and places.
    unsafe {
        assert_eq!(mkms_config_new(url, url_len, &raw mut config, null_mut()), MKMS_OK);
        assert_eq!(mkms_config_root_key_bytes(config, [7; 32].as_ptr(), 32, null_mut()), MKMS_OK);
        assert_eq!(mkms_config_audit_ack(config, ack, ack_len, null_mut()), MKMS_OK);
        assert_eq!(mkms_open(config, &raw mut kms, null_mut()), MKMS_OK);
        let made = mkms_session_new(kms, name, name_len, MKMS_ROLE_ADMIN, null(), &raw mut session, null_mut());
        assert_eq!(made, MKMS_OK);
        mkms_config_free(&raw mut config);
    }
    (kms, session)
}

impl Drop for Service {
    fn drop(&mut self) {
        // SAFETY: the handles are in use by nobody else.
        unsafe {
            mkms_session_free(&raw mut self.session);
            assert_eq!(mkms_close(self.kms, null_mut()), MKMS_OK);
            mkms_kms_free(&raw mut self.kms);
        }
    }
}

/// Encrypts through the header, with `operation` NULL or filled.
fn encrypt_c(session: *const mkms_session, out: &mut [u8], operation: *mut mkms_operation) -> (i32, usize) {
    let mut length = 0;
    // SAFETY: pointers and lengths are those of living memory.
    let status = unsafe {
        mkms_encrypt_into(
            black_box(session),
            KEY.as_ptr().cast(),
            KEY.len(),
            PLAINTEXT.as_ptr(),
            PLAINTEXT.len(),
            null(),
            out.as_mut_ptr(),
            out.len(),
            &raw mut length,
            operation,
            null_mut(),
        )
    };
    (status, length)
}

fn decrypt_c(session: *const mkms_session, ciphertext: &[u8], out: &mut [u8]) -> i32 {
    let mut length = 0;
    // SAFETY: pointers and lengths are those of living memory.
    unsafe {
        mkms_decrypt_into(
            black_box(session),
            ciphertext.as_ptr(),
            ciphertext.len(),
            null(),
            out.as_mut_ptr(),
            out.len(),
            &raw mut length,
            null_mut(),
            null_mut(),
        )
    }
}

/// Nanoseconds of one call, of so many.
fn each(calls: u32, mut call: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..calls {
        call();
    }
    start.elapsed().as_nanos() as f64 / f64::from(calls)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Both interfaces in turns, so that what the machine does meanwhile meets both: the medians, and the median
/// difference.
fn compare(rounds: usize, mut rust: impl FnMut() -> f64, mut c: impl FnMut() -> f64) -> (f64, f64, f64) {
    let (mut of_rust, mut of_c, mut differences) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let (first, second) = if round % 2 == 0 {
            let a = rust();
            (a, c())
        } else {
            let b = c();
            (rust(), b)
        };
        of_rust.push(first);
        of_c.push(second);
        differences.push(second - first);
    }
    (median(of_rust), median(of_c), median(differences))
}

fn row(what: &str, (rust, c, difference): (f64, f64, f64)) {
    println!("| {what} | {:.2} us | {:.2} us | {difference:.0} ns |", rust / 1000.0, c / 1000.0);
}

fn measure(ack: AuditAck, name: &str, rounds: usize, calls: u32) {
    let service = Service::open(ack);
    let (rust, c, context, mut out) = (&service.rust, service.session, Context::new(), [0; 512]);
    // A fresh service grows its file, its queues and its caches: not what is measured.
    for _ in 0..rounds {
        drop(black_box(rust_encrypt(rust, KEY, &PLAINTEXT, &context).unwrap()));
        assert_eq!(encrypt_c(c, &mut out, null_mut()).0, MKMS_OK);
    }
    let encrypted = compare(
        rounds,
        || each(calls, || drop(black_box(rust_encrypt(rust, KEY, &PLAINTEXT, &context).unwrap()))),
        || each(calls, || assert_eq!(encrypt_c(c, &mut out, null_mut()).0, MKMS_OK)),
    );
    row(&format!("encrypt 256 bytes, {name}"), encrypted);
    // SAFETY: integers alone.
    let mut operation: mkms_operation = unsafe { std::mem::zeroed() };
    operation.size = size_of::<mkms_operation>();
    let described = compare(
        rounds,
        || each(calls, || drop(black_box(rust_encrypt(rust, KEY, &PLAINTEXT, &context).unwrap()))),
        || each(calls, || assert_eq!(encrypt_c(c, &mut out, &raw mut operation).0, MKMS_OK)),
    );
    row(&format!("encrypt 256 bytes, {name}, with an mkms_operation"), described);
    let sealed = rust_encrypt(rust, KEY, &PLAINTEXT, &context).unwrap().ciphertext;
    let decrypted = compare(
        rounds,
        || each(calls, || drop(black_box(rust_decrypt(rust, &sealed, &context).unwrap()))),
        || each(calls, || assert_eq!(decrypt_c(c, &sealed, &mut out), MKMS_OK)),
    );
    row(&format!("decrypt 256 bytes, {name}"), decrypted);
}

/// The boundary alone: all arguments are read, and the call is refused for want of room. It includes making the
/// message.
fn boundary() {
    let service = Service::open(AuditAck::Queued);
    let refused = || assert_eq!(encrypt_c(service.session, &mut [], null_mut()).0, MKMS_BUFFER_TOO_SMALL);
    let samples = (0..21).map(|_| each(100_000, refused));
    println!("| arguments read, call refused for want of room | - | {:.0} ns | - |", median(samples.collect()));
}

fn openssl() {
    let arguments = ["speed", "-mr", "-seconds", "1", "-bytes", "256", "-evp", "aes-256-gcm"];
    let output = Command::new("openssl").args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let bytes: Option<f64> =
        text.lines().rev().find_map(|line| line.strip_prefix("+F:")?.rsplit(':').next()?.parse().ok());
    match bytes {
        Some(bytes) => println!("| raw AES-256-GCM of OpenSSL, 256 bytes | - | {:.0} ns | - |", 256e9 / bytes),
        None => println!("SKIPPED: openssl is not installed"),
    }
}

fn main() {
    println!("| call | Rust | C | median difference |\n| --- | --- | --- | --- |");
    // Call by call: what the ledgers' threads take meanwhile meets few calls of either.
    measure(AuditAck::Queued, "queued", 40_001, 1);
    measure(AuditAck::Durable, "durable", 1_001, 1);
    boundary();
    openssl();
}
