#![allow(clippy::unwrap_used)]

use super::*;
use crate::types::ids::{KeyId, RecordId};

const LOG: LogId = LogId::from_bytes([3; 16]);

/// A log with this number of good records.
fn log(records: u64) -> Vec<AuditRecord> {
    let mut rows: Vec<AuditRecord> = Vec::new();
    for seq in 1..=records {
        let prev_hash = rows.last().map_or([0; 32], |row| row.hash);
        let mut row = AuditRecord {
            seq,
            id: RecordId::from_bytes([0; 16]),
            timestamp: Timestamp::from_micros(1_000_000 + i64::try_from(seq / 3).unwrap()),
            actor: format!("actor-{}", seq % 7),
            role: "app".into(),
            action: "ENCRYPT".into(),
            status: "SUCCESS".into(),
            request_id: (seq % 2 == 0).then(|| format!("request-{seq}")),
            key_id: Some(KeyId::from_bytes([1; 16])),
            key_version: Some(1),
            details: Some(format!("{{\"revision\":{seq}}}")),
            prev_hash,
            hash: [0; 32],
            format: FORMAT,
        };
        rehash(&mut row);
        rows.push(row);
    }
    rows
}

fn rehash(row: &mut AuditRecord) {
    row.hash = record_hash(LOG, row.seq, row.timestamp, &row.prev_hash, &Body::from(&*row).digest());
    row.id = record_id(&row.hash);
}

/// Verifies a log in chunks of this size.
fn verify(rows: &[AuditRecord], chunk: usize) -> Result<Start, Fault> {
    rows.chunks(chunk).try_fold(Start::genesis(), |start, rows| {
        let stitched = stitch(start, &digest(LOG, rows), &[]);
        stitched.fault.map_or(Ok(stitched.state), Err)
    })
}

#[test]
fn a_good_log_is_good_in_chunks_of_any_size() {
    let rows = log(9_000);
    let mut tree = Frontier::new();
    rows.iter().for_each(|row| tree.push(row.hash));
    for chunk in [1, 7, 4_096, 10_000] {
        assert_eq!(verify(&rows, chunk).unwrap().frontier, tree);
    }
    // Roots within a chunk are those of the tree at that size.
    let stitched = stitch(Start::genesis(), &digest(LOG, &rows[..4_096]), &[1, 1_000, 4_096]);
    assert_eq!(stitched.states.len(), 3);
    for state in stitched.states {
        let mut tree = Frontier::new();
        let rows = &rows[..usize::try_from(state.size).unwrap()];
        rows.iter().for_each(|row| tree.push(row.hash));
        assert_eq!((state.root, state.hash), (tree.root(), rows[rows.len() - 1].hash));
    }
}

/// Every column, changed in a record at the beginning, in the middle, at a chunk's border and at the end.
#[test]
fn a_change_of_any_column_is_found_where_it_is() {
    type Tampering = fn(&mut AuditRecord);
    let tamperings: [(&str, Tampering); 13] = [
        ("id", |row| row.id = RecordId::from_bytes([0xff; 16])),
        ("timestamp", |row| row.timestamp = Timestamp::from_micros(row.timestamp.micros() + 1)),
        ("actor", |row| row.actor.push('x')),
        ("role", |row| row.role = "admin".into()),
        ("action", |row| row.action = "DECRYPT".into()),
        ("status", |row| row.status = "FAILURE".into()),
        ("request_id", |row| row.request_id = Some("other".into())),
        ("request_id removed or added", |row| {
            row.request_id = if row.request_id.is_some() { None } else { Some(String::new()) }
        }),
        ("key_id", |row| row.key_id = None),
        ("key_version", |row| row.key_version = Some(2)),
        ("details", |row| row.details = Some("{}".into())),
        ("hash", |row| row.hash[31] ^= 1),
        ("format", |row| row.format = 1),
    ];
    let good = log(200);
    for at in [1u64, 2, 64, 65, 100, 200] {
        for (column, tamper) in &tamperings {
            let mut rows = good.clone();
            tamper(&mut rows[usize::try_from(at - 1).unwrap()]);
            let fault = verify(&rows, 64).unwrap_err();
            assert_eq!(fault.seq, at, "{column} of record {at}: {fault}");
            let expected = match *column {
                "format" => matches!(fault.finding, Finding::UnknownFormat { format: 1 }),
                _ => fault.finding == Finding::HashMismatch,
            };
            assert!(expected, "{column}: {fault:?}");
        }
        let mut rows = good.clone();
        rows[usize::try_from(at - 1).unwrap()].prev_hash[0] ^= 1;
        let fault = verify(&rows, 64).unwrap_err();
        assert_eq!(fault.seq, at);
        assert_eq!(fault.finding, Finding::HashMismatch);
    }
}

