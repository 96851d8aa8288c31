#![allow(clippy::unwrap_used)]

use serde_json::Value as Json;

use super::*;
use crate::audit::legacy::{LegacyRow, reproduce};

const CLEAN: &str = include_str!("../../../../../tests/legacy/clean.sql");
const FORKED: &str = include_str!("../../../../../tests/legacy/forked.sql");
const FORMAT_0: &str = include_str!("../../../../../tests/legacy/format0.json");

/// The rows of a dump, in its order, which is that of the ids.
fn dumped(sql: &str) -> Vec<LegacyRow> {
    let inserts = sql.lines().filter_map(|line| line.strip_prefix("INSERT INTO `audit_logs` VALUES ("));
    inserts.map(|line| row(&values(line))).collect()
}

/// Parses the literals of an INSERT statement.
fn values(mut line: &str) -> Vec<Option<String>> {
    let mut values = Vec::new();
    while !line.is_empty() {
        if let Some(text) = line.strip_prefix('\'') {
            let mut value = String::new();
            let mut rest = text.chars();
            loop {
                match rest.next().unwrap() {
                    '\\' => value.push(rest.next().unwrap()),
                    '\'' => break,
                    other => value.push(other),
                }
            }
            values.push(Some(value));
            line = rest.as_str();
        } else {
            let end = line.find([',', ')']).unwrap();
            values.push(Some(line[..end].to_owned()).filter(|value| value != "NULL"));
            line = &line[end..];
        }
        line = line.strip_prefix(',').unwrap_or_default();
    }
    values
}

fn row(values: &[Option<String>]) -> LegacyRow {
    let text = |at: usize| values[at].clone().unwrap();
    LegacyRow {
        id: text(0),
        timestamp: text(1),
        actor: text(2),
        role: text(3),
        action: text(4),
        request_id: text(5),
        details: values[6].clone(),
        key_id: values[7].clone(),
        key_version: values[8].as_ref().map(|version| version.parse().unwrap()),
        prev_hash: text(9),
        hash: text(10),
        status: text(11),
    }
}

/// The rows of the older log. Its details keep their order of names.
fn older() -> Vec<LegacyRow> {
    let texts: Vec<&serde_json::value::RawValue> = serde_json::from_str(FORMAT_0).unwrap();
    let read = |text: &&serde_json::value::RawValue| {
        #[derive(serde::Deserialize)]
        struct Details<'a> {
            #[serde(borrow)]
            details: &'a serde_json::value::RawValue,
        }
        let fields: Json = serde_json::from_str(text.get()).unwrap();
        let Details { details } = serde_json::from_str(text.get()).unwrap();
        let field = |name: &str| fields[name].as_str().map(str::to_owned);
        let names = ["id", "timestamp", "actor", "role", "action", "requestId"];
        let mut values: Vec<Option<String>> = names.map(field).to_vec();
        values.extend([Some(details.get().to_owned()), None, None, field("prevHash"), field("hash"), field("status")]);
        row(&values)
    };
    texts.iter().map(read).collect()
}

fn chain(rows: &[LegacyRow]) -> Chain {
    let mut chain = Chain::default();
    for row in rows {
        chain.add(Entry::new(&StoredRow { row: row.clone(), format: reproduce(row) }));
    }
    chain.arrange();
    chain
}

fn findings(rows: &[LegacyRow]) -> LegacyLog {
    chain(rows).findings("test")
}

/// The findings of a log without its counts.
fn faults(log: &LegacyLog) -> Vec<(&'static str, Vec<String>)> {
    let all = [
        ("altered", &log.altered),
        ("unlinked", &log.unlinked),
        ("repeated", &log.repeated),
        ("circular", &log.circular),
        ("backwards", &log.backwards),
    ];
    all.into_iter().filter(|(_, rows)| rows.count > 0).map(|(name, rows)| (name, rows.ids.clone())).collect()
}

