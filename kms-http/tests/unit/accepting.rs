//! Unit tests of `src/server/accepting.rs`.

use super::*;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use tokio::net::TcpListener;

/// Accepts these callers' connections, and returns their addresses in the order in which they are started.
async fn started(callers: &[TcpStream], listener: TcpListener, expected: usize) -> Vec<SocketAddr> {
    let (stop, stopped) = watch::channel(false);
    let order = RefCell::new(Vec::new());
    let streams = RefCell::new(Vec::new());
    let accepting = accept(&stopped, Some(listener), |stream: tokio::net::TcpStream, address| {
        streams.borrow_mut().push(stream);
        order.borrow_mut().push(address);
    });
    let ending = async {
        while order.borrow().len() < expected {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Whatever was going to be started, is by then.
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        stop.send_replace(true);
    };
    let both = async { tokio::join!(accepting, ending) };
    tokio::time::timeout(Duration::from_secs(20), both).await.expect("fewer are started");
    assert!(callers.len() >= expected);
    order.into_inner()
}

fn caller(listener: &TcpListener, hangs_up: bool) -> TcpStream {
    let mut caller = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    caller.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    if hangs_up {
        caller.shutdown(std::net::Shutdown::Write).expect("shut down");
    }
    caller
}

/// The caller of a new connection does not wait behind those that hung up, and all are started in the end.
#[tokio::test]
async fn callers_that_are_there_come_first() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let mut callers: Vec<TcpStream> = (0..40).map(|_| caller(&listener, true)).collect();
    callers.push(caller(&listener, false));
    let there = callers[40].local_addr().expect("an address");
    let order = started(&callers, listener, 41).await;
    assert_eq!(order[0], there);
    assert_eq!(order.iter().collect::<HashSet<_>>().len(), 41);
}

/// A crowd of callers that ended their side waits within bounds, and is served a few at a time.
#[tokio::test]
async fn a_crowd_that_ended_is_bounded() {
    let listener = tokio::net::TcpSocket::new_v4().expect("a socket");
    listener.bind("127.0.0.1:0".parse().expect("an address")).expect("bound");
    let listener = listener.listen(400).expect("a listener");
    let mut callers: Vec<TcpStream> = (0..200).map(|_| caller(&listener, true)).collect();
    callers.push(caller(&listener, false));
    let there = callers[200].local_addr().expect("an address");
    let order = started(&callers, listener, ENDED + 1).await;
    assert!(order.len() < 200, "{}", order.len());
    // Each turn accepts 64 and starts 8 of those that ended.
    assert!(order.iter().position(|address| *address == there).is_some_and(|at| at <= 200 / 64 * 8 + 8));
}

/// Those that ended their side are started however many others arrive.
#[tokio::test]
async fn a_crowd_that_is_there_does_not_keep_others_waiting() {
    let listener = tokio::net::TcpSocket::new_v4().expect("a socket");
    listener.bind("127.0.0.1:0".parse().expect("an address")).expect("bound");
    let listener = listener.listen(400).expect("a listener");
    let mut callers = vec![caller(&listener, true)];
    callers.extend((0..200).map(|_| caller(&listener, false)));
    let ended = callers[0].local_addr().expect("an address");
    let order = started(&callers, listener, 201).await;
    assert!(order.iter().position(|address| *address == ended).is_some_and(|at| at < 20));
}

/// Requests do not wait behind the tasks of all connections that have arrived.
#[tokio::test]
async fn other_tasks_have_their_turn_while_connections_are_accepted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let clients: Vec<TcpStream> = (0..100).map(|_| caller(&listener, false)).collect();
    let (_stop, stopped) = watch::channel(false);
    let (turns, accepted) = (Cell::new(0), RefCell::new(Vec::new()));
    let accepting = accept(&stopped, Some(listener), |_: tokio::net::TcpStream, _| {
        accepted.borrow_mut().push(turns.get());
    });
    let others = async {
        while accepted.borrow().len() < clients.len() {
            turns.set(turns.get() + 1);
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        () = others => {}
        () = accepting => panic!("it goes on until the service stops"),
    }
    let accepted = accepted.into_inner();
    let in_a_row = accepted.chunk_by(|one, next| one == next).map(<[usize]>::len).max();
    assert!(in_a_row <= Some(STARTED_IN_A_ROW), "{accepted:?}");
}
