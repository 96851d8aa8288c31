//! `GET /v1/keys`: all keys, sent while they are read, or a page of them.

use axum::BoxError;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::stream;
use kms_lib::{KeyDescription, KeyFilter, KeyState, Page, Paging};
use serde::Deserialize;

use super::call::{Call, paging};
use super::reply::{self, Reply};

/// Keys that are read at a time for the whole list, and most bytes they take.
const CHUNK: usize = 50;
const CHUNK_BYTES: usize = 1024 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    limit: Option<usize>,
    cursor: Option<String>,
    state: Option<KeyState>,
}

/// Answers all keys, streamed, or one page of them if there is a `limit`.
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

/// All keys as one array, which is sent while it is read. An error after its beginning ends the connection, so that
/// nobody takes a part for the whole.
async fn list_all(call: Call, filter: KeyFilter, paging: Paging) -> Reply {
    // Read beforehand: who may not is answered as everywhere.
    let first = call.session.list_keys(&filter, &paging).await?;
    let room = call.app.bodies.memory.room(call.session.actor().principal(), CHUNK_BYTES)?;
    let session = call.session.clone();
    let chunks = stream::try_unfold((Some(first), true), move |(page, is_first)| {
        let (session, filter, _room) = (session.clone(), filter.clone(), &room);
        async move {
            let Some(page) = page else { return Ok(None) };
            let text = chunk(&page, is_first).map_err(std::io::Error::other)?;
            let next = match &page.next_cursor {
                None => None,
                Some(cursor) => {
                    let next = session.list_keys(&filter, &Paging::new(CHUNK).after(cursor)).await;
                    Some(next.inspect_err(|error| tracing::warn!(%error, "a list of keys is cut off"))?)
                }
            };
            Ok::<_, BoxError>(Some((text, (next, false))))
        }
    });
    reply::stream(chunks)
}

/// A part of the array.
fn chunk(page: &Page<KeyDescription>, is_first: bool) -> serde_json::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(&page.items)?;
    // Within brackets of its own: one array is made of all.
    if !is_first {
        text[0] = b',';
    }
    if page.next_cursor.is_some() {
        text.pop();
    }
    Ok(text)
}

/// A name may hold what a header may not.
fn encode_cursor(name: &str) -> String {
    URL_SAFE_NO_PAD.encode(name)
}

/// A cursor that this service did not give is taken for a name: whoever knows one may go on from there.
fn decode_cursor(cursor: String) -> String {
    let bytes = URL_SAFE_NO_PAD.decode(&cursor).ok();
    bytes.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or(cursor)
}