/// The rows of the clean log in the order of their links.
fn linear() -> Vec<LegacyRow> {
    let rows = dumped(CLEAN);
    let ids: Vec<String> = chain(&rows).entries().iter().map(|entry| entry.id.to_string()).collect();
    ids.iter().map(|id| rows.iter().find(|row| row.id == *id).unwrap().clone()).collect()
}

#[test]
fn every_hash_of_the_clean_log_reproduces() {
    let rows = dumped(CLEAN);
    assert_eq!(rows.len(), 30);
    let log = findings(&rows);
    assert_eq!((log.current_format, log.older_format, log.rows), (30, 0, 30));
    assert_eq!(faults(&log), []);
    assert_eq!((log.heads.count, log.forks.count, log.legacy.count), (1, 0, 0));
    let answers: Json = serde_json::from_str(include_str!("../../../../../tests/legacy/clean.json")).unwrap();
    assert_eq!(log.heads.ids, [answers["auditHead"]["id"].as_str().unwrap()]);
    assert_eq!(serde_json::to_value(&log.verdict).unwrap(), answers["verify"]);
}

#[test]
fn rows_come_in_the_order_of_their_links() {
    let mut prev = "GENESIS".to_owned();
    for row in linear() {
        assert_eq!(row.prev_hash, prev);
        prev = row.hash;
    }
}

#[test]
fn forks_are_counted_and_kept() {
    let rows = dumped(FORKED);
    let log = findings(&rows);
    assert_eq!((log.current_format, log.rows), (rows.len() as u64, rows.len() as u64));
    assert_eq!(faults(&log), []);
    let mut links: HashMap<&str, u64> = HashMap::new();
    rows.iter().for_each(|row| *links.entry(&row.prev_hash).or_default() += 1);
    links.retain(|_, rows| *rows > 1);
    assert_eq!(log.forks.count, links.len() as u64);
    assert!(log.forks.count > 1);
    assert_eq!(log.forks.surplus_rows, links.values().map(|rows| rows - 1).sum::<u64>());
    for fork in &log.forks.listed {
        assert_eq!(links[fork.prev_hash.as_str()], fork.rows);
    }
    let hashes: Vec<&str> = rows.iter().map(|row| row.prev_hash.as_str()).collect();
    let heads = rows.iter().filter(|row| !hashes.contains(&row.hash.as_str()));
    assert_eq!(log.heads.count, heads.count() as u64);
    let answers: Json = serde_json::from_str(include_str!("../../../../../tests/legacy/forked.json")).unwrap();
    assert_eq!(serde_json::to_value(&log.verdict).unwrap(), answers["verify"]);
    let order = chain(&rows);
    let place = |hash: &str| order.entries().iter().position(|entry| entry.hash == link(hash));
    for row in &rows {
        assert!(row.prev_hash == "GENESIS" || place(&row.prev_hash) < place(&row.hash));
    }
}

#[test]
fn every_hash_of_the_older_log_reproduces() {
    let rows = older();
    let log = findings(&rows);
    assert_eq!((log.older_format, log.current_format, log.rows), (15, 0, 15));
    assert_eq!((faults(&log), log.legacy.count, log.verdict.ok), (Vec::new(), 15, true));
}

/// A DATETIME column stores no milliseconds, and MySQL's JSON type orders names by their length.
#[test]
fn older_rows_reproduce_from_a_database() {
    let mut rows = older();
    for row in &mut rows {
        row.timestamp = row.timestamp[..19].replace('T', " ");
        row.details = row.details.take().map(|details| {
            let details: Json = serde_json::from_str(&details).unwrap();
            let mut members: Vec<(String, Json)> = details.as_object().unwrap().clone().into_iter().collect();
            members.sort_by_key(|(name, _)| (name.len(), name.clone()));
            let printed: Vec<String> = members.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
            format!("{{{}}}", printed.join(", "))
        });
    }
    assert!(rows.iter().any(|row| row.details.as_ref().unwrap().starts_with("{\"type\"")));
    assert_eq!(findings(&rows).older_format, 15);
    rows[3].timestamp.push_str(".848");
    assert_eq!(findings(&rows).older_format, 15);
    rows[3].timestamp = "2025-10-06 13:12:20.849".into();
    assert_eq!(faults(&findings(&rows)), [("altered", vec![rows[3].id.clone()])]);
    rows[3].timestamp = "2025-10-06 13:12:21".into();
    assert_eq!(faults(&findings(&rows)), [("altered", vec![rows[3].id.clone()])]);
}

