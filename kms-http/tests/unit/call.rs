//! Unit tests of `src/api/call.rs`: what is found in a body.

use super::*;

#[test]
fn items_are_found_wherever_they_are() {
    let around = br#""items_item"s"it"ems"tems""itemsitems"s""itemsx"eitems""#;
    assert!(!around.windows(7).any(|window| window == br#""items""#));
    assert!(!names_items(around));
    for before in 0..around.len() {
        for after in 0..9 {
            let end = &around[around.len() - after..];
            let body = [&around[..before], br#""items""#, end].concat();
            assert!(names_items(&body), "{}", String::from_utf8_lossy(&body));
        }
        let cut = [&around[..before], br#""items"#].concat();
        assert_eq!(names_items(&cut), cut.windows(7).any(|window| window == br#""items""#));
    }
    assert!(!names_items(b""));
}
