//! The output and traces of the suites, and the secrets they used. At the end `tests/run` checks that no secret is in
//! any output. Without `KMS_TEST_OUTPUT`, the folder for both, nothing is kept.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// The maximum trace of a suite in bytes, since long suites would fill the disk.
const MOST: u64 = 32 << 20;

fn folder() -> Option<PathBuf> {
    std::env::var_os("KMS_TEST_OUTPUT").map(PathBuf::from)
}

/// Traces everything that this process does from now on, including the fields of spans.
pub fn trace() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let Some(folder) = folder() else { return };
        let program = std::env::current_exe().unwrap();
        let name = format!("{}.{}.trace", program.file_stem().unwrap().to_string_lossy(), std::process::id());
        let bounded = Bounded { file: File::create(folder.join(name)).unwrap(), written: AtomicU64::new(0) };
        let _ = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_span_events(tracing_subscriber::fmt::format::FmtSpan::NEW)
            .with_env_filter("kms_lib=trace,warn")
            .with_writer(Mutex::new(bounded))
            .try_init();
    });
}

struct Bounded {
    file: File,
    written: AtomicU64,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed) < MOST {
            self.file.write_all(bytes)?;
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Notes a secret in every form in which it might be printed, one per line, for `grep -F -f`.
pub fn secret(bytes: &[u8]) {
    let Some(folder) = folder() else { return };
    assert!(bytes.len() >= 12, "too short to be looked for without false alarms");
    let each = |form: fn(&u8) -> String, between: &str| bytes.iter().map(form).collect::<Vec<_>>().join(between);
    let mut forms = vec![
        each(|byte| format!("{byte:02x}"), ""),
        each(|byte| format!("{byte:02X}"), ""),
        each(u8::to_string, ", "),
        each(u8::to_string, ","),
        each(|byte| format!("\\x{byte:02x}"), ""),
        bytes.escape_ascii().to_string(),
        STANDARD.encode(bytes),
        STANDARD_NO_PAD.encode(bytes),
        URL_SAFE_NO_PAD.encode(bytes),
    ];
    forms.extend(std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\n')).map(str::to_owned));
    forms.sort();
    forms.dedup();
    // A single write, so that the lines of concurrent suites do not mix.
    let mut file = OpenOptions::new().create(true).append(true).open(folder.join("secrets")).unwrap();
    file.write_all((forms.join("\n") + "\n").as_bytes()).unwrap();
}
