//! Idempotency records, stored with the change that a request makes: the same request sent again gets the first answer.

use std::collections::HashSet;

use super::submission::{Entry, Idempotency, Submission};
use crate::catalog::{Outline, grant_description};
use crate::envelope::{Seals, row};
use crate::storage::Connection;
use crate::storage::tables::idempotency::{self, KEPT_DAYS, KeptRequest};
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;
use crate::types::time::Timestamp;
use crate::types::view::CatalogView;

/// Longer answers, such as those of keys with very many versions, are not stored: a repeated request then gets the
/// current state.
const ANSWER_BYTES: usize = 64 * 1024;
/// No answer is stored for a key with more versions than this, because it would be too long.
const VERSIONS: u32 = 300;
/// The limit on stored answers per batch, in bytes: they are written under the lock on the head.
pub(super) const BATCH_ANSWER_BYTES: usize = 1024 * 1024;

/// The requests of a batch that have an idempotency record already: principal and idempotency key. Read under the lock
/// on the head, so that no other node adds one in the meantime.
pub(super) async fn kept_among(
    connection: &mut dyn Connection,
    batch: &[Submission],
    now: Timestamp,
) -> Result<HashSet<(String, String)>> {
    let entries = batch.iter().flat_map(|submission| &submission.entries);
    let requests: Vec<(&str, &str)> =
        entries.filter_map(Entry::request).map(|(principal, request)| (principal, request.key.as_str())).collect();
    idempotency::kept_among(connection, &requests, now).await
}

/// An idempotency record to be written, at its place in a batch.
pub(super) struct Keeping {
    request: Idempotency,
    principal: String,
    seq: u64,
    expires_at: Timestamp,
    answer: Answer,
}

/// The answer to the request.
enum Answer {
    Nothing,
    Key(Box<Outline>),
    Text(String),
}

impl Keeping {
    /// Creates the record with the answer as of `view`, which includes the request's `changes`.
    pub(super) fn new(
        request: &Idempotency,
        principal: &str,
        seq: u64,
        time: Timestamp,
        view: &dyn CatalogView,
        changes: &[Change],
    ) -> Result<Self> {
        let grant = changes.iter().find_map(|change| match change {
            Change::InsertGrant(grant) | Change::UpdateGrant(grant) => Some(grant_description(grant)),
            _ => None,
        });
        let id = KeyId::from_bytes(request.subject);
        let outline = match view.key(id) {
            Some(key) if key.current_version <= VERSIONS => Outline::of(view, id),
            _ => None,
        };
        let answer = match (outline, grant) {
            (Some(outline), _) => Answer::Key(Box::new(outline)),
            (None, Some(grant)) => Answer::Text(written(&grant)?),
            (None, None) => Answer::Nothing,
        };
        Ok(Self {
            request: request.clone(),
            principal: principal.to_owned(),
            seq,
            expires_at: time.plus_days(KEPT_DAYS),
            answer,
        })
    }

    /// The row to store, once the changes are written, with an answer of at most `room` bytes.
    pub(super) async fn row(self, connection: &mut dyn Connection, seals: &Seals, room: usize) -> Result<KeptRequest> {
        let Self { request: Idempotency { key, request_digest, subject }, principal, seq, expires_at, answer } = self;
        let answer = match answer {
            _ if room == 0 => None,
            Answer::Nothing => None,
            Answer::Text(text) => Some(text),
            Answer::Key(outline) => Some(written(&outline.complete(connection).await?)?),
        };
        let answer = answer.filter(|text| text.len() <= ANSWER_BYTES.min(room));
        let row = row::request(&principal, &key, &request_digest, &subject, answer.as_deref(), seq, expires_at);
        Ok(KeptRequest { principal, key, request_seal: seals.seal(&row), subject, answer, seq, expires_at })
    }
}

fn written(answer: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(answer)
        .map_err(|e| Error::new(ErrorCode::Internal, format!("an answer does not serialize: {e}")).with_source(e))
}
