//! The cost of the C boundary: the same calls on one service through the functions of the header and through the
//! blocking Rust interface, in turns, and raw AES-256-GCM of OpenSSL beside them (`openssl speed`).
//!
//! `cargo bench -p kms-ffi --profile dist` prints the table of docs/c.md; with `-- instructions` it counts what the
//! calling thread executes, with valgrind. That does not depend on what else the machine does.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod instructions;

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
#[inline(never)]
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

#[inline(never)]
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

/// The calls that are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Call {
    RustEncrypt,
    Encrypt,
    EncryptDescribed,
    RustDecrypt,
    Decrypt,
}

impl Call {
    const ALL: [Self; 5] = [Self::RustEncrypt, Self::Encrypt, Self::EncryptDescribed, Self::RustDecrypt, Self::Decrypt];

    /// The same call in Rust.
    fn in_rust(self) -> Self {
        match self {
            Self::RustEncrypt | Self::Encrypt | Self::EncryptDescribed => Self::RustEncrypt,
            Self::RustDecrypt | Self::Decrypt => Self::RustDecrypt,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::RustEncrypt | Self::Encrypt => "encrypt 256 bytes",
            Self::EncryptDescribed => "encrypt 256 bytes, with an `mkms_operation`",
            Self::RustDecrypt | Self::Decrypt => "decrypt 256 bytes",
        }
    }
}

/// A service with everything that the calls need.
struct Calls {
    service: Service,
    context: Context,
    sealed: Vec<u8>,
    out: [u8; 512],
    operation: mkms_operation,
}

impl Calls {
    fn new(ack: AuditAck) -> Self {
        let (service, context) = (Service::open(ack), Context::new());
        let sealed = rust_encrypt(&service.rust, KEY, &PLAINTEXT, &context).unwrap().ciphertext;
        // SAFETY: integers alone.
        let mut operation: mkms_operation = unsafe { std::mem::zeroed() };
        operation.size = size_of::<mkms_operation>();
        Self { service, context, sealed, out: [0; 512], operation }
    }

    fn make(&mut self, call: Call) {
        let (rust, c) = (&self.service.rust, self.service.session);
        match call {
            Call::RustEncrypt => drop(black_box(rust_encrypt(rust, KEY, &PLAINTEXT, &self.context).unwrap())),
            Call::Encrypt => assert_eq!(encrypt_c(c, &mut self.out, null_mut()).0, MKMS_OK),
            Call::EncryptDescribed => assert_eq!(encrypt_c(c, &mut self.out, &raw mut self.operation).0, MKMS_OK),
            Call::RustDecrypt => drop(black_box(rust_decrypt(rust, &self.sealed, &self.context).unwrap())),
            Call::Decrypt => assert_eq!(decrypt_c(c, &self.sealed, &mut self.out), MKMS_OK),
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A shuffled order of the calls (Fisher-Yates, xorshift64). With a fixed order, always the same call would wake the
/// ledger, or follow one that did.
fn shuffled(state: &mut u64) -> [Call; 5] {
    let mut order = Call::ALL;
    for last in (1..order.len()).rev() {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        order.swap(last, (*state % (last as u64 + 1)) as usize);
    }
    order
}

/// Makes every call once in each round, and prints the medians, and the median of the differences within a round.
fn measure(ack: AuditAck, name: &str, rounds: usize) {
    let mut calls = Calls::new(ack);
    let mut random = 0x9e37_79b9_7f4a_7c15;
    let mut taken = Call::ALL.map(|call| (call, Vec::new()));
    // A fresh service grows its file, its queues and its caches: the first rounds do not count.
    for round in 0..rounds * 3 / 2 {
        for call in shuffled(&mut random) {
            let start = Instant::now();
            calls.make(call);
            let nanoseconds = start.elapsed().as_nanos() as f64;
            if round >= rounds / 2 {
                taken.iter_mut().filter(|(of, _)| *of == call).for_each(|(_, values)| values.push(nanoseconds));
            }
        }
    }
    let of = |call: Call| taken.iter().find(|(of, _)| *of == call).map(|(_, values)| values.clone()).unwrap();
    for call in Call::ALL.into_iter().filter(|call| *call != call.in_rust()) {
        let (rust, c) = (of(call.in_rust()), of(call));
        let difference = median(c.iter().zip(&rust).map(|(c, rust)| c - rust).collect());
        let (rust, c) = (median(rust) / 1000.0, median(c) / 1000.0);
        println!("| {}, {name} | {rust:.2} us | {c:.2} us | {difference:.0} ns |", call.name());
    }
}

/// The boundary alone: all arguments are read, and the call is refused for want of room. It includes making the
/// message.
fn boundary() {
    let service = Service::open(AuditAck::Queued);
    let refused = || assert_eq!(encrypt_c(service.session, &mut [], null_mut()).0, MKMS_BUFFER_TOO_SMALL);
    let sample = || {
        let start = Instant::now();
        (0..100_000).for_each(|_| refused());
        start.elapsed().as_nanos() as f64 / 1e5
    };
    let samples = (0..21).map(|_| sample()).collect();
    println!("| arguments read, call refused for want of room | - | {:.0} ns | - |", median(samples));
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
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["instructions"] => return instructions::compare(),
        ["instructions", call, count] => return instructions::run(call, count.parse().unwrap()),
        _ => {}
    }
    println!("| call | Rust | C | median difference |\n| --- | --- | --- | --- |");
    // Call by call: what the ledgers' threads take meanwhile meets few calls of either.
    measure(AuditAck::Queued, "queued", 40_000);
    measure(AuditAck::Durable, "durable", 1_000);
    boundary();
    openssl();
}
