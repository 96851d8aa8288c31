//! The stored result of the last verification without faults: the number of verified records, the imported logs that
//! those records sealed, and the places among them where time goes back. The next verification starts from these, since
//! records that it does not reread cannot tell it which logs exist.

use super::Report;
use crate::audit::legacy::SealedLog;
use crate::envelope::{Seals, row};
use crate::storage::Connection;
use crate::storage::tables::usage;
use crate::types::audit::hex;
use crate::types::error::Result;

/// The name under which the result is stored.
pub(crate) const VERIFIED_SIZE: &str = "audit.verified_size";

/// The result of a verification without faults, as the next one uses it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeptVerification {
    /// The number of verified records.
    pub size: u64,
    /// For each imported log, the last verified record that sealed it.
    pub imported: Vec<SealedLog>,
    /// The verified records at which time was acknowledged to go back; none if they are not known.
    pub set_backs: Option<Vec<u64>>,
}

impl KeptVerification {
    /// The part of a report that the next verification uses.
    pub fn of(report: &Report) -> Self {
        Self { size: report.size, imported: report.sealed.clone(), set_backs: report.set_backs.clone() }
    }

    /// Reads what is kept in a store; nothing if this service did not write it.
    pub async fn read(connection: &mut dyn Connection, seals: &Seals) -> Result<Option<Self>> {
        let kept = usage::meta(connection, VERIFIED_SIZE).await?;
        Ok(kept.and_then(|kept| Self::open(&kept, seals)))
    }

    /// The stored form: the size, the logs, the places where time goes back, and a seal.
    pub fn sealed(&self, seals: &Seals) -> String {
        let rest = format!("{} {}", self.logs(), self.places());
        format!("{} {rest} {}", self.size, hex(&seals.seal(&row::verified(self.size, &rest))))
    }

    /// Reads the stored text; none if this service did not seal it.
    pub fn open(text: &str, seals: &Seals) -> Option<Self> {
        let mut words = text.split(' ');
        let (size, logs, places) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
        let imported: Option<Vec<SealedLog>> = match logs {
            "-" => Some(Vec::new()),
            logs => logs.split(',').map(read).collect(),
        };
        let set_backs = match places {
            "?" => None,
            "-" => Some(Vec::new()),
            places => Some(places.split(',').map(|seq| seq.parse().ok()).collect::<Option<Vec<u64>>>()?),
        };
        let kept = Self { size, imported: imported?, set_backs };
        (kept.sealed(seals) == text).then_some(kept)
    }

    /// The places where time goes back, as text.
    fn places(&self) -> String {
        let Some(seqs) = &self.set_backs else { return "?".to_owned() };
        let seqs: Vec<String> = seqs.iter().map(u64::to_string).collect();
        if seqs.is_empty() { "-".to_owned() } else { seqs.join(",") }
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
        for (imported, set_backs) in [
            (vec![], None),
            (vec![log("mini-kms", Some(7))], Some(vec![])),
            (vec![log("a.b", None), log("c_d", Some(5))], Some(vec![2, 7])),
        ] {
            let kept = KeptVerification { size: 9, imported, set_backs };
            let text = kept.sealed(&seals);
            assert_eq!(KeptVerification::open(&text, &seals), Some(kept));
            assert_eq!(KeptVerification::open(&text, &others), None);
            for bad in [text.replacen('9', "8", 1), format!("{text} "), text.replace(":30:", ":29:") + "x"] {
                assert_eq!(KeptVerification::open(&bad, &seals), None, "{bad}");
            }
        }
        for bad in ["", "8", "8 -", "8 - -", "x - - y", "8 a:b - y", "8 - a y"] {
            assert_eq!(KeptVerification::open(bad, &seals), None, "{bad:?}");
        }
    }
}