#[test]
fn removal_insertion_swap_and_renumbering_are_found() {
    let good = log(200);
    for at in [0usize, 63, 64, 120] {
        let mut removed = good.clone();
        removed.remove(at);
        let fault = verify(&removed, 64).unwrap_err();
        assert_eq!((fault.seq, fault.finding), (at as u64 + 1, Finding::Gap { found: at as u64 + 2 }));

        let mut doubled = good.clone();
        doubled.insert(at, good[at].clone());
        let fault = verify(&doubled, 64).unwrap_err();
        assert_eq!((fault.seq, fault.finding), (at as u64 + 2, Finding::OutOfOrder { found: at as u64 + 1 }));

        let mut swapped = good.clone();
        swapped.swap(at, at + 1);
        assert_eq!(verify(&swapped, 64).unwrap_err().seq, at as u64 + 1);

        // A record is removed and the rest renumbered, with the hashes unchanged.
        let mut renumbered = good.clone();
        renumbered.remove(at);
        for (i, row) in renumbered.iter_mut().enumerate() {
            row.seq = i as u64 + 1;
        }
        assert_eq!(verify(&renumbered, 64).unwrap_err().seq, at as u64 + 1);
    }
    let mut zero = good.clone();
    zero[0].seq = 0;
    assert_eq!(verify(&zero, 64).unwrap_err().seq, 1);
}

#[test]
fn a_time_that_runs_backwards_is_found_even_with_recomputed_hashes() {
    let mut rows = log(100);
    rows[49].timestamp = Timestamp::from_micros(5);
    for i in 49..100 {
        rows[i].prev_hash = rows[i - 1].hash;
        let row = &mut rows[i];
        rehash(row);
    }
    assert_eq!(verify(&rows, 64).unwrap_err(), Fault { seq: 50, finding: Finding::TimeBackwards });
}

#[test]
fn a_time_runs_backwards_only_where_the_record_says_so() {
    let mut rows = log(100);
    // Records 41 to 49 were written by a clock that was ahead, and the time after 50 is before that of 40.
    rows[40..49].iter_mut().for_each(|row| row.timestamp = Timestamp::from_micros(4_000_000_000));
    rows[49].action = Action::ClockAcknowledge.as_str().to_owned();
    rows[49..].iter_mut().for_each(|row| row.timestamp = Timestamp::from_micros(5));
    for i in 40..100 {
        rows[i].prev_hash = rows[i - 1].hash;
        rehash(&mut rows[i]);
    }
    for chunk in [1, 7, 49, 64] {
        assert!(verify(&rows, chunk).is_ok(), "{chunk}");
    }
    rows[60].timestamp = Timestamp::from_micros(4);
    for i in 60..100 {
        rows[i].prev_hash = rows[i - 1].hash;
        rehash(&mut rows[i]);
    }
    for chunk in [1, 7, 60, 64] {
        assert_eq!(verify(&rows, chunk).unwrap_err(), Fault { seq: 61, finding: Finding::TimeBackwards }, "{chunk}");
    }
}

#[test]
fn rewriting_with_recomputed_hashes_changes_the_root() {
    let good = log(100);
    let mut rows = good.clone();
    rows[49].actor = "mallory".into();
    for i in 49..100 {
        rows[i].prev_hash = rows[i - 1].hash;
        rehash(&mut rows[i]);
    }
    let (rewritten, root) = (verify(&rows, 64).unwrap(), verify(&good, 64).unwrap());
    assert_ne!(rewritten.frontier.root(), root.frontier.root());
}

#[test]
fn changed_rows_are_taken_from_successful_changes_only() {
    let mut rows = log(3);
    for (row, status) in rows.iter_mut().zip(["SUCCESS", "FAILURE", "SUCCESS"]) {
        row.status = status.into();
        row.details = Some("{\"rows\":[[\"keys\",\"k\",\"d\"]]}".into());
    }
    rows[2].details = Some("{\"context\":{\"a\":\"\\\"rows\\\":[[\"}}".into());
    for i in 0..3 {
        rows[i].prev_hash = if i == 0 { [0; 32] } else { rows[i - 1].hash };
        rehash(&mut rows[i]);
    }
    let digest = digest(LOG, &rows);
    assert!(digest.fault.is_none());
    let (key, key_name) = (rows[0].key_id, None);
    let expected = ChangedRow { seq: 1, table: "keys".into(), id: "k".into(), digest: "d".into(), key, key_name };
    assert_eq!(digest.changed, [expected]);
}

#[test]
fn only_the_record_of_its_creation_names_a_key() {
    let mut rows = log(2);
    for (row, action) in rows.iter_mut().zip(["KEY_CREATE", "KEY_ROTATE"]) {
        row.action = action.into();
        row.status = "SUCCESS".into();
        row.details = Some("{\"name\":\"n\",\"rows\":[[\"keys\",\"k\",\"d\"],[\"grants\",\"g\",\"d\"]]}".into());
    }
    for i in 0..2 {
        rows[i].prev_hash = if i == 0 { [0; 32] } else { rows[i - 1].hash };
        rehash(&mut rows[i]);
    }
    let names: Vec<Option<String>> = digest(LOG, &rows).changed.into_iter().map(|change| change.key_name).collect();
    assert_eq!(names, [Some("n".to_owned()), None, None, None]);
}
