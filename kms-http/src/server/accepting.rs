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
/// The maximum number of connections that wait because their callers have closed their side.
const ENDED: usize = 512;

/// Accepts connections until the service stops, and starts them.
///
/// A caller may close its side once it has sent a request, and read the response. Most that have done so before their
/// connection is accepted have hung up, though: in a crowd, these connections wait until there are no others, and if
/// too many wait, further ones are closed.
pub(super) async fn accept<L>(stop: &watch::Receiver<bool>, listener: Option<L>, start: impl Fn(L::Io, L::Addr))
where
    L: Listener,
    L::Io: AsFd,
{
    let Some(mut listener) = listener else { return };
    let mut stop = stop.clone();
    let mut ended = VecDeque::new();
    loop {
        let mut room = STARTED_IN_A_ROW;
        for _ in 0..ACCEPTED_IN_A_ROW {
            let accepted = if ended.is_empty() {
                tokio::select! {
                    accepted = listener.accept() => Some(accepted),
                    _ = stop.wait_for(|stop| *stop) => return,
                }
            } else {
                listener.accept().now_or_never()
            };
            match accepted {
                Some((stream, address)) if has_ended(&stream) => {
                    if ended.len() < ENDED {
                        ended.push_back((stream, address));
                    }
                }
                Some((stream, address)) => {
                    start(stream, address);
                    room -= 1;
                }
                None => break,
            }
            if room == 0 {
                break;
            }
        }
        for (stream, address) in ended.drain(..room.min(ended.len())) {
            start(stream, address);
        }
        if *stop.borrow() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Whether the caller has closed its side. This asks the system, since the runtime has not looked at a new socket yet.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn has_ended(socket: &impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut asked = [PollFd::new(socket, PollFlags::RDHUP)];
    let polled = poll(&mut asked, Some(&Timespec::default()));
    polled.is_ok() && !asked[0].revents().is_empty()
}

/// Other systems do not tell.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn has_ended(_: &impl AsFd) -> bool {
    false
}

#[cfg(test)]
#[path = "../../tests/unit/accepting.rs"]
mod tests;
