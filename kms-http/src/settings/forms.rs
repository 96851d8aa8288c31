//! Deserializers for single settings. In the environment and in flags every value is text, so numbers, switches and
//! lists are parsed from text too: a list as a TOML array, or in a simpler form where that is unambiguous.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, Deserializer, Error, SeqAccess, Unexpected, Visitor};
use serde::ser::Serializer;

/// A whole number from `LEAST` to `MOST`, as a number or as text.
pub fn count<'de, const LEAST: u64, const MOST: u64, T: TryFrom<u64>, D: Deserializer<'de>>(
    d: D,
) -> Result<T, D::Error> {
    struct Count(u64, u64);
    impl Visitor<'_> for Count {
        type Value = u64;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a whole number between {} and {}", self.0, self.1)
        }
        fn visit_u64<E: Error>(self, number: u64) -> Result<u64, E> {
            let within = (self.0..=self.1).contains(&number);
            within.then_some(number).ok_or_else(|| E::custom(format_args!("must be between {} and {}", self.0, self.1)))
        }
        fn visit_i64<E: Error>(self, number: i64) -> Result<u64, E> {
            match u64::try_from(number) {
                Ok(number) => self.visit_u64(number),
                Err(_) => Err(E::custom(format_args!("must be between {} and {}", self.0, self.1))),
            }
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
            let number = text.trim().parse().map_err(|_| E::invalid_value(Unexpected::Str(text), &self))?;
            self.visit_u64(number)
        }
    }
    let number = d.deserialize_any(Count(LEAST, MOST))?;
    T::try_from(number).map_err(|_| D::Error::custom("is too large"))
}

/// A switch: a boolean, or `true`, `1`, `on`, `yes`, `false`, `0`, `off`, `no` as text.
pub fn switch<'de, D: Deserializer<'de>>(d: D) -> Result<bool, D::Error> {
    struct Switch;
    impl Visitor<'_> for Switch {
        type Value = bool;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("true or false")
        }
        fn visit_bool<E>(self, value: bool) -> Result<bool, E> {
            Ok(value)
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
            match text {
                "true" | "1" | "on" | "yes" => Ok(true),
                "false" | "0" | "off" | "no" => Ok(false),
                _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
            }
        }
    }
    d.deserialize_any(Switch)
}

/// The mode of a file as octal text. A TOML number is refused, because 660 would be decimal.
pub fn mode<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
    struct Mode;
    impl Visitor<'_> for Mode {
        type Value = u32;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a mode as octal text, such as \"0660\"")
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<u32, E> {
            let mode = u32::from_str_radix(text.trim_start_matches("0o"), 8).ok().filter(|mode| *mode <= 0o777);
            mode.ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
        }
    }
    d.deserialize_any(Mode)
}

/// Serializes the mode of a file in the form that [`mode`] reads.
pub fn octal<S: Serializer>(mode: &u32, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(&format_args!("{mode:04o}"))
}

/// A value of an enumeration, from its name.
pub fn word<'de, T: DeserializeOwned, D: Deserializer<'de>>(d: D) -> Result<T, D::Error> {
    T::deserialize(StrDeserializer::<D::Error>::new(&String::deserialize(d)?))
}

/// An optional value: empty text or `none` means None.
pub fn maybe<'de, T: DeserializeOwned, D: Deserializer<'de>>(d: D) -> Result<Option<T>, D::Error> {
    match &*String::deserialize(d)? {
        "" | "none" => Ok(None),
        text => T::deserialize(StrDeserializer::<D::Error>::new(text)).map(Some),
    }
}

/// A list whose elements contain no comma: an array, or text separated by commas.
pub fn words<'de, T: DeserializeOwned, D: Deserializer<'de>>(d: D) -> Result<Vec<T>, D::Error> {
    d.deserialize_any(List { has_commas: false, of: PhantomData })
}

/// A list of texts: an array, or a single text without a comma. Text with a comma is ambiguous and refused.
pub fn texts<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    d.deserialize_any(List { has_commas: true, of: PhantomData })
}

/// An element of a list, deserialized with [`word`].
struct Word<T>(T);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        word(d).map(Self)
    }
}

struct List<T> {
    /// Whether an element may contain a comma.
    has_commas: bool,
    of: PhantomData<T>,
}

impl<'de, T: DeserializeOwned> Visitor<'de> for List<T> {
    type Value = Vec<T>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list, as a TOML array such as [\"a\", \"b\"]")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(Word(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(list)
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<Vec<T>, E> {
        if text.trim_start().starts_with('[') {
            let array = toml::de::ValueDeserializer::parse(text).and_then(Vec::<Word<T>>::deserialize);
            let array = array.map_err(|e| E::custom(format_args!("is not a list: {}", e.message())))?;
            return Ok(array.into_iter().map(|Word(item)| item).collect());
        }
        if self.has_commas && text.contains(',') {
            return Err(E::custom("contains a comma; write a TOML array, such as [\"a\", \"b\"] or [\"a, b\"]"));
        }
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(|part| T::deserialize(StrDeserializer::new(part))).collect()
    }
}
