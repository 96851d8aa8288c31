//! Counters that are written with the head of the log, until they are added to tables of their own.
//!
//! Every commit writes the head, so counters within it cost no further page.

use std::collections::BTreeMap;

use super::ids::KeyId;
use super::key::VersionUsage;
use super::time::Timestamp;

/// The maximum number of versions whose uses are kept with the head.
pub const VERSIONS: usize = 12;
/// The maximum length of the stored form in bytes. PostgreSQL stores the values of rows of more than 2 KB elsewhere.
pub const ROOM: usize = 640;
/// The maximum value of a counter. Higher ones, which only an attacker can have written, count as this one, so that no
/// sum of counters overflows.
pub const COUNT_MAX: u64 = 1 << 40;

/// The first byte of an hourly count.
const HOUR: u8 = 1;
/// The first byte of the uses of a version.
const VERSION: u8 = 2;

/// Counters since they were last added to their tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tallies {
    /// Operations by hour, action and status: what `usage_hourly` lacks.
    pub hours: BTreeMap<(i64, String, String), u64>,
    /// All uses of a version, by key and version; its row of `version_usage` has an earlier state.
    pub versions: BTreeMap<(KeyId, u32), VersionUsage>,
    /// Whether the stored form could not be read, because it was altered.
    pub is_unreadable: bool,
}

impl Tallies {
    /// Whether the counters fit into the row of the head.
    pub fn fit(&self) -> bool {
        self.versions.len() <= VERSIONS && self.to_bytes().len() <= ROOM
    }

    /// Adds operations of an hour.
    pub fn add(&mut self, hour: i64, action: &str, status: &str, count: u64) {
        let total = self.hours.entry((hour, action.to_owned(), status.to_owned())).or_default();
        *total = total.saturating_add(count).min(COUNT_MAX);
    }

    /// The uses of a version, of which its row says `stored`. The time of the last use may be earlier than in the row,
    /// if the clock had been ahead. The row has the later state if the counters were added to it after this was read.
    pub fn usage(&self, key: KeyId, version: u32, stored: VersionUsage) -> VersionUsage {
        match self.versions.get(&(key, version)) {
            Some(usage) if usage.encryptions >= stored.encryptions => *usage,
            _ => stored,
        }
    }

    /// The stored form: for each hourly count the byte 1, the hour, the action and the status as text with a byte for
    /// its length, and the number; for each version the byte 2, the key's id, the number of the version, of its
    /// encryptions, and the time of its last use, 0 if there was none. Numbers are 8 bytes, big-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for ((hour, action, status), count) in &self.hours {
            bytes.push(HOUR);
            bytes.extend(hour.to_be_bytes());
            for text in [action, status] {
                // Names of actions and states are shorter than 64 bytes.
                let text = &text.as_bytes()[..text.len().min(usize::from(u8::MAX))];
                bytes.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
                bytes.extend(text);
            }
            bytes.extend(count.to_be_bytes());
        }
        for ((key, version), usage) in &self.versions {
            bytes.push(VERSION);
            bytes.extend(key.as_bytes());
            bytes.extend(u64::from(*version).to_be_bytes());
            bytes.extend(usage.encryptions.to_be_bytes());
            bytes.extend(usage.last_used_at.map_or(0, Timestamp::micros).to_be_bytes());
        }
        bytes
    }

    /// Reads the stored form. If it is not one, there are no counters, and the result says so.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let (mut read, mut rest) = (Self::default(), bytes);
        while !rest.is_empty() {
            match read.take(rest).filter(|_| bytes.len() <= ROOM) {
                Some(next) => rest = next,
                None => return Self { is_unreadable: true, ..Self::default() },
            }
        }
        read
    }

    /// Reads one counter; returns the bytes after it.
    fn take<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let (kind, rest) = bytes.split_first()?;
        match *kind {
            HOUR => {
                let (hour, rest) = rest.split_first_chunk()?;
                let (action, rest) = text(rest)?;
                let (status, rest) = text(rest)?;
                let (count, rest) = rest.split_first_chunk()?;
                let count = u64::from_be_bytes(*count).min(COUNT_MAX);
                self.hours.insert((i64::from_be_bytes(*hour), action, status), count);
                Some(rest)
            }
            VERSION => {
                let (key, rest) = rest.split_first_chunk()?;
                let (version, rest) = rest.split_first_chunk()?;
                let (encryptions, rest) = rest.split_first_chunk()?;
                let (used, rest) = rest.split_first_chunk()?;
                let used = Some(i64::from_be_bytes(*used)).filter(|used| *used > 0).map(Timestamp::from_micros);
                let version = u32::try_from(u64::from_be_bytes(*version)).ok()?;
                let usage =
                    VersionUsage { encryptions: u64::from_be_bytes(*encryptions).min(COUNT_MAX), last_used_at: used };
                self.versions.insert((KeyId::from_bytes(*key), version), usage);
                Some(rest)
            }
            _ => None,
        }
    }
}

