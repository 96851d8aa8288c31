//! JSON, strictly: UTF-8, no key twice in an object, not too deep, and an error says what is wrong and where.
//!
//! What two parsers would read differently is not read at all: of two `keyId` in one object, one would have been
//! checked by a proxy, and the other used here.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use super::ApiError;

/// Deepest nesting of objects and arrays.
const DEPTH: usize = 32;
/// How the keys begin by which serde_json marks text that is to be read as JSON within other JSON: nothing of that has
/// been looked at here.
const RESERVED: &str = "$serde_json::private::";

/// Reads a body.
pub fn parse<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, ApiError> {
    if body.is_empty() {
        return Err(ApiError::invalid("the body is empty: JSON is expected"));
    }
    if body.starts_with(b"\xef\xbb\xbf") || body.starts_with(b"\xfe\xff") || body.starts_with(b"\xff\xfe") {
        return Err(ApiError::invalid(
            "the body begins with a byte order mark (BOM): JSON in UTF-8 without one is expected",
        ));
    }
    let text = std::str::from_utf8(body)
        .map_err(|e| ApiError::invalid(format!("the body is not UTF-8 from byte {} on", e.valid_up_to())))?;
    let mut checking = serde_json::Deserializer::from_str(text);
    let checked = Check { depth: 0 }.deserialize(&mut checking).and_then(|()| checking.end());
    checked.map_err(|e| ApiError::invalid(format!("the body is not JSON that is accepted: {e}")))?;
    expect_object(text)?;
    read(text)
}

/// Reads a body that [`parse`] has found to be accepted, as something else.
pub fn parse_checked<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, ApiError> {
    read(std::str::from_utf8(body).map_err(|_| ApiError::invalid("the body is not UTF-8"))?)
}

/// Reads an object that stands within such a body.
pub fn item<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, ApiError> {
    expect_object(text)?;
    read(text)
}

fn read<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, ApiError> {
    serde_json::from_str(text).map_err(|e| explain::<T>(text, &e))
}

/// Refuses an array in the place of an object: what derives its reading takes the fields of one in their order.
pub fn expect_object(text: &str) -> Result<(), ApiError> {
    if text.trim_start().starts_with('{') { Ok(()) } else { Err(ApiError::invalid("an object is expected")) }
}

/// The same for an object within another one.
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

/// A whole number, which JSON may write as `3`, `3.0` or `3e0`; or null.
pub fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let number = Option::<serde_json::Number>::deserialize(deserializer)?;
    let Some(number) = number else { return Ok(None) };
    let whole = match number.as_u64() {
        Some(whole) => u32::try_from(whole).ok(),
        None => {
            number.as_f64().filter(|n| n.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(n)).map(|n| n as u32)
        }
    };
    whole
        .map(Some)
        .ok_or_else(|| D::Error::custom(format_args!("{number} is not a whole number of a size that is taken")))
}

/// The same, telling null from nothing.
pub fn given_whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u32>>, D::Error> {
    whole(deserializer).map(Some)
}

/// Reads again, to say where the error is. Only the type knows what was expected, and only this way the path.
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

/// A list of words, of which empty ones are passed over.
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

/// Declares visits that take anything.
macro_rules! scalars {
    ($($visit:ident: $scalar:ty),+) => {
        $(fn $visit<E>(self, _: $scalar) -> Result<(), E> { Ok(()) })+
    };
}

/// Walks through a value and keeps nothing.
#[derive(Clone, Copy)]
struct Check {
    depth: usize,
}

impl Check {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == DEPTH {
            return Err(E::custom(format_args!("nested more than {DEPTH} deep")));
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
                return Err(A::Error::custom(format_args!("no key may begin with {RESERVED}")));
            }
            if !seen.insert(key.0.clone()) {
                return Err(A::Error::custom(format_args!("the key {:?} stands twice in an object", key.0)));
            }
            entries.next_value_seed(inner)?;
        }
        Ok(())
    }
}

/// A key, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
#[path = "../../tests/unit/strict_json.rs"]
mod tests;
