//! Statements as text that includes their values. Servers accept several statements in one message only without bound
//! values.
//!
//! Nothing is escaped, so nothing can be escaped wrongly: every value that is not a number is written in hexadecimal,
//! which cannot end its literal.

use std::fmt::Write;

use super::dialect::Dialect;
use super::{Statement, Value};

/// Appends a statement and a semicolon. Every question mark in our statements is a placeholder.
pub(super) fn append(text: &mut String, statement: &Statement, dialect: &Dialect) {
    let mut values = statement.values.iter();
    for (number, part) in statement.sql.split('?').enumerate() {
        if number > 0 {
            append_value(text, values.next().unwrap_or(&Value::Null), dialect);
        }
        text.push_str(part);
    }
    text.push(';');
}

fn append_value(text: &mut String, value: &Value, dialect: &Dialect) {
    match value {
        Value::Null => text.push_str("NULL"),
        // Writing to a string does not fail.
        Value::Int(number) => drop(write!(text, "{number}")),
        Value::Text(value) => append_hex(text, value.as_bytes(), dialect.text_literal),
        Value::Ciphertext(value) => append_hex(text, value, dialect.blob_literal),
    }
}

fn append_hex(text: &mut String, bytes: &[u8], (before, after): (&str, &str)) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    text.push_str(before);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text.push_str(after);
}

#[cfg(test)]
mod tests {
    use super::super::dialect::{MYSQL, POSTGRES};
    use super::*;

    #[test]
    fn values_are_numbers_or_hexadecimal() {
        let statement = |values| Statement::new("UPDATE t SET a = ?, b = ? WHERE c = ? AND d = ?", values);
        let first = statement(vec![i64::MIN.into(), "'; DROP".into(), (&[0x00, 0xff]).into(), Value::Null]);
        let mut text = String::new();
        append(&mut text, &first, &MYSQL);
        assert_eq!(
            text,
            "UPDATE t SET a = -9223372036854775808, b = _utf8mb4 x'273b2044524f50' WHERE c = x'00ff' AND d = NULL;"
        );
        append(&mut text, &Statement::new("SELECT ?", vec!["".into()]), &POSTGRES);
        assert!(text.ends_with(";SELECT convert_from('\\x', 'UTF8');"));
    }
}
