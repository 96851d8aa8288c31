//! Tests of TLS with real handshakes: versions, client certificates, and files that change.

#![allow(clippy::unwrap_used)]

mod authority;
mod mutual;
mod reload;
mod versions;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use kms_http::settings::TlsSettings;
use kms_http::tls::TlsServer;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use authority::{Authority, Files, Issued};

const BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// A server's files and settings, without certificates of callers.
fn plain(authority: &Authority) -> (Files, TlsSettings) {
    let files = Files::new();
    files.install(&authority.server(1));
    let settings = shows(files.path("server.pem"), files.path("server.key"));
    (files, settings)
}

/// Settings of a server that shows this certificate.
fn shows(certificate_file: PathBuf, key_file: PathBuf) -> TlsSettings {
    TlsSettings { certificate_file, key_file, ..TlsSettings::default() }
}

fn client(authority: &Authority, versions: &[&'static SupportedProtocolVersion], own: Option<&Issued>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let builder = builder.with_root_certificates(roots);
    match own {
        Some(issued) => builder.with_client_auth_cert(issued.chain(), issued.private_key()).unwrap(),
        None => builder.with_no_client_auth(),
    }
}

/// What both sides saw of a connection.
struct Met {
    /// The server's outcome: the caller's certificate, if any.
    server: io::Result<Option<CertificateDer<'static>>>,
    /// The client's: the server's certificate, and that a byte came back.
    client: io::Result<CertificateDer<'static>>,
}

/// A handshake over a real socket, and one byte there and back. A client only learns from the answer that the server
/// did not like its certificate (RFC 8446, 4.4.2.4).
async fn meet(server: &Arc<TlsServer>, config: ClientConfig) -> Met {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = tokio::spawn({
        let server = server.clone();
        async move {
            let (stream, _) = listener.accept().await?;
            let mut connection = server.accept(stream).await?;
            let byte = connection.stream.read_u8().await?;
            connection.stream.write_u8(byte).await?;
            connection.stream.shutdown().await?;
            Ok(connection.peer)
        }
    });
    let client = talk(address, config).await;
    Met { server: accepting.await.unwrap(), client }
}

async fn talk(address: std::net::SocketAddr, config: ClientConfig) -> io::Result<CertificateDer<'static>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream.write_u8(42).await?;
    stream.flush().await?;
    assert_eq!(stream.read_u8().await?, 42);
    Ok(stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned())
}
