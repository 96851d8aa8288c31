//! The grammar of `JSON.parse` (RFC 8259). Unpaired surrogates in escapes and numbers beyond the range of a double are
//! accepted, as ECMAScript does.

use super::{Object, Value};
use crate::types::error::{Error, Result};

/// The maximum nesting depth. Deeper nesting is refused, since it would need unbounded stack space.
const DEPTH: usize = 512;

/// A parser of one JSON text.
pub(super) struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    /// Creates a parser at the beginning of `text`.
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0, depth: 0 }
    }

    /// Parses the whole text as one value.
    pub fn document(mut self) -> Result<Value> {
        let value = self.value()?;
        self.skip_white_space();
        if self.at == self.text.len() { Ok(value) } else { Err(self.bad("text after the value")) }
    }

    fn value(&mut self) -> Result<Value> {
        self.skip_white_space();
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => Ok(Value::Text(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            _ => Err(self.bad("a value is missing")),
        }
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<Value>) -> Result<Value> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(self.bad("it nests deeper than 512 levels"));
        }
        self.at += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn object(&mut self) -> Result<Value> {
        let mut members = Object::new();
        self.skip_white_space();
        if self.take(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            self.skip_white_space();
            let name = self.string()?;
            self.skip_white_space();
            if !self.take(b':') {
                return Err(self.bad("a colon is missing"));
            }
            members.set_utf16(name, self.value()?);
            self.skip_white_space();
            if self.take(b'}') {
                return Ok(Value::Object(members));
            }
            if !self.take(b',') {
                return Err(self.bad("an object does not end"));
            }
        }
    }

    fn array(&mut self) -> Result<Value> {
        let mut items = Vec::new();
        self.skip_white_space();
        if self.take(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value()?);
            self.skip_white_space();
            if self.take(b']') {
                return Ok(Value::Array(items));
            }
            if !self.take(b',') {
                return Err(self.bad("an array does not end"));
            }
        }
    }

    fn string(&mut self) -> Result<Vec<u16>> {
        if !self.take(b'"') {
            return Err(self.bad("a string is missing"));
        }
        let mut units = Vec::new();
        loop {
            let plain = self.text[self.at..].bytes().take_while(|b| *b >= 0x20 && *b != b'"' && *b != b'\\').count();
            units.extend(self.text[self.at..self.at + plain].encode_utf16());
            self.at += plain;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(units);
                }
                Some(b'\\') => units.push(self.escape()?),
                Some(_) => return Err(self.bad("a string has a control character")),
                None => return Err(self.bad("a string does not end")),
            }
        }
    }

    /// Parses an escape into one UTF-16 unit, which may be half of a surrogate pair.
    fn escape(&mut self) -> Result<u16> {
        let letter = self.text.as_bytes().get(self.at + 1).copied();
        self.at += 2;
        let unit = match letter {
            Some(plain @ (b'"' | b'\\' | b'/')) => plain,
            Some(b'b') => 0x08,
            Some(b't') => b'\t',
            Some(b'n') => b'\n',
            Some(b'f') => 0x0C,
            Some(b'r') => b'\r',
            Some(b'u') => {
                let digits = self.text.as_bytes().get(self.at..self.at + 4).unwrap_or_default();
                let is_hex = digits.len() == 4 && digits.iter().all(u8::is_ascii_hexdigit);
                let unit = str::from_utf8(digits).ok().filter(|_| is_hex);
                let unit = unit.and_then(|digits| u16::from_str_radix(digits, 16).ok());
                self.at += 4;
                return unit.ok_or_else(|| self.bad("a string has a bad escape"));
            }
            _ => return Err(self.bad("a string has a bad escape")),
        };
        Ok(u16::from(unit))
    }

    fn number(&mut self) -> Result<Value> {
        let start = self.at;
        self.take(b'-');
        let integer = self.digits();
        let has_leading_zero = integer > 1 && self.text.as_bytes()[self.at - integer] == b'0';
        let mut is_good = integer > 0 && !has_leading_zero;
        if self.take(b'.') {
            is_good &= self.digits() > 0;
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            is_good &= self.digits() > 0;
        }
        let number = self.text[start..self.at].parse().ok().filter(|_| is_good);
        number.map(Value::Number).ok_or_else(|| self.bad("a number is malformed"))
    }

    /// Skips digits; returns their number.
    fn digits(&mut self) -> usize {
        let count = self.text.as_bytes()[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        count
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.bad("a value is missing"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_there = self.peek() == Some(byte);
        self.at += usize::from(is_there);
        is_there
    }

    fn skip_white_space(&mut self) {
        let rest = &self.text.as_bytes()[self.at.min(self.text.len())..];
        self.at += rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count();
    }

    fn bad(&self, what: &str) -> Error {
        Error::invalid(format!("not JSON: {what} (at byte {})", self.at.min(self.text.len())))
    }
}
