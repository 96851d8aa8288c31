//! The details of a record, put together piece by piece and written as canonical JSON.

use crate::audit::canonical::write_string;
use crate::types::attempt::{Attempt, Decision};
use crate::types::context::Context;
use crate::types::limits::CONTEXT_RECORDED_BYTES;

/// Members of the details, each with its value as canonical JSON (RFC 8785).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details(Vec<(&'static str, String)>);

impl Details {
    /// Sets a member to a value that already is canonical JSON. Names are ASCII.
    pub fn raw(&mut self, name: &'static str, json: String) -> &mut Self {
        match self.0.iter_mut().find(|(present, _)| *present == name) {
            Some((_, value)) => *value = json,
            None => self.0.push((name, json)),
        }
        self
    }
    /// Sets a member to a text.
    pub fn text(&mut self, name: &'static str, text: &str) -> &mut Self {
        let mut json = String::with_capacity(text.len() + 2);
        write_string(&mut json, text);
        self.raw(name, json)
    }
    /// Sets a member to a number below 2^53.
    pub fn number(&mut self, name: &'static str, number: u64) -> &mut Self {
        self.raw(name, number.to_string())
    }
    /// Removes a member; returns whether it was there.
    pub fn remove(&mut self, name: &'static str) -> bool {
        let before = self.0.len();
        self.0.retain(|(present, _)| *present != name);
        self.0.len() < before
    }
    /// Whether there is a member of this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(present, _)| *present == name)
    }
    /// The approximate length in bytes.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(name, json)| name.len() + json.len()).sum()
    }
    /// Whether the details have no members.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Sets all members of `other`.
    pub fn extend(&mut self, other: &Self) -> &mut Self {
        for (name, json) in &other.0 {
            self.raw(name, json.clone());
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
        let mut members: Vec<&(&'static str, String)> = self.0.iter().collect();
        members.sort_unstable_by_key(|(name, _)| *name);
        let mut json = String::with_capacity(2 + members.iter().map(|(n, v)| n.len() + v.len() + 4).sum::<usize>());
        json.push('{');
        for (name, value) in members {
            if json.len() > 1 {
                json.push(',');
            }
            json.push('"');
            json.push_str(name);
            json.push_str("\":");
            json.push_str(value);
        }
        json.push('}');
        json
    }
}

/// A context as canonical JSON.
pub fn context_json(context: &Context) -> String {
    let mut entries: Vec<(&str, &str)> = context.iter().collect();
    if !context.iter().all(|(name, _)| name.is_ascii()) {
        entries.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
    }
    let mut json = String::with_capacity(context.bytes() + 6 * context.len() + 2);
    json.push('{');
    for (name, value) in entries {
        if json.len() > 1 {
            json.push(',');
        }
        write_string(&mut json, name);
        json.push(':');
        write_string(&mut json, value);
    }
    json.push('}');
    json
}

/// Whether a context is short enough to be recorded in full.
pub fn is_recorded_whole(context: &Context) -> bool {
    context.bytes() <= CONTEXT_RECORDED_BYTES
}