/// Reads a text with a byte for its length; returns the bytes after it.
fn text(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (length, rest) = bytes.split_first()?;
    let (text, rest) = rest.split_at_checked(usize::from(*length))?;
    Some((std::str::from_utf8(text).ok()?.to_owned(), rest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_stored_is_read_again() {
        let mut tallies = Tallies::default();
        assert_eq!(Tallies::from_bytes(&tallies.to_bytes()), tallies);
        tallies.add(489_000, "ENCRYPT", "SUCCESS", 3);
        tallies.add(489_000, "ENCRYPT", "SUCCESS", 4);
        tallies.add(489_001, "DECRYPT", "FAILURE", 1);
        for version in 1..=3 {
            let used = (version > 1).then(|| Timestamp::from_micros(1_790_000_000_000_000));
            let usage = VersionUsage { encryptions: 1 << 33, last_used_at: used };
            tallies.versions.insert((KeyId::from_bytes([9; 16]), version), usage);
        }
        let bytes = tallies.to_bytes();
        let read = Tallies::from_bytes(&bytes);
        assert_eq!(read, tallies);
        assert_eq!(read.hours[&(489_000, "ENCRYPT".into(), "SUCCESS".into())], 7);
        for length in 0..bytes.len() {
            // A cut form is unreadable, or ends with a whole counter.
            let cut = Tallies::from_bytes(&bytes[..length]);
            assert!(cut.is_unreadable || cut.to_bytes() == bytes[..length]);
        }
        let unreadable = Tallies { is_unreadable: true, ..Tallies::default() };
        for bad in [&b"x"[..], &[0], &bytes.repeat(ROOM / bytes.len() + 1)] {
            assert_eq!(Tallies::from_bytes(bad), unreadable);
        }
    }

    #[test]
    fn huge_counters_are_bounded() {
        let mut tallies = Tallies::default();
        tallies.hours.insert((1, "ENCRYPT".into(), "SUCCESS".into()), u64::MAX);
        let usage = VersionUsage { encryptions: u64::MAX, last_used_at: None };
        tallies.versions.insert((KeyId::from_bytes([9; 16]), 1), usage);
        let mut read = Tallies::from_bytes(&tallies.to_bytes());
        read.add(1, "ENCRYPT", "SUCCESS", u64::MAX);
        assert!(read.hours.values().all(|count| *count == COUNT_MAX));
        assert!(read.versions.values().all(|usage| usage.encryptions == COUNT_MAX));
    }

    #[test]
    fn the_later_state_of_a_version_counts() {
        let (key, at) = (KeyId::from_bytes([9; 16]), |micros| Some(Timestamp::from_micros(micros)));
        let mut tallies = Tallies::default();
        let stored = VersionUsage { encryptions: 5, last_used_at: at(10) };
        assert_eq!(tallies.usage(key, 1, stored), stored);
        tallies.versions.insert((key, 1), VersionUsage { encryptions: 7, last_used_at: at(20) });
        assert_eq!(tallies.usage(key, 1, stored), VersionUsage { encryptions: 7, last_used_at: at(20) });
        // The clock had been ahead: the head has the time of the last use.
        let ahead = VersionUsage { encryptions: 6, last_used_at: at(90) };
        assert_eq!(tallies.usage(key, 1, ahead).last_used_at, at(20));
        // They were added to the row after the head had been read.
        let later = VersionUsage { encryptions: 9, last_used_at: at(30) };
        assert_eq!(tallies.usage(key, 1, later), later);
    }

    #[test]
    fn their_room_is_bounded() {
        let mut tallies = Tallies::default();
        for version in 1..=12 {
            tallies.versions.insert((KeyId::from_bytes([9; 16]), version), VersionUsage::default());
            assert!(tallies.fit());
        }
        tallies.versions.insert((KeyId::from_bytes([9; 16]), 13), VersionUsage::default());
        assert!(!tallies.fit());
        let mut tallies = Tallies::default();
        for hour in 0..100 {
            tallies.add(hour, "GENERATE_DATA_KEY", "SUCCESS", 1);
        }
        assert!(!tallies.fit());
    }
}
