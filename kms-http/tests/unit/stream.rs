//! Unit tests of `src/server/stream.rs`: frames of HTTP/2 that serve no request.

use super::*;
use crate::request::Caller;
use std::future::poll_fn;
use tokio::io::AsyncWriteExt;

fn activity() -> (Arc<Activity>, Arc<RequestMemory>) {
    let activity = Activity::new(std::time::Instant::now(), Caller::default());
    (Arc::new(activity), Arc::new(RequestMemory::new(64 * 1024 * 1024)))
}

/// Before, all frames that had arrived were processed at once, while other connections waited.
#[tokio::test]
async fn other_tasks_have_their_turn_while_many_frames_arrive() {
    let (activity, memory) = activity();
    let (mut client, service) = tokio::io::duplex(1024 * 1024);
    client.write_all(&[0; 200_000]).await.expect("the buffer is large");
    let mut stream = Stream::new(service, activity, memory, true);
    let (mut read, mut turns) = (0, 0);
    while read < 200_000 {
        let mut part = [0; 8_192];
        poll_fn(|context| {
            let mut buffer = ReadBuf::new(&mut part);
            let polled = Pin::new(&mut stream).poll_read(context, &mut buffer);
            read += buffer.filled().len();
            turns += usize::from(polled.is_pending());
            polled
        })
        .await
        .expect("bytes");
    }
    assert_eq!(turns, 200_000 / IN_A_ROW);
}

#[test]
fn a_connection_with_frames_that_serve_no_request_is_read_slowly_and_then_closed() {
    let (activity, memory) = activity();
    let part = 16 * 1024;
    let seen: Vec<Frames> = (0..33).map(|_| activity.frames_arrive(part, &memory)).collect();
    assert!(seen[..20].iter().all(|frames| *frames == Frames::Fit), "as many as the windows allow: {seen:?}");
    assert!(seen[20..32].iter().all(|frames| *frames == Frames::Slowly), "{seen:?}");
    assert_eq!(seen[32], Frames::TooMany);
    // After the pause, more may be read.
    activity.frames_are_read(part);
    assert_eq!(activity.frames_arrive(0, &memory), Frames::Fit);
}
