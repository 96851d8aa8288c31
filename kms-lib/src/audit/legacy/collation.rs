//! The order in which Mini KMS on Node sorted names: `localeCompare`, the root collation of ICU (UTS #10 with the
//! tailoring of CLDR).
//!
//! Two cases differ from Node.js: Han characters, which its ICU orders by radical and stroke, and unpaired surrogates.
//! That service used neither in its names, which are ASCII.

use std::cmp::Ordering;

use icu_collator::CollatorBorrowed;
use icu_collator::options::CollatorOptions;

use super::ecma_json::{Object, Value};

/// The root collation. Only its data is compiled in: a collation that is chosen by a locale would need the data of all.
static ROOT: CollatorBorrowed<'static> = CollatorBorrowed::new_root(CollatorOptions::default());

/// Sorts the member names of all objects in a value. Names that the collation considers equal keep their order, as in a
/// stable sort; array indexes come first, as in every object of ECMAScript.
pub(super) fn sort_names(value: Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(sort_names).collect()),
        Value::Object(members) => {
            let mut members: Vec<(Vec<u16>, Value)> = members.into_members().collect();
            members.sort_by(|(left, _), (right, _)| compare(left, right));
            let mut sorted = Object::new();
            members.into_iter().for_each(|(name, value)| sorted.set_utf16(name, sort_names(value)));
            Value::Object(sorted)
        }
        other => other,
    }
}

fn compare(left: &[u16], right: &[u16]) -> Ordering {
    ROOT.compare_utf16(left, right)
}
