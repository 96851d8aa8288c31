//! JSON as ECMAScript reads and prints it (ECMA-262, `JSON.parse` and `JSON.stringify`).
//!
//! It differs from serde_json as ECMAScript does: text is UTF-16 and may contain unpaired surrogates, every number is a
//! double, and an object lists names that are array indexes first, in ascending order.

mod parser;

use std::fmt::Write;

use indexmap::IndexMap;

use crate::types::error::Result;
use parser::Parser;

/// A JSON value in ECMAScript's representation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A double; infinite numbers print as `null`.
    Number(f64),
    /// Text in UTF-16, well-formed or not.
    Text(Vec<u16>),
    /// An array.
    Array(Vec<Self>),
    /// An object.
    Object(Object),
}

/// The members of an object. Setting an existing name again keeps its place and replaces its value.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Object(IndexMap<Vec<u16>, Value>);

impl Object {
    /// An object without members.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a member.
    pub fn set(&mut self, name: &str, value: Value) {
        self.set_utf16(name.encode_utf16().collect(), value);
    }

    /// Sets a member whose name is in UTF-16.
    pub fn set_utf16(&mut self, name: Vec<u16>, value: Value) {
        self.0.insert(name, value);
    }

    /// The members, in the order of [`iter`](Self::iter).
    pub fn into_members(self) -> impl Iterator<Item = (Vec<u16>, Value)> {
        let mut members = self.0;
        members.sort_by(|left, _, right, _| match (array_index(left), array_index(right)) {
            (Some(left), Some(right)) => left.cmp(&right),
            // `None` means not an index: such names come last, in their original order.
            (left, right) => right.is_some().cmp(&left.is_some()),
        });
        members.into_iter()
    }

    /// The members in ECMAScript's order (`OrdinaryOwnPropertyKeys`): array indexes first, in ascending order, then the
    /// others in insertion order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u16], &Value)> {
        let mut indexes: Vec<(u32, &Vec<u16>, &Value)> =
            self.0.iter().filter_map(|(name, value)| Some((array_index(name)?, name, value))).collect();
        indexes.sort_unstable_by_key(|(index, ..)| *index);
        let indexes = indexes.into_iter().map(|(_, name, value)| (name.as_slice(), value));
        let others = self.0.iter().filter(|(name, _)| array_index(name).is_none());
        indexes.chain(others.map(|(name, value)| (name.as_slice(), value)))
    }
}

impl Value {
    /// Parses JSON text as `JSON.parse` does. `InvalidArgument` if it is not JSON or nests deeper than 512 levels.
    pub fn parse(text: &str) -> Result<Self> {
        Parser::new(text).document()
    }

    /// A text value.
    pub fn text(text: &str) -> Self {
        Self::Text(text.encode_utf16().collect())
    }

    /// A number value.
    pub fn number(number: f64) -> Self {
        Self::Number(number)
    }

    /// Prints the value as `JSON.stringify` does, without white space.
    pub fn stringify(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    /// Sets the members of `target` as the spread syntax `{...value}` does: the members of an object, the items of an
    /// array, the UTF-16 units of a text, and nothing for other values.
    pub fn spread_into(&self, target: &mut Object) {
        let index = |at: usize| at.to_string().encode_utf16().collect();
        match self {
            Self::Object(members) => {
                for (name, value) in members.iter() {
                    target.set_utf16(name.to_vec(), value.clone());
                }
            }
            Self::Array(items) => {
                for (at, item) in items.iter().enumerate() {
                    target.set_utf16(index(at), item.clone());
                }
            }
            Self::Text(units) => {
                for (at, unit) in units.iter().enumerate() {
                    target.set_utf16(index(at), Self::Text(vec![*unit]));
                }
            }
            Self::Null | Self::Bool(_) | Self::Number(_) => {}
        }
    }

    /// Appends what [`stringify`](Self::stringify) returns.
    pub fn write(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(true) => out.push_str("true"),
            Self::Bool(false) => out.push_str("false"),
            Self::Number(number) if number.is_finite() => {
                out.push_str(ryu_js::Buffer::new().format_finite(*number));
            }
            Self::Number(_) => out.push_str("null"),
            Self::Text(units) => write_text(units, out),
            Self::Array(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (at, (name, value)) in members.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    write_text(name, out);
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

/// Appends a text in quotes, with the escapes of `QuoteJSONString`: unpaired surrogates are escaped too.
fn write_text(units: &[u16], out: &mut String) {
    out.push('"');
    for decoded in char::decode_utf16(units.iter().copied()) {
        match decoded {
            Ok('"') => out.push_str("\\\""),
            Ok('\\') => out.push_str("\\\\"),
            Ok('\u{8}') => out.push_str("\\b"),
            Ok('\t') => out.push_str("\\t"),
            Ok('\n') => out.push_str("\\n"),
            Ok('\u{c}') => out.push_str("\\f"),
            Ok('\r') => out.push_str("\\r"),
            Ok(control) if control < ' ' => write_escape(u16::try_from(u32::from(control)).unwrap_or_default(), out),
            Ok(character) => out.push(character),
            Err(unpaired) => write_escape(unpaired.unpaired_surrogate(), out),
        }
    }
    out.push('"');
}

fn write_escape(unit: u16, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = write!(out, "\\u{unit:04x}");
}

/// The number represented by a name that is an array index: a decimal below 2^32 - 1 in its shortest spelling.
fn array_index(name: &[u16]) -> Option<u32> {
    let is_digit = |unit: &u16| (u16::from(b'0')..=u16::from(b'9')).contains(unit);
    let has_leading_zero = name.len() > 1 && name[0] == u16::from(b'0');
    if name.is_empty() || name.len() > 10 || has_leading_zero || !name.iter().all(is_digit) {
        return None;
    }
    let number = name.iter().fold(0u64, |number, unit| number * 10 + u64::from(unit - u16::from(b'0')));
    u32::try_from(number).ok().filter(|number| *number < u32::MAX)
}

#[cfg(test)]
mod tests;
