//! Unit tests of `src/server/stream.rs`: large heads, callers that have ended their side, and frames of HTTP/2 that
//! serve no request.

use super::*;
use crate::request::Caller;
use crate::server::activity::{Counted, Pause};
use std::future::poll_fn;
use std::task::Waker;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn activity() -> (Arc<Activity>, Arc<RequestMemory>) {
    activity_since(Duration::ZERO)
}

/// The activity of a connection that was accepted this long ago.
fn activity_since(age: Duration) -> (Arc<Activity>, Arc<RequestMemory>) {
    let activity = Activity::new(std::time::Instant::now() - age, Caller::default());
    (Arc::new(activity), Arc::new(RequestMemory::new(64 * 1024 * 1024)))
}

/// A connection whose caller has closed it.
async fn ended() -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (client, accepted) = tokio::try_join!(TcpStream::connect(address), listener.accept()).expect("a connection");
    drop(client);
    while !accepted.0.has_ended() {
        tokio::task::yield_now().await;
    }
    accepted.0
}

/// While a body waits, the end is only found by looking for it, so how often that happens is a part of the patience.
#[tokio::test]
async fn a_caller_that_ended_its_side_is_waited_for_less_in_a_crowd() {
    let (activity, memory) = activity_since(PATIENCE_IN_CROWD);
    let _request = Counted::request(&activity);
    // Since then, nothing was received or sent.
    activity.set_last(Duration::ZERO);
    let crowd = Crowd::default();
    let mut stream = Stream::new(ended().await, Arc::clone(&activity), memory, false).among(crowd.clone());
    assert_eq!(stream.patience(), PATIENCE);
    crowd.set(true);
    let mut context = Context::from_waker(Waker::noop());
    assert!(stream.poll_end(&mut context).is_ready());

    let _waiting = Pause::new(&activity);
    stream.poll_gone(&mut context).expect("it is not looked for yet");
    let next = stream.look.as_ref().expect("it is looked for later").deadline();
    assert!(next <= Instant::now() + PATIENCE_IN_CROWD);
    poll_fn(|context| stream.poll_gone(context).map_or_else(|error| Poll::Ready(error.kind()), |()| Poll::Pending))
        .await;
}

/// Each part is parsed and counted.
#[tokio::test]
async fn the_rest_of_a_large_head_is_read_at_once() {
    let (activity, memory) = activity();
    let (mut client, service) = tokio::io::duplex(1024 * 1024);
    client.write_all(&[b'x'; 30_000]).await.expect("the buffer is large");
    let mut stream = Stream::new(service, activity, memory, false);
    let mut read = Vec::new();
    while read.iter().sum::<usize>() < 30_000 {
        read.push(stream.read(&mut [0; 28_000]).await.expect("bytes"));
    }
    assert_eq!(read, [WITH_HEAD, 30_000 - WITH_HEAD]);
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
