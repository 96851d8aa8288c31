//! Listening sockets: those in the settings, or those passed by a supervisor (socket activation).

use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kms_lib::{Error, Result};
use listenfd::ListenFd;
use tokio::net::{TcpListener, TcpSocket, UnixListener};

use crate::settings::{Http, invalid};
use crate::tls::TlsServer;

/// Size of the kernel's send buffer of a connection in bytes; Linux doubles this value.
const UNSENT: u32 = 128 * 1024;
/// Maximum number of connections that wait to be accepted; Linux allows no more by default. The first packet of others
/// is dropped, and their callers send it again after a second.
const BACKLOG: u32 = 4_096;

/// Sockets that the process inherited: at most one TCP socket and one Unix socket.
#[derive(Default)]
pub struct Inherited {
    tcp: Option<std::net::TcpListener>,
    unix: Option<std::os::unix::net::UnixListener>,
}

impl Inherited {
    /// Takes the sockets that the supervisor passed (`LISTEN_FDS` and `LISTEN_PID`, as systemd sets them). Must be
    /// called before any thread starts, because it removes these environment variables.
    pub fn take() -> Result<Self> {
        let mut given = ListenFd::from_env();
        let mut inherited = Self::default();
        for at in 0..given.len() {
            if inherited.tcp.is_none()
                && let Ok(Some(listener)) = given.take_tcp_listener(at)
            {
                inherited.tcp = Some(listener);
            } else if inherited.unix.is_none()
                && let Ok(Some(listener)) = given.take_unix_listener(at)
            {
                inherited.unix = Some(listener);
            } else {
                return Err(invalid(
                    "the supervisor passed a socket that cannot be used; pass at most one TCP and one Unix socket",
                ));
            }
        }
        Ok(inherited)
    }

    fn is_empty(&self) -> bool {
        self.tcp.is_none() && self.unix.is_none()
    }

    fn open(self) -> std::io::Result<(Option<TcpListener>, Option<UnixListener>)> {
        if let Some(listener) = &self.tcp {
            listener.set_nonblocking(true)?;
        }
        if let Some(listener) = &self.unix {
            listener.set_nonblocking(true)?;
        }
        Ok((self.tcp.map(TcpListener::from_std).transpose()?, self.unix.map(UnixListener::from_std).transpose()?))
    }
}

/// The open listening sockets and the TLS server, if any.
pub struct Listeners {
    pub(super) tcp: Option<TcpListener>,
    pub(super) unix: Option<UnixListener>,
    /// The path of a Unix socket that this process created and removes on shutdown.
    pub(super) socket: Option<PathBuf>,
    pub(super) tls: Option<Arc<TlsServer>>,
}

impl Listeners {
    /// Opens the sockets in the settings. If there are inherited sockets, only those are used.
    pub fn open(http: &Http, inherited: Inherited) -> Result<Self> {
        let tls = http.tls.is_on().then(|| TlsServer::open(http.tls.clone())).transpose()?;
        if !inherited.is_empty() {
            let (tcp, unix) = inherited.open().map_err(|e| unusable("a socket of the supervisor", &e))?;
            return Ok(Self { tcp, unix, socket: None, tls });
        }
        let tcp = match http.listen {
            Some(address) => Some(bind_tcp(address).map_err(|e| unusable(&address.to_string(), &e))?),
            None => None,
        };
        let unix = http.unix_socket.as_deref().map(|path| bind_unix(path, http.unix_socket_mode)).transpose()?;
        Ok(Self { tcp, unix, socket: http.unix_socket.clone(), tls })
    }

    /// The addresses of the service, as the program prints them.
    pub fn describe(&self) -> Vec<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let tcp = self.address().map(|address| format!("{scheme}://{address}"));
        let path = |socket: &UnixListener| socket.local_addr().ok()?.as_pathname().map(Path::to_owned);
        let unix = self.unix.as_ref().and_then(path).map(|path| format!("unix:{}", path.display()));
        tcp.into_iter().chain(unix).collect()
    }

    /// The local address of the TCP socket, if there is one.
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|tcp| tcp.local_addr().ok())
    }
}

/// Opens a TCP socket whose connections have small send buffers. This bounds the kernel's memory and makes the progress
/// of slow readers visible.
fn bind_tcp(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(UNSENT)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Opens a Unix socket, replacing a socket file on which no process listens any more.
fn bind_unix(path: &Path, mode: u32) -> Result<UnixListener> {
    let name = path.display().to_string();
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(invalid(format!("another process is already listening on {name}")));
        }
        let is_socket = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
        if !is_socket {
            return Err(invalid(format!("{name} exists and is not a socket; remove it or change http.unix_socket")));
        }
        std::fs::remove_file(path).map_err(|e| unusable(&name, &e))?;
    }
    // Only the owner may connect until the configured mode is set.
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(mask);
    let set = |_: &UnixListener| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
    bound.and_then(|socket| set(&socket).map(|()| socket)).map_err(|e| unusable(&name, &e))
}

fn unusable(place: &str, e: &std::io::Error) -> Error {
    invalid(format!("cannot listen on {place}: {e}"))
}
