//! Accepting connections, no faster than they can be served, and those of callers that are still there first.

use std::collections::VecDeque;
use std::os::fd::AsFd;

use axum::serve::Listener;
use futures_util::FutureExt;
use tokio::sync::watch;

/// The number of connections that are started before other tasks have their turn. Otherwise requests would wait behind
/// the tasks of thousands of new connections.
const STARTED_IN_A_ROW: usize = 8;
/// The number of connections that are accepted before other tasks have their turn.
const ACCEPTED_IN_A_ROW: usize = 64;
/// The maximum number of connections of a listener that wait because their callers have closed their side. They are
/// among the files that `process::most_connections` reserves.
const ENDED: usize = 64;

/// What a caller has done before its connection was accepted.
enum Caller {
    /// It has not closed its side.
    IsThere,
    /// It sends nothing more, and may be waiting for a response or have hung up.
    HasEnded,
    /// It has hung up.
    IsGone,
}

/// Accepts connections until the service stops, and starts them.
///
/// A caller may close its side once it has sent a request, and read the response. Most that have done so before their
/// connection is accepted have hung up, though: in a crowd, these connections come last, and if too many wait, further
/// ones are closed.
pub(super) async fn accept<L>(stop: &watch::Receiver<bool>, listener: Option<L>, start: impl Fn(L::Io, L::Addr))
where
    L: Listener,
    L::Io: AsFd,
{
    let Some(mut listener) = listener else { return };
    let mut stop = stop.clone();
    let mut ended = VecDeque::new();
    loop {
        // One place is for those that wait, however many others there are.
        let mut room = STARTED_IN_A_ROW - usize::from(!ended.is_empty());
        for _ in 0..ACCEPTED_IN_A_ROW {
            let accepted = if ended.is_empty() {
                tokio::select! {
                    accepted = listener.accept() => Some(accepted),
                    _ = stop.wait_for(|stop| *stop) => return,
                }
            } else {
                listener.accept().now_or_never()
            };
            let Some((stream, address)) = accepted else { break };
            match caller(&stream) {
                Caller::IsThere => {
                    start(stream, address);
                    room -= 1;
                }
                Caller::HasEnded if ended.len() < ENDED => ended.push_back((stream, address)),
                Caller::HasEnded | Caller::IsGone => {}
            }
            if room == 0 {
                break;
            }
        }
        for (stream, address) in ended.drain(..ended.len().min(room.max(1))) {
            start(stream, address);
        }
        if *stop.borrow() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Asks the system what the caller has done, since the runtime has not looked at a new socket yet.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn caller(socket: &impl AsFd) -> Caller {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut asked = [PollFd::new(socket, PollFlags::RDHUP)];
    if poll(&mut asked, Some(&Timespec::default())).is_err() {
        return Caller::IsThere;
    }
    let told = asked[0].revents();
    if told.intersects(PollFlags::HUP | PollFlags::ERR) {
        Caller::IsGone
    } else if told.is_empty() {
        Caller::IsThere
    } else {
        Caller::HasEnded
    }
}

/// Other systems do not tell.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn caller(_: &impl AsFd) -> Caller {
    Caller::IsThere
}

#[cfg(test)]
#[path = "../../tests/unit/accepting.rs"]
mod tests;
