//! Sockets to listen on: those that the settings name, or those that a supervisor has opened (socket activation).

use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kms_lib::{Error, Result};
use listenfd::ListenFd;
use tokio::net::{TcpListener, TcpSocket, UnixListener};

use crate::settings::{Http, invalid};
use crate::tls::TlsServer;

/// Most bytes that the kernel keeps of what a caller has not taken yet; some systems keep twice that.
const UNSENT: u32 = 128 * 1024;
/// Most connections that wait to be accepted.
const BACKLOG: u32 = 1_024;

/// Sockets that were open when the process began: at most one for TCP and one Unix socket.
#[derive(Default)]
pub struct Inherited {
    tcp: Option<std::net::TcpListener>,
    unix: Option<std::os::unix::net::UnixListener>,
}

impl Inherited {
    /// Takes what the supervisor has passed on (`LISTEN_FDS` and `LISTEN_PID`, as systemd does). Before any thread is
    /// started: it removes these variables.
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
                    "the supervisor passes on a socket that is of no use: one for TCP and one Unix socket are taken",
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

/// Sockets that are open.
pub struct Listeners {
    pub(super) tcp: Option<TcpListener>,
    pub(super) unix: Option<UnixListener>,
    /// The path of a Unix socket that was made here, and is removed in the end.
    pub(super) socket: Option<PathBuf>,
    pub(super) tls: Option<Arc<TlsServer>>,
}

impl Listeners {
    /// Opens what the settings name, unless there are inherited sockets: then these are used, and no others.
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

    /// Where others connect to, as the program says it.
    pub fn describe(&self) -> Vec<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let tcp = self.address().map(|address| format!("{scheme}://{address}"));
        let path = |socket: &UnixListener| socket.local_addr().ok()?.as_pathname().map(Path::to_owned);
        let unix = self.unix.as_ref().and_then(path).map(|path| format!("unix:{}", path.display()));
        tcp.into_iter().chain(unix).collect()
    }

    /// The address of the TCP socket.
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|tcp| tcp.local_addr().ok())
    }
}

/// Opens a TCP socket whose connections hold little that was not sent yet: the kernel's memory is bounded, and even a
/// caller that takes its answer slowly is seen to go on.
fn bind_tcp(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(UNSENT)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Opens a unix socket in the place of one that nobody listens on any more.
fn bind_unix(path: &Path, mode: u32) -> Result<UnixListener> {
    let name = path.display().to_string();
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(invalid(format!("somebody listens on {name} already")));
        }
        let is_socket = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
        if !is_socket {
            return Err(invalid(format!("{name} is there, and is no socket")));
        }
        std::fs::remove_file(path).map_err(|e| unusable(&name, &e))?;
    }
    // For nobody else until its mode is set.
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(mask);
    let set = |_: &UnixListener| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
    bound.and_then(|socket| set(&socket).map(|()| socket)).map_err(|e| unusable(&name, &e))
}

fn unusable(place: &str, e: &std::io::Error) -> Error {
    invalid(format!("cannot listen on {place}: {e}"))
}
