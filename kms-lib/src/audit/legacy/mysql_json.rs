//! The text that MySQL prints for a value of its type JSON. The type sorts the names of an object, so a value in this
//! form may have lost the order in which its names were written.

use super::ecma_json::Value;

/// Whether a JSON text has the form in which MySQL prints a value: a space after every comma and colon and no other
/// white space, and the names of each object sorted, shorter ones first. `value` is the parsed text.
///
/// The text of an object in another form was never held in the type JSON, so its order is the original one.
pub(super) fn is_its_form(text: &str, value: &Value) -> bool {
    has_its_spaces(text) && is_sorted(value)
}

fn has_its_spaces(text: &str) -> bool {
    let (mut in_string, mut is_escaped, mut before) = (false, false, ' ');
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if in_string {
            in_string = character != '"' || is_escaped;
            is_escaped = character == '\\' && !is_escaped;
        } else {
            let is_right = match character {
                ',' | ':' => characters.peek() == Some(&' '),
                ' ' => matches!(before, ',' | ':'),
                other => !other.is_whitespace(),
            };
            if !is_right {
                return false;
            }
            in_string = character == '"';
        }
        before = character;
    }
    true
}

fn is_sorted(value: &Value) -> bool {
    match value {
        Value::Object(members) => {
            // ECMAScript lists names that are array indexes first, wherever they are in the text.
            let is_index = |name: &String| name.bytes().all(|byte| byte.is_ascii_digit());
            let names = members.iter().map(|(name, _)| String::from_utf16_lossy(name));
            let names: Vec<String> = names.filter(|name| !is_index(name)).collect();
            let are_sorted = names.windows(2).all(|pair| (pair[0].len(), &pair[0]) <= (pair[1].len(), &pair[1]));
            are_sorted && members.iter().all(|(_, value)| is_sorted(value))
        }
        Value::Array(values) => values.iter().all(is_sorted),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_mysql_prints_has_its_form() {
        let check = |text: &str| is_its_form(text, &Value::parse(text).unwrap());
        for text in [
            r#"{"a": 1, "b": 2, "aa": [1, {"x": "a,b:  c", "yy": "\""}]}"#,
            r#"{"ok": true, "error": "e", "keyId": "k", "newVersion": 2}"#,
            r#"{"b": 1, "10": 2, "cc": 3}"#,
            "[]",
            "1",
        ] {
            assert!(check(text), "{text}");
        }
        for text in [
            r#"{"a":1,"b":2}"#,
            r#"{"a": 1,"b": 2}"#,
            r#"{ "a": 1, "b": 2}"#,
            r#"{"a": 1,  "b": 2}"#,
            r#"{"a":  1, "b": 2}"#,
            r#"{"b": 1, "a": 2}"#,
            r#"{"aa": 1, "b": 2}"#,
            r#"[{"b": 1, "a": 2}]"#,
            "{\n\"a\": 1}",
        ] {
            assert!(!check(text), "{text}");
        }
    }
}
