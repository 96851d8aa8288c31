//! The details of a record, put together piece by piece and written as canonical JSON.

use std::borrow::Cow;

use smallvec::SmallVec;

use crate::audit::canonical::quoted;
use crate::crypto::additional_data::write_context;
use crate::types::attempt::{Attempt, Decision};
use crate::types::audit::write_decimal;
use crate::types::context::Context;
use crate::types::limits::CONTEXT_RECORDED_BYTES;

/// Members of the details in the order of their names, each with its value as canonical JSON (RFC 8785). Most records
/// of cryptographic operations have at most the members `context`, `grant`, `revision` and `sourceIp`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details(SmallVec<[(&'static str, Json); 4]>);

/// A value as canonical JSON. Numbers are written only when the record is, since every record has one.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Json {
    Number(u64),
    Text(Cow<'static, str>),
}

impl Json {
    /// The approximate length in bytes.
    fn bytes(&self) -> usize {
        match self {
            Self::Number(_) => 8,
            Self::Text(json) => json.len(),
        }
    }
}

impl Details {
    /// Sets a member to a value that already is canonical JSON. Names are ASCII.
    pub fn raw(&mut self, name: &'static str, json: impl Into<Cow<'static, str>>) -> &mut Self {
        self.set(name, Json::Text(json.into()))
    }
    fn set(&mut self, name: &'static str, json: Json) -> &mut Self {
        match self.place(name) {
            Ok(place) => self.0[place].1 = json,
            Err(place) => self.0.insert(place, (name, json)),
        }
        self
    }
    /// The place of a member, or the place where it would be inserted.
    fn place(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by_key(&name, |(present, _)| *present)
    }
    /// Sets a member to a text.
    pub fn text(&mut self, name: &'static str, text: &str) -> &mut Self {
        self.raw(name, quoted(text))
    }
    /// Sets a member to a number below 2^53.
    pub fn number(&mut self, name: &'static str, number: u64) -> &mut Self {
        self.set(name, Json::Number(number))
    }
    /// Removes a member; returns whether it was there.
    pub fn remove(&mut self, name: &'static str) -> bool {
        let place = self.place(name);
        if let Ok(place) = place {
            self.0.remove(place);
        }
        place.is_ok()
    }
    /// Whether there is a member of this name.
    pub fn has(&self, name: &str) -> bool {
        self.place(name).is_ok()
    }
    /// The approximate length in bytes.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(name, json)| name.len() + json.bytes()).sum()
    }
    /// Whether the details have no members.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Sets all members of `other`.
    pub fn extend(&mut self, other: &Self) -> &mut Self {
        for (name, json) in other.0.iter() {
            self.set(name, json.clone());
        }
        self
    }
    /// Sets what a replay needs to know about a decision: its revision, and the grant that allowed it.
    pub fn decision(&mut self, decision: &Decision, revision: u64) -> &mut Self {
        if let Decision::Allowed { grant: Some(grant), .. } = decision {
            self.text("grant", &grant.to_string());
        } else {
            self.remove("grant");
        }
        self.number("revision", revision)
    }
    /// Sets the caller's source address, if known.
    pub fn source(&mut self, attempt: &Attempt) -> &mut Self {
        match attempt.actor.source_ip() {
            Some(address) => self.text("sourceIp", &address.to_string()),
            None => self,
        }
    }
    /// The canonical JSON of all members.
    pub fn render(&self) -> String {
        // Quotes and punctuation take 4 bytes of a member, and a number up to 20 instead of 8.
        let mut json = String::with_capacity(2 + self.bytes() + 16 * self.0.len());
        json.push('{');
        for (name, value) in self.0.iter() {
            if json.len() > 1 {
                json.push(',');
            }
            json.push('"');
            json.push_str(name);
            json.push_str("\":");
            match value {
                Json::Number(number) => write_decimal(&mut json, *number),
                Json::Text(value) => json.push_str(value),
            }
        }
        json.push('}');
        json
    }
}

/// A context as canonical JSON.
pub fn context_json(context: &Context) -> String {
    let mut json = String::with_capacity(context.bytes() + 6 * context.len() + 2);
    write_context(&mut json, context);
    json
}

/// Whether a context is short enough to be recorded in full.
pub fn is_recorded_whole(context: &Context) -> bool {
    context.bytes() <= CONTEXT_RECORDED_BYTES
}
