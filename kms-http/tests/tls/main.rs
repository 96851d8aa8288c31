//! Tests of TLS with real handshakes: versions, client certificates, and reloaded files.

#![allow(clippy::unwrap_used)]

mod mutual;
mod reload;
mod versions;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use kms_http::settings::TlsSettings;
use kms_http::tls::TlsServer;
use kms_test_support::authority::{Authority, Files, Issued};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

const BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// The files and settings of a server that requests no client certificates.
fn plain(authority: &Authority) -> (Files, TlsSettings) {
    let files = Files::create();
    files.install(&authority.server(1));
    let settings = shows(files.path("server.pem"), files.path("server.key"));
    (files, settings)
}

/// The settings of a server with this certificate and key.
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

/// The outcome of a connection on both sides.
struct Met {
    /// The client certificate that the server received, if any.
    server: io::Result<Option<CertificateDer<'static>>>,
    /// The server's certificate, if the byte came back.
    client: io::Result<CertificateDer<'static>>,
}

/// Makes a handshake over a TCP connection, and sends one byte there and back. A client learns only from the answer
/// that the server rejected its certificate (RFC 8446, section 4.4.2.4).
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
