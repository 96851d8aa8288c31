//! Strict JSON: UTF-8 only, no duplicate keys, limited nesting, and errors that say what is wrong and where.
//!
//! Input that two parsers could read differently is refused: of two `keyId` in one object, a proxy might check the
//! first and this service use the second.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use super::ApiError;

/// Maximum nesting of objects and arrays.
const DEPTH: usize = 32;
/// Prefix of the keys by which serde_json marks raw JSON text within JSON. Such keys are refused, because their content
/// would not be checked here.
const RESERVED: &str = "$serde_json::private::";

/// Checks and parses a body, which must be an object.
pub fn parse<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, ApiError> {
    if body.is_empty() {
        return Err(ApiError::invalid("the body is empty; expected JSON"));
    }
    if body.starts_with(b"\xef\xbb\xbf") || body.starts_with(b"\xfe\xff") || body.starts_with(b"\xff\xfe") {
        return Err(ApiError::invalid(
            "the body begins with a byte order mark (BOM); expected JSON in UTF-8 without one",
        ));
    }
    let text = std::str::from_utf8(body)
        .map_err(|e| ApiError::invalid(format!("the body is not valid UTF-8 at byte {}", e.valid_up_to())))?;
    let mut checking = serde_json::Deserializer::from_str(text);
    let checked = Check { depth: 0 }.deserialize(&mut checking).and_then(|()| checking.end());
    checked.map_err(|e| ApiError::invalid(format!("the body is not acceptable JSON: {e}")))?;
    expect_object(text)?;
    read(text)
}

/// Parses a body that [`parse`] has already checked as another type.
pub fn parse_checked<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, ApiError> {
    read(std::str::from_utf8(body).map_err(|_| ApiError::invalid("the body is not UTF-8"))?)
}

/// Parses an object within a body that [`parse`] has already checked.
pub fn item<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, ApiError> {
    expect_object(text)?;
    read(text)
}

fn read<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, ApiError> {
    serde_json::from_str(text).map_err(|e| explain::<T>(text, &e))
}

/// Refuses an array in place of an object, which derived deserializers would accept as the fields in order.
pub fn expect_object(text: &str) -> Result<(), ApiError> {
    if text.trim_start().starts_with('{') { Ok(()) } else { Err(ApiError::invalid("expected an object")) }
}

/// Deserializes an optional object within another one, refusing an array.
pub fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    struct Object<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
        type Value = Option<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_unit<E>(self) -> Result<Option<T>, E> {
            Ok(None)
        }
        fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Option<T>, A::Error> {
            T::deserialize(MapAccessDeserializer::new(entries)).map(Some)
        }
    }
    deserializer.deserialize_any(Object(PhantomData))
}

/// Deserializes a whole number, which JSON may write as `3`, `3.0` or `3e0`, or null.
pub fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let number = Option::<serde_json::Number>::deserialize(deserializer)?;
    let Some(number) = number else { return Ok(None) };
    let whole = match number.as_u64() {
        Some(whole) => u32::try_from(whole).ok(),
        None => {
            number.as_f64().filter(|n| n.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(n)).map(|n| n as u32)
        }
    };
    whole.map(Some).ok_or_else(|| D::Error::custom(format_args!("{number} is not a whole number of 32 bits")))
}

/// Like [`whole`], but distinguishes null from a missing field.
pub fn given_whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u32>>, D::Error> {
    whole(deserializer).map(Some)
}

/// Parses again with path tracking, to say where the error is.
fn explain<'de, T: Deserialize<'de>>(text: &'de str, error: &serde_json::Error) -> ApiError {
    let mut again = serde_json::Deserializer::from_str(text);
    match serde_path_to_error::deserialize::<_, T>(&mut again) {
        Err(found) => {
            let path = found.path().to_string();
            let inner = found.into_inner();
            if path == "." {
                ApiError::invalid(inner.to_string())
            } else {
                ApiError::invalid(format!("{path}: {inner}"))
            }
        }
        Ok(_) => ApiError::invalid(error.to_string()),
    }
}

/// Deserializes a list of enumeration values. Empty texts are ignored.
pub fn words<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct Word<T>(Option<T>);
    impl<'de, T: Deserialize<'de>> Deserialize<'de> for Word<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = Cow::<str>::deserialize(deserializer)?;
            if text.is_empty() {
                Ok(Self(None))
            } else {
                T::deserialize(text.into_deserializer()).map(|word| Self(Some(word)))
            }
        }
    }
    Ok(Vec::<Word<T>>::deserialize(deserializer)?.into_iter().filter_map(|word| word.0).collect())
}

/// Declares visitor methods that accept any scalar.
macro_rules! scalars {
    ($($visit:ident: $scalar:ty),+) => {
        $(fn $visit<E>(self, _: $scalar) -> Result<(), E> { Ok(()) })+
    };
}

/// Checks a value and discards it.
#[derive(Clone, Copy)]
struct Check {
    depth: usize,
}

impl Check {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == DEPTH {
            return Err(E::custom(format_args!("nested more than {DEPTH} levels deep")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Check {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Check {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    scalars! { visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while items.next_element_seed(inner)?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        let mut seen = BTreeSet::new();
        while let Some(key) = entries.next_key::<Key<'de>>()? {
            if key.0.starts_with(RESERVED) {
                return Err(A::Error::custom(format_args!("a key must not begin with {RESERVED}")));
            }
            if !seen.insert(key.0.clone()) {
                return Err(A::Error::custom(format_args!("the key {:?} occurs twice in an object", key.0)));
            }
            entries.next_value_seed(inner)?;
        }
        Ok(())
    }
}

/// A key of an object, borrowed if it has no escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
#[path = "../../tests/unit/strict_json.rs"]
mod tests;
