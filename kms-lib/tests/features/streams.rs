//! Files of any size: through the service, async and blocking, with what can go wrong on the way.

use std::error::Error as _;
use std::fmt;
use std::io::{self, Read, Write};

use kms_lib::internals::CHUNK;
use kms_lib::{Actor, Config, Context, ErrorCode, Kms, NewKey, Role, blocking};

/// Bytes between two numbers in an endless text.
const BLOCK: usize = 4096;

/// So many bytes that nobody has to keep: each block begins with its number, so that no two chunks are the same.
struct Endless {
    left: u64,
    number: u64,
    block: [u8; BLOCK],
    used: usize,
}

impl Endless {
    fn new(left: u64) -> Self {
        Self { left, number: 0, block: [0x5a; BLOCK], used: BLOCK }
    }
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let take = usize::try_from(self.left.min(buffer.len() as u64)).unwrap();
        let mut done = 0;
        while done < take {
            if self.used == BLOCK {
                self.number += 1;
                self.block[..8].copy_from_slice(&self.number.to_le_bytes());
                self.used = 0;
            }
            let piece = (take - done).min(BLOCK - self.used);
            buffer[done..done + piece].copy_from_slice(&self.block[self.used..self.used + piece]);
            done += piece;
            self.used += piece;
        }
        self.left -= take as u64;
        Ok(take)
    }
}

/// Checks that it is given what [`Endless`] gives, and keeps nothing.
struct Expect(Endless);

impl Write for Expect {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut expected = vec![0; bytes.len()];
        self.0.read_exact(&mut expected)?;
        if expected == bytes { Ok(bytes.len()) } else { Err(io::Error::other("another text")) }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_file_makes_the_round_trip() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::new(format!("sqlite:{}", folder.path().join("kms.db").display())).root_key_bytes([7; 32]);
    let kms = Kms::open(config).await.unwrap();
    let session = kms.session(Actor::new("alice", Role::Admin).unwrap());
    session.create_key(NewKey::aes("files")).await.unwrap();
    session.create_key(NewKey::rsa_encryption("rsa-files")).await.unwrap();
    let context = Context::from([("file", "report.pdf")]);
    for key in ["files", "rsa-files"] {
        for len in [0, 1, CHUNK, 5 * CHUNK + 3] {
            let plaintext = vec![0x5a; len];
            let (mut sealed, mut opened) = (Vec::new(), Vec::new());
            let made = session.encrypt_reader(key, &context, &mut plaintext.as_slice(), &mut sealed).await.unwrap();
            let read = session.decrypt_reader(&context, &mut sealed.as_slice(), &mut opened).await.unwrap();
            assert_eq!(opened, plaintext);
            assert_eq!((made.bytes, read.bytes, read.version), (len as u64, len as u64, 1));

            let mut nothing = Vec::new();
            let error =
                session.decrypt_reader(&Context::new(), &mut sealed.as_slice(), &mut nothing).await.unwrap_err();
            assert!(error.code() == ErrorCode::DecryptionFailed && nothing.is_empty());
            for cut in [0, 1, 100, sealed.len() - 1] {
                let mut part = Vec::new();
                let error = session.decrypt_reader(&context, &mut &sealed[..cut], &mut part).await.unwrap_err();
                let codes = [ErrorCode::InvalidCiphertext, ErrorCode::DecryptionFailed];
                assert!(codes.contains(&error.code()) && part.len() < len.max(1), "{error}");
            }
        }
    }
    let mut sealed = Vec::new();
    session.encrypt_reader("files", &context, &mut [1u8; 10].as_slice(), &mut sealed).await.unwrap();
    session.rotate_key("files", None).await.unwrap();
    session.decrypt_reader(&context, &mut sealed.as_slice(), &mut Vec::new()).await.unwrap();
    session.revoke_version("files", 1).await.unwrap();
    let error = session.decrypt_reader(&context, &mut sealed.as_slice(), &mut Vec::new()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::VersionRevoked);
    sealed[0] = 3;
    let error = session.decrypt_reader(&context, &mut sealed.as_slice(), &mut Vec::new()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidCiphertext);
    assert!(error.message().contains("newer"), "{error}");
    kms.close().await.unwrap();
}

/// Some hundred megabytes (64 GiB, a million chunks, in the long suites) that never are in memory at once.
#[test]
fn memory_stays_constant() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::new(format!("sqlite:{}", folder.path().join("kms.db").display())).root_key_bytes([7; 32]);
    let kms = blocking::Kms::open(config).unwrap();
    let session = kms.session(Actor::new("alice", Role::Admin).unwrap());
    session.create_key(NewKey::aes("files")).unwrap();
    let full = std::env::var("KMS_TEST_MODE").is_ok_and(|mode| mode == "full");
    let chunks: u64 = if full { 1_000_003 } else { 2_003 };
    let len = chunks * CHUNK as u64 - 11;
    let (pipe_out, mut pipe_in) = io::pipe().unwrap();
    let before = resident();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut input = Endless::new(len);
            session.encrypt_reader("files", &Context::new(), &mut input, &mut pipe_in).unwrap();
            drop(pipe_in);
        });
        let mut output = Expect(Endless::new(len));
        let mut input = pipe_out;
        let summary = session.decrypt_reader(&Context::new(), &mut input, &mut output).unwrap();
        assert_eq!(summary.bytes, len);
    });
    let grown = resident().saturating_sub(before);
    assert!(grown < 32 << 20, "memory grew by {grown} bytes");
    kms.close().unwrap();
}

/// Resident memory of this process, in bytes; 0 where that cannot be read.
fn resident() -> u64 {
    let Ok(text) = std::fs::read_to_string("/proc/self/statm") else { return 0 };
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// An error of the application that reads and writes.
#[derive(Debug)]
struct Unplugged;

impl fmt::Display for Unplugged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the cable is out")
    }
}

impl std::error::Error for Unplugged {}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other(Unplugged))
    }
}

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::Error::other(Unplugged))
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_broken_input_or_output_is_an_error_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::new(format!("sqlite:{}", folder.path().join("kms.db").display())).root_key_bytes([7; 32]);
    let kms = blocking::Kms::open(config).unwrap();
    let session = kms.session(Actor::new("alice", Role::Admin).unwrap());
    session.create_key(NewKey::aes("files")).unwrap();
    let none = Context::new();
    for error in [
        session.encrypt_reader("files", &none, &mut Broken, &mut Vec::new()).unwrap_err(),
        session.encrypt_reader("files", &none, &mut [0u8; 10].as_slice(), &mut Broken).unwrap_err(),
        session.decrypt_reader(&none, &mut Broken, &mut Vec::new()).unwrap_err(),
    ] {
        assert_eq!(error.code(), ErrorCode::InputOutput);
        // The caller's own error is the source, and can be recognized by what it holds.
        let cause = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
        assert!(cause.get_ref().unwrap().is::<Unplugged>(), "{cause:?}");
        assert!(error.message().ends_with("the cable is out"), "{error}");
    }
    kms.close().unwrap();
}
