//! `GET /v1/keys`: all keys as a stream, or a page of them.

use axum::BoxError;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::stream;
use kms_lib::{KeyDescription, KeyFilter, KeyState, Page, Paging};
use serde::Deserialize;

use super::call::{Call, paging};
use super::reply::{self, Reply};

/// Number of keys that are read at a time for the whole list.
const CHUNK: usize = 50;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    limit: Option<usize>,
    cursor: Option<String>,
    state: Option<KeyState>,
}

/// Streams all keys, or returns one page if there is a `limit`.
pub(super) async fn list(call: Call) -> Reply {
    let query: ListQuery = call.query()?;
    let filter = query.state.into_iter().fold(KeyFilter::new(), KeyFilter::state);
    let paging = paging(query.limit.or(Some(CHUNK)), query.cursor.map(decode_cursor));
    if query.limit.is_none() {
        return list_all(call, filter, paging).await;
    }
    let page = call.session.list_keys(&filter, &paging).await?;
    reply::page(&page.items, page.next_cursor.as_deref().map(encode_cursor))
}

/// Streams all keys as one array. A later error closes the connection, so that a client cannot mistake a part for the
/// whole.
async fn list_all(call: Call, filter: KeyFilter, paging: Paging) -> Reply {
    // Read the first part now, so that a refusal is a regular error response.
    let first = call.session.list_keys(&filter, &paging).await?;
    let text = chunk(&first, true).map_err(|_| reply::unwritable())?;
    // Room for the part that is being sent and the next one.
    let room = call.room(2 * text.len())?;
    let guard = room.clone();
    let session = call.session.clone();
    let chunks = stream::try_unfold(Some((text, first.next_cursor)), move |part| {
        let (session, filter, room) = (session.clone(), filter.clone(), room.clone());
        async move {
            let Some((text, cursor)) = part else { return Ok(None) };
            let Some(cursor) = cursor else { return Ok(Some((text, None))) };
            let next = session.list_keys(&filter, &Paging::new(CHUNK).after(&cursor)).await;
            let next = next.inspect_err(|error| tracing::warn!(%error, "a list of keys was aborted"))?;
            let part = chunk(&next, false)?;
            if room.resize(2 * part.len()).is_err() {
                let more = (2 * part.len()).saturating_sub(room.bytes());
                room.grow_beyond_share(more).map_err(|error| std::io::Error::other(error.message))?;
            }
            Ok::<_, BoxError>(Some((text, Some((part, next.next_cursor)))))
        }
    });
    let mut response = reply::stream(chunks)?;
    response.extensions_mut().insert(guard);
    Ok(response)
}

/// Serializes a part of the array.
fn chunk(page: &Page<KeyDescription>, is_first: bool) -> serde_json::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(&page.items)?;
    // Each part has its own brackets; replace the inner ones to form one array.
    if !is_first {
        text[0] = b',';
    }
    if page.next_cursor.is_some() {
        text.pop();
    }
    Ok(text)
}

/// Encodes a name as a cursor, because a name may contain characters that a header must not.
fn encode_cursor(name: &str) -> String {
    URL_SAFE_NO_PAD.encode(name)
}

/// Decodes a cursor. Text that is not a cursor of this service is taken as a name.
fn decode_cursor(cursor: String) -> String {
    let bytes = URL_SAFE_NO_PAD.decode(&cursor).ok();
    bytes.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or(cursor)
}