#[test]
fn an_edit_of_any_field_is_found() {
    let rows = linear();
    let edits: [fn(&mut LegacyRow); 9] = [
        |row| row.id.replace_range(0..1, "x"),
        |row| row.timestamp.replace_range(18..19, if row.timestamp.ends_with('1') { "2" } else { "1" }),
        |row| row.actor.push('x'),
        |row| row.role.push('x'),
        |row| row.action.push('x'),
        |row| row.request_id.push('x'),
        |row| row.details = Some("{}".into()),
        |row| row.key_version = Some(1),
        |row| row.status = "OTHER".into(),
    ];
    for edit in edits {
        let mut rows = rows.clone();
        edit(&mut rows[10]);
        assert_eq!(faults(&findings(&rows)), [("altered", vec![rows[10].id.clone()])]);
    }
    let mut relinked = rows.clone();
    relinked[10].prev_hash = rows[5].hash.clone();
    let log = findings(&relinked);
    assert_eq!(faults(&log), [("altered", vec![rows[10].id.clone()])]);
    assert_eq!(log.forks.count, 1);
    let mut rehashed = rows.clone();
    rehashed[10].hash = "0".repeat(64);
    let expected = [("altered", vec![rows[10].id.clone()]), ("unlinked", vec![rows[11].id.clone()])];
    assert_eq!(faults(&findings(&rehashed)), expected);
}

#[test]
fn deleted_swapped_and_inserted_rows_are_found() {
    let rows = linear();
    let mut deleted = rows.clone();
    deleted.remove(7);
    assert_eq!(faults(&findings(&deleted)), [("unlinked", vec![rows[8].id.clone()])]);
    let mut first = rows.clone();
    first.remove(0);
    assert_eq!(faults(&findings(&first)), [("unlinked", vec![rows[1].id.clone()])]);
    let mut swapped = rows.clone();
    let (left, right) = swapped.split_at_mut(10);
    std::mem::swap(&mut left[5].details, &mut right[9].details);
    let mut expected = vec![rows[5].id.clone(), rows[19].id.clone()];
    expected.sort();
    let mut found = findings(&swapped).altered.ids;
    found.sort();
    assert_eq!(found, expected);

    // An inserted row with a correct hash makes a fork; a copied row has the hash of another row.
    let mut inserted = rows.clone();
    let mut row = rows[12].clone();
    row.id = "ffffffff-0000-4000-8000-000000000000".into();
    row.hash = hash_of(&row);
    inserted.push(row.clone());
    let log = findings(&inserted);
    assert_eq!((faults(&log), log.forks.count, log.forks.surplus_rows), (Vec::new(), 1, 1));
    assert!(log.forks.listed[0].ids.contains(&row.id));
    row.hash = rows[12].hash.clone();
    inserted.pop();
    inserted.push(row.clone());
    let log = findings(&inserted);
    assert_eq!(log.altered.ids, [row.id.clone()]);
    assert_eq!(log.repeated.count, 1);
}

/// The hash of a row under format 1, for details with at most one name.
fn hash_of(row: &LegacyRow) -> String {
    let mut row = row.clone();
    let details = row.details.take().unwrap();
    let json = format!(
        r#"{{"id":"{}","timestamp":"{}.000Z","actor":"{}","role":"{}","action":"{}","requestId":"{}","details":{details},"keyId":null,"keyVersion":null,"status":"{}"}}"#,
        row.id,
        row.timestamp.replace(' ', "T"),
        row.actor,
        row.role,
        row.action,
        row.request_id,
        row.status
    );
    hex(&Sha256::digest(row.prev_hash + &json))
}

