#![allow(clippy::unwrap_used)]

use super::*;
use crate::types::audit::hex;

/// A row of format 0 whose milliseconds and order of names were lost in a database.
fn row(details: &str, hashed: &str, millis: u32) -> LegacyRow {
    let mut row = LegacyRow {
        id: "a".into(),
        timestamp: "2026-11-23 18:26:46".into(),
        actor: "alice".into(),
        role: "admin".into(),
        action: "ENCRYPT".into(),
        request_id: "r".into(),
        details: Some(details.into()),
        key_id: None,
        key_version: None,
        prev_hash: "GENESIS".into(),
        hash: String::new(),
        status: "SUCCESS".into(),
    };
    row.hash = hex(&Text::new(&row, Some(hashed), None).hash(&format!("2026-11-23T18:26:46.{millis:03}Z")));
    row
}

#[test]
fn lost_milliseconds_and_orders_of_names_are_found() {
    let (stored, hashed) = (r#"{"a":1,"b":2,"c":3}"#, r#"{"c":3,"b":2,"a":1}"#);
    let mut search = Search::default();
    assert_eq!((search.reproduce(&row(stored, hashed, 999)), search.doubt()), (Some(0), None));
    assert_eq!(search.left, RUN_SEARCH, "a search that succeeds costs nothing");
    let altered = LegacyRow { actor: "mallory".into(), ..row(stored, hashed, 999) };
    assert_eq!((search.reproduce(&altered), search.doubt()), (None, None));
    let spent = RUN_SEARCH - search.left;
    assert!((6 * 1_002 * 200..6 * 1_003 * 400).contains(&spent), "{spent}");
}

/// The search is bounded for one row, however long it is, and for all rows together.
#[test]
fn the_search_is_bounded_by_row_and_in_sum() {
    let details = format!(r#"{{"a":"{}","b":2}}"#, "x".repeat(100_000));
    let altered = LegacyRow { actor: "mallory".into(), ..row(&details, &details, 999) };
    let mut search = Search::default();
    assert_eq!((search.reproduce(&altered), search.doubt()), (None, Some(Doubt::Unsearched)));
    assert!(RUN_SEARCH - search.left <= ROW_SEARCH);
    // The remaining budget is used up, and no more.
    search.left = 1_000_000;
    assert_eq!((search.reproduce(&altered), search.doubt()), (None, Some(Doubt::Unsearched)));
    assert!(search.left < 200_000, "{}", search.left);
    // Unaltered rows are recognized without a search.
    search.left = 0;
    assert_eq!((search.reproduce(&row(&details, &details, 0)), search.doubt()), (Some(0), None));
    assert_eq!((search.reproduce(&row("{}", "{}", 5)), search.doubt()), (None, Some(Doubt::Unsearched)));
}

/// Details that would take a hundred times the memory of their text are not parsed.
#[test]
fn details_of_very_many_values_are_not_read() {
    let of = |values: usize| format!("[{}1]", "1,".repeat(values));
    let mut search = Search::default();
    let (few, many) = (of(1_000), of(300_000));
    assert_eq!((search.reproduce(&row(&few, &few, 0)), search.doubt()), (Some(0), None));
    assert_eq!((search.reproduce(&row(&many, &many, 0)), search.doubt()), (None, Some(Doubt::Unsearched)));
    assert_eq!(search.left, RUN_SEARCH);
}

/// A row whose names MySQL may have sorted counts as altered like any other, but is reported as such.
#[test]
fn an_order_that_mysql_lost_is_told_apart_from_an_alteration() {
    let written = r#"{"newVersion":2,"keyId":"k","ok":true,"error":"e"}"#;
    let in_mysql = r#"{"ok": true, "error": "e", "keyId": "k", "newVersion": 2}"#;
    let nested = r#"{"a": {"b": 1, "cc": 2}}"#;
    let mut search = Search::default();
    for (details, hashed, expected) in [
        (written, written, (Some(0), None)),
        // Its text was never in the type JSON, so its order is the one that was hashed.
        (written, in_mysql, (None, None)),
        (in_mysql, written, (None, Some(Doubt::OrderLost))),
        (nested, r#"{"a":{"cc":2,"b":1}}"#, (None, Some(Doubt::OrderLost))),
        // All orders of these names are tried.
        (r#"{"a": 1, "b": 2, "cc": 3}"#, "{}", (None, None)),
        (r#"{"a": 1, "b": 2, "cc": 3}"#, r#"{"cc":3,"b":2,"a":1}"#, (Some(0), None)),
    ] {
        assert_eq!((search.reproduce(&row(details, hashed, 7)), search.doubt()), expected, "{details} {hashed}");
    }
}
