//! Key material is wiped: after closing, the memory of this process contains neither the root key nor a key that was
//! used.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Seek, SeekFrom};

use kms_lib::{Actor, Config, Context, Kms, NewKey, Role};
use zeroize::Zeroizing;

/// Counts how often a pattern occurs in this process's memory. The argument is inverted, so that the search does not
/// find it.
fn count(inverted: &[u8]) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut memory = std::fs::File::open("/proc/self/mem").unwrap();
    let mut found = 0;
    let mut chunk = Zeroizing::new(vec![0u8; 1 << 20]);
    for line in
        maps.lines().filter(|line| line.contains("rw") && !line.contains("[vvar") && !line.contains("[vsyscall"))
    {
        let (range, _) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let (mut at, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        while at < end {
            let length = usize::try_from(end - at).unwrap().min(chunk.len());
            memory.seek(SeekFrom::Start(at)).unwrap();
            let Ok(read) = memory.read(&mut chunk[..length]) else { break };
            if read == 0 {
                break;
            }
            let matches = |window: &[u8]| window.iter().zip(inverted).all(|(byte, inverted)| *byte == !*inverted);
            // The first bytes exclude nearly every position quickly.
            found += chunk[..read]
                .windows(inverted.len())
                .filter(|window| window[0] == !inverted[0] && matches(window))
                .count();
            at += read as u64;
            if at < end && read > inverted.len() {
                at -= inverted.len() as u64 - 1;
            }
        }
    }
    // The buffer contains copies of the pattern.
    drop(chunk);
    found
}

#[test]
fn no_key_is_in_memory_after_closing() {
    let folder = tempfile::tempdir().unwrap();
    // Another process writes a random root key to a file, so that only the service reads it in this process.
    let path = folder.path().join("root.key");
    let script =
        format!("umask 077; (printf 'base64:'; head -c 32 /dev/urandom | base64 | tr -d '\\n') > '{}'", path.display());
    assert!(std::process::Command::new("sh").args(["-c", &script]).status().unwrap().success());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    let mut used: Vec<Vec<u8>> = Vec::new();
    runtime.block_on(async {
        let url = format!("sqlite:{}", folder.path().join("kms.db").display());
        let config = Config::new(url).root_key(&format!("file:{}", path.display())).unwrap();
        let kms = Kms::open(config).await.unwrap();
        let session = kms.session(Actor::new("alice", Role::Admin).unwrap());
        session.create_key(NewKey::aes("a")).await.unwrap();
        session.create_key(NewKey::rsa_signing("s")).await.unwrap();
        for _ in 0..20 {
            let made = session.generate_data_key("a", 32, &Context::new()).await.unwrap();
            let opened = session.decrypt(&made.ciphertext, &Context::new()).await.unwrap();
            let plaintext = made.plaintext.unwrap();
            assert_eq!(plaintext, opened.plaintext);
            used.push(plaintext.iter().map(|byte| !byte).collect());
            if used.len() == 1 {
                // The scan finds the two data keys that the test holds.
                assert!(count(&used[0]) >= 2, "the scan finds nothing");
            }
            session.rotate_key("a", None).await.unwrap();
        }
        let payload = kms_lib::SignatureAlgorithm::RsaPssSha256;
        session.sign("s", b"payload", payload).await.unwrap();
        kms.close().await.unwrap();
    });
    drop(runtime);
    for secret in &used {
        assert_eq!(count(secret), 0, "a data key is left in memory");
    }
    // Another process reads the file and returns the key inverted.
    let script = format!("tail -c +8 '{}' | base64 -d | od -An -v -tu1", path.display());
    let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let root: Vec<u8> = text.split_whitespace().map(|byte| !byte.parse::<u8>().unwrap()).collect();
    assert_eq!(root.len(), 32);
    assert_eq!(count(&root), 0, "the root key is left in memory");
    // After the scans, because registering the secrets leaves copies of them.
    for inverted in used.iter().chain([&root]) {
        common::output::secret(&inverted.iter().map(|byte| !byte).collect::<Vec<u8>>());
    }
}

#[test]
fn a_stream_leaves_no_plaintext_behind() {
    const LENGTH: usize = 5 * 64 * 1024 + 17;
    // Generated inverted: the plaintext exists only where a stream reads or writes it.
    let inverted: [u8; 64] = rand::random();
    let folder = tempfile::tempdir().unwrap();
    let config = Config::new(format!("sqlite:{}", folder.path().join("kms.db").display())).root_key_bytes([7; 32]);
    let kms = kms_lib::blocking::Kms::open(config).unwrap();
    let session = kms.session(Actor::new("alice", Role::Admin).unwrap());
    session.create_key(NewKey::aes("files")).unwrap();

    let mut plaintext = Zeroizing::new(Vec::with_capacity(LENGTH));
    plaintext.extend(inverted.iter().cycle().take(LENGTH).map(|byte| !byte));
    let mut encryptor = session.encrypt_stream("files", &Context::new()).unwrap();
    let mut sealed = Vec::new();
    plaintext.chunks(10_000).for_each(|part| encryptor.update(part, &mut sealed).unwrap());
    encryptor.finish(&mut sealed).unwrap();
    drop(plaintext);
    assert_eq!(count(&inverted), 0, "encrypting left plaintext in memory");

    let (mut decryptor, header) = session.decrypt_stream(&sealed, &Context::new()).unwrap().unwrap();
    // The buffer is empty at first, and grows with each chunk.
    let mut opened = Zeroizing::new(Vec::new());
    sealed[header..].chunks(10_000).for_each(|part| decryptor.update(part, &mut opened).unwrap());
    let summary = decryptor.finish(&mut opened).unwrap();
    assert_eq!((summary.bytes, opened.len()), (LENGTH as u64, LENGTH));
    assert!(opened.iter().zip(inverted.iter().cycle()).all(|(byte, inverted)| *byte == !inverted));
    assert!(count(&inverted) > LENGTH / 64 - 1, "the scan finds nothing");
    drop(opened);
    assert_eq!(count(&inverted), 0, "decrypting left plaintext in memory");
    kms.close().unwrap();
}
