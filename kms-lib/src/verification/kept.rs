//! What is kept of the last verification that found no fault: up to where the log was verified, and the imported logs
//! that its records sealed up to there. The next one goes on from both: records that it does not read again cannot
//! tell it which logs there were.

use super::Report;
use crate::audit::legacy::SealedLog;
use crate::envelope::{Seals, row};
use crate::storage::Connection;
use crate::storage::tables::usage;
use crate::types::audit::hex;
use crate::types::error::Result;

/// The name under which it is kept.
pub(crate) const VERIFIED_SIZE: &str = "audit.verified_size";

/// How far the log was verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeptVerification {
    /// Records up to this one were verified.
    pub size: u64,
    /// The last record among them that sealed each imported log.
    pub imported: Vec<SealedLog>,
}

impl KeptVerification {
    /// What a verification leaves to the next one.
    pub fn of(report: &Report) -> Self {
        Self { size: report.size, imported: report.sealed.clone() }
    }

    /// Reads what is kept in a store; nothing if this service did not write it.
    pub async fn read(connection: &mut dyn Connection, seals: &Seals) -> Result<Option<Self>> {
        let kept = usage::meta(connection, VERIFIED_SIZE).await?;
        Ok(kept.and_then(|kept| Self::open(&kept, seals)))
    }

    /// What is kept of it: the size, the logs and a seal.
    pub fn sealed(&self, seals: &Seals) -> String {
        let logs = self.logs();
        format!("{} {logs} {}", self.size, hex(&seals.seal(&row::verified(self.size, &logs))))
    }

    /// Reads what was kept; nothing if this service did not write it.
    pub fn open(text: &str, seals: &Seals) -> Option<Self> {
        let mut words = text.split(' ');
        let (size, logs) = (words.next()?.parse().ok()?, words.next()?);
        let imported: Option<Vec<SealedLog>> = match logs {
            "-" => Some(Vec::new()),
            logs => logs.split(',').map(read).collect(),
        };
        let kept = Self { size, imported: imported? };
        (kept.sealed(seals) == text).then_some(kept)
    }

    /// The logs as text. Names of sources have neither commas nor colons nor white space.
    fn logs(&self) -> String {
        let log = |log: &SealedLog| {
            let SealedLog { seq, source, size, root, findings_at } = log;
            format!("{source}:{seq}:{size}:{root}:{}", findings_at.unwrap_or_default())
        };
        let logs: Vec<String> = self.imported.iter().map(log).collect();
        if logs.is_empty() { "-".to_owned() } else { logs.join(",") }
    }
}

fn read(log: &str) -> Option<SealedLog> {
    let mut parts = log.split(':');
    let (source, mut number) = (parts.next()?.to_owned(), || parts.next()?.parse::<u64>().ok());
    let (seq, size) = (number()?, number()?);
    let root = parts.next()?.to_owned();
    let findings_at = parts.next()?.parse::<u64>().ok()?;
    Some(SealedLog { seq, source, size, root, findings_at: Some(findings_at).filter(|seq| *seq > 0) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_this_service_sealed_counts() {
        let (seals, others) = (Seals::new(1, &[1; 64]).unwrap(), Seals::new(1, &[2; 64]).unwrap());
        let log = |source: &str, findings_at| SealedLog {
            seq: 7,
            source: source.into(),
            size: 30,
            root: hex(&[3; 32]),
            findings_at,
        };
        for imported in [vec![], vec![log("mini-kms", Some(7))], vec![log("a.b", None), log("c_d", Some(5))]] {
            let kept = KeptVerification { size: 9, imported };
            let text = kept.sealed(&seals);
            assert_eq!(KeptVerification::open(&text, &seals), Some(kept));
            assert_eq!(KeptVerification::open(&text, &others), None);
            for bad in [text.replacen('9', "8", 1), format!("{text} "), text.replace(":30:", ":29:") + "x"] {
                assert_eq!(KeptVerification::open(&bad, &seals), None, "{bad}");
            }
        }
        for bad in ["", "8", "8 -", "x - y", "8 a:b y"] {
            assert_eq!(KeptVerification::open(bad, &seals), None, "{bad:?}");
        }
    }
}
