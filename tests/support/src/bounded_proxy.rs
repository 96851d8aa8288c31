//! A proxy for one connection to a server, which cuts or holds it after a number of bytes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// The behavior of the proxy once the server has sent the number of bytes.
#[derive(Clone, Debug)]
pub enum Bound {
    /// The connection is cut; exactly this many bytes pass.
    Cut(usize),
    /// While the flag is set, nothing passes after about this many bytes.
    Hold(usize, Arc<AtomicBool>),
}

/// Starts a proxy in front of the server at this port of the loopback interface. Returns the port of the proxy.
pub fn bounded_proxy(server: u16, bound: Bound) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    thread::spawn(move || {
        let (client, _) = listener.accept().expect("a client");
        let upstream = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).expect("the server");
        let (mut from, mut to) = (client.try_clone().expect("a socket"), upstream.try_clone().expect("a socket"));
        thread::spawn(move || std::io::copy(&mut from, &mut to));
        forward(&upstream, &client, &bound);
        let _ = client.shutdown(Shutdown::Both);
        let _ = upstream.shutdown(Shutdown::Both);
    });
    port
}

fn forward(mut from: &TcpStream, mut to: &TcpStream, bound: &Bound) {
    let (mut buffer, mut passed) = ([0; 4096], 0);
    loop {
        let most = match bound {
            Bound::Cut(bytes) => buffer.len().min(bytes - passed),
            Bound::Hold(..) => buffer.len(),
        };
        // With no room left, nothing is read.
        let Ok(read @ 1..) = from.read(&mut buffer[..most]) else { return };
        passed += read;
        if let Bound::Hold(bytes, is_held) = bound {
            while is_held.load(Ordering::SeqCst) && passed > *bytes {
                thread::sleep(Duration::from_millis(1));
            }
        }
        if to.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
}
