//! A proxy between a client and a database server, which can cut connections around a commit.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread;

/// The behavior of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Everything passes in both directions.
    Pass = 0,
    /// A request that contains the word `COMMIT` passes, and the connection is cut before the answer.
    CutAfterCommit = 1,
    /// The connection is cut before such a request passes.
    CutBeforeCommit = 2,
    /// Nothing passes and nothing is closed, as if the peer had lost its network.
    Freeze = 3,
}

/// A TCP proxy in front of one server, whose [`Mode`] can change at any time.
pub struct Proxy {
    port: u16,
    mode: Arc<AtomicU8>,
    closed: Arc<AtomicBool>,
}

impl Proxy {
    /// Starts a proxy in front of the server at this port of the loopback interface.
    pub fn new(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let (mode, closed) = (Arc::<AtomicU8>::default(), Arc::<AtomicBool>::default());
        let (shared, ended) = (Arc::clone(&mode), Arc::clone(&closed));
        thread::spawn(move || {
            for client in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(client) = client else { continue };
                let Ok(upstream) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)) else { continue };
                join(client, upstream, &shared);
            }
        });
        Self { port, mode, closed }
    }

    /// The port on which the proxy listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes the mode. A mode that cuts does so once, and then everything passes.
    pub fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        // Wakes the listening thread.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn join(client: TcpStream, server: TcpStream, mode: &Arc<AtomicU8>) {
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let pairs = [(&client, &server, true), (&server, &client, false)];
    for (from, to, is_request) in pairs {
        let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { return };
        let mode = Arc::clone(mode);
        thread::spawn(move || forward(from, to, &mode, is_request));
    }
}

/// Whether the bytes contain `COMMIT` as a word, not as a part of another one (`READ COMMITTED`).
fn commits(request: &[u8]) -> bool {
    let begins = |at: &usize| request[*at..].starts_with(b"COMMIT");
    (0..request.len()).filter(begins).any(|at| !request.get(at + 6).is_some_and(u8::is_ascii_alphabetic))
}

fn forward(mut from: TcpStream, mut to: TcpStream, mode: &AtomicU8, is_request: bool) {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(length) => length,
        };
        if mode.load(Ordering::SeqCst) == Mode::Freeze as u8 {
            // The connections stay open and silent.
            thread::sleep(std::time::Duration::from_secs(60));
            break;
        }
        let commits = is_request && commits(&buffer[..length]);
        let taken =
            |cut: Mode| commits && mode.compare_exchange(cut as u8, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if taken(Mode::CutBeforeCommit) {
            break;
        }
        let cuts = taken(Mode::CutAfterCommit);
        if cuts {
            // The client's side is closed first, so that the response does not pass.
            let _ = from.shutdown(Shutdown::Both);
        }
        if to.write_all(&buffer[..length]).is_err() || cuts {
            // Gives the server time to complete the commit.
            thread::sleep(std::time::Duration::from_millis(if cuts { 50 } else { 0 }));
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
