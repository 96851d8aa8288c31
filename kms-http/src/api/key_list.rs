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
    let text = chunk(&first, true).map_err(|_| reply::unwritable())?;
    // For a part that is being sent, and the next one.
    let room = call.room(2 * text.len())?;
    let guard = room.clone();
    let session = call.session.clone();
    let chunks = stream::try_unfold(Some((text, first.next_cursor)), move |part| {
        let (session, filter, room) = (session.clone(), filter.clone(), room.clone());
        async move {
            let Some((text, cursor)) = part else { return Ok(None) };
            let Some(cursor) = cursor else { return Ok(Some((text, None))) };
            let next = session.list_keys(&filter, &Paging::new(CHUNK).after(&cursor)).await;
            let next = next.inspect_err(|error| tracing::warn!(%error, "a list of keys is cut off"))?;
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