#[test]
fn rows_in_a_circle_are_kept_and_reported() {
    let mut rows = linear();
    rows[4].prev_hash = rows[6].hash.clone();
    rows[20].prev_hash = rows[20].hash.clone();
    let log = findings(&rows);
    assert_eq!((log.rows, log.altered.count), (30, 2));
    assert_eq!(log.circular.count, 26);
    assert_eq!(chain(&rows).entries().len(), 30);
}

#[test]
fn nothing_comes_before_the_beginning() {
    let mut rows = linear();
    rows[29].hash = "GENESIS".into();
    let log = findings(&rows);
    assert_eq!(faults(&log), [("altered", vec![rows[29].id.clone()])]);
    assert_eq!(*chain(&rows).entries()[0].id, rows[0].id);
}

#[test]
fn text_that_is_no_hash_json_or_time_is_reported() {
    let mut rows = linear();
    rows[3].hash = "é".repeat(32);
    rows[5].hash = String::new();
    rows[7].details = Some("{".into());
    rows[9].details = Some("[".repeat(100_000));
    rows[11].timestamp = "0000-00-00 00:00:00".into();
    rows[13].timestamp = "é".into();
    rows[15].prev_hash = "GENESIS ".into();
    let log = findings(&rows);
    assert_eq!(log.altered.count, 7);
    assert_eq!(log.unlinked.count, 3);
}

/// New rows come after the sealed ones, including those that link to the same sealed row.
#[test]
fn sealed_rows_keep_their_places() {
    let rows = dumped(FORKED);
    let ordered = chain(&rows);
    for cut in [0, 1, 7, rows.len()] {
        let mut later = Chain::new(ordered.entries()[..cut].to_vec());
        let sealed = later.sealed_by_id();
        for row in rows.iter().filter(|row| sealed.get(&row.id).is_empty()) {
            later.add(Entry::new(&StoredRow { row: row.clone(), format: reproduce(row) }));
        }
        later.arrange();
        assert_eq!(later.findings("test"), ordered.findings("test"));
    }
}

/// A minute of load: each row links to one of a few rows of the previous second.
#[test]
fn many_forked_rows_are_arranged() {
    let mut chain = Chain::default();
    let name = |n: u32| -> [u8; 32] { Sha256::digest(n.to_be_bytes()).into() };
    let rows = 200_000;
    for n in (0..rows).rev() {
        let prev = if n < 200 { link("GENESIS") } else { name(n / 200 * 200 - 200 + n % 2) };
        let time = i64::from(n / 200);
        let id = format!("{n:08}").into();
        chain.add(Entry { id, leaf: name(n), format: Some(1), bytes: 0, hash: name(n), prev, time });
    }
    chain.arrange();
    let log = chain.findings("test");
    assert_eq!(log.rows, u64::from(rows));
    assert_eq!(faults(&log), []);
    assert_eq!(log.forks.count, 2 * u64::from(rows / 200) - 1);
    assert_eq!(log.heads.count, u64::from(rows - rows / 200 * 2) + 2);
    assert_eq!((log.heads.ids.len(), log.forks.listed.len()), (100, 100));
}

#[test]
fn a_stored_row_is_read_back() {
    for row in dumped(CLEAN).into_iter().chain(older()) {
        let stored = StoredRow { format: reproduce(&row), row };
        let body = stored.body();
        assert_eq!(StoredRow::read(&body).as_ref(), Some(&stored));
        assert_eq!(crate::audit::canonical::canonical(&serde_json::from_str(&body).unwrap()).unwrap(), body);
        assert_eq!(StoredRow::read(&body.replace("\"format\":", "\"format\": ")), None);
        assert_eq!(StoredRow::read(&body.replacen('{', "{\"a\":1,", 1)), None);
    }
}
