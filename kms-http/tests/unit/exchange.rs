//! Unit tests of `src/server/exchange.rs`.

use super::*;
use crate::request::Caller;
use std::future::pending;
use std::task::{Context, Waker};

const LIMIT: Duration = Duration::from_secs(30);

fn streams() -> (Streams, Arc<Activity>) {
    let activity = Arc::new(Activity::new(Instant::now(), Caller::default()));
    (Streams::new(Arc::clone(&activity), LIMIT), activity)
}

/// A receiver that completes when the spawned future is dropped.
fn watched() -> (impl Future<Output = ()> + Send + 'static, impl Future<Output = ()>) {
    let (guard, dropped) = tokio::sync::oneshot::channel::<()>();
    let future = async move {
        let _guard = guard;
        pending::<()>().await;
    };
    (future, async move { drop(dropped.await) })
}

#[tokio::test]
async fn a_response_that_is_not_read_ends_its_stream() {
    let activity = Arc::new(Activity::new(Instant::now(), Caller::default()));
    let streams = Streams::new(activity, Duration::from_millis(20));
    let (exchange, (future, dropped)) = (streams.begin(), watched());
    exchange.answered();
    streams.execute(future);
    dropped.await;
}

#[tokio::test]
async fn a_stream_ends_when_its_memory_is_evicted() {
    let (streams, _activity) = streams();
    let (exchange, (future, dropped)) = (streams.begin(), watched());
    streams.execute(future);
    exchange.evict();
    dropped.await;
}

#[tokio::test]
async fn too_many_resets_close_the_connection() {
    let (streams, activity) = streams();
    let close = activity.closed();
    tokio::pin!(close);
    for n in 0..=RESETS {
        let exchange = streams.begin();
        // Each answered request offsets one reset.
        if n == 10 {
            exchange.delivered();
            streams.ended(&exchange);
        } else {
            streams.ended(&exchange);
        }
    }
    assert!(close.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    for _ in 0..2 {
        streams.ended(&streams.begin());
    }
    close.await;
}
