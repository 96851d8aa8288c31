use std::io;
use std::sync::Arc;

use kms_http::settings::TlsSettings;
use kms_http::tls::TlsServer;
use kms_test_support::authority::{Authority, Files};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::{BOTH, client, meet, plain, shows};

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken() {
    let authority = Authority::new("ca");
    let (_files, settings) = plain(&authority);
    let server = TlsServer::open(settings).unwrap();
    for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
        let met = meet(&server, client(&authority, versions, None)).await;
        assert!(met.client.is_ok(), "{:?}", met.client);
        assert!(met.server.unwrap().is_none());
    }
    // A client that does not trust the authority ends the handshake.
    let met = meet(&server, client(&Authority::new("another"), BOTH, None)).await;
    assert!(met.client.is_err() && met.server.is_err());
}

#[tokio::test]
async fn http_2_is_offered_before_http_1_1() {
    let authority = Authority::new("ca");
    let (_files, settings) = plain(&authority);
    let server = TlsServer::open(settings).unwrap();
    for (offered, chosen) in [(vec!["http/1.1", "h2"], "h2"), (vec!["http/1.1"], "http/1.1")] {
        let mut config = client(&authority, BOTH, None);
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let (near, far) = tokio::io::duplex(64 * 1024);
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let (accepted, connected) = tokio::join!(server.accept(far), connector.connect(name, near));
        accepted.unwrap();
        assert_eq!(connected.unwrap().get_ref().1.alpn_protocol(), Some(chosen.as_bytes()));
    }
}

/// A ClientHello (RFC 5246, section 7.4.1.2) of this version that suits the server otherwise, without the extension
/// `supported_versions`.
fn client_hello(version: [u8; 2]) -> Vec<u8> {
    let extensions = [
        &[0, 10, 0, 4, 0, 2, 0, 23][..], // groups: P-256
        &[0, 11, 0, 2, 1, 0],            // uncompressed points
        &[0, 13, 0, 4, 0, 2, 4, 3],      // signatures: ECDSA on P-256 with SHA-256
    ]
    .concat();
    let mut body = version.to_vec();
    body.extend([7; 32]); // random
    body.push(0); // no session
    body.extend([0, 2, 0xc0, 0x2b]); // ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
    body.extend([1, 0]); // no compression
    body.extend([0, extensions.len() as u8]);
    body.extend(extensions);
    let mut message = vec![1, 0, 0, body.len() as u8];
    message.extend(body);
    let mut record = vec![22, 3, 1, 0, message.len() as u8];
    record.extend(message);
    record
}

/// The bytes with which the server answers, and whether the handshake succeeded.
async fn answer(server: &TlsServer, bytes: &[u8]) -> (Vec<u8>, bool) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let connected = server.accept(accepted).await.is_ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    (answer, connected)
}

#[tokio::test]
async fn older_versions_are_refused_with_an_alert() {
    let authority = Authority::new("ca");
    let (_files, settings) = plain(&authority);
    let server = TlsServer::open(settings).unwrap();
    for version in [[3, 0], [3, 1], [3, 2]] {
        let (answer, connected) = answer(&server, &client_hello(version)).await;
        // An alert (21), fatal (2), protocol_version (70).
        assert_eq!((answer[0], &answer[5..]), (21, &[2, 70][..]), "{version:?}");
        assert!(!connected);
    }
    // The server answers the same ClientHello of TLS 1.2 with a handshake message (22): a ServerHello (2).
    let (answer, _) = answer(&server, &client_hello([3, 3])).await;
    assert_eq!((answer[0], answer[5]), (22, 2));
}

#[tokio::test]
async fn invalid_handshakes_end() {
    let authority = Authority::new("ca");
    let (_files, settings) = plain(&authority);
    let server = TlsServer::open(TlsSettings { handshake_timeout_seconds: 1, ..settings }).unwrap();
    for noise in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 512], &[0xff; 20_000]] {
        let (mut near, far) = tokio::io::duplex(64 * 1024);
        near.write_all(noise).await.unwrap();
        assert!(server.accept(far).await.is_err());
    }
    let (near, far) = tokio::io::duplex(64);
    drop(near);
    assert!(server.accept(far).await.is_err());
    // A client that sends nothing, and one that stops in the middle.
    for beginning in [&[][..], &client_hello([3, 3])[..20]] {
        let (mut near, far) = tokio::io::duplex(64 * 1024);
        near.write_all(beginning).await.unwrap();
        let error = server.accept(far).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}

#[tokio::test]
async fn private_keys_in_sec1_are_read() {
    use aws_lc_rs::encoding::AsDer;
    let authority = Authority::new("ca");
    let files = Files::create();
    let issued = authority.server(1);
    files.install(&issued);
    // Converts the key from PKCS#8 to SEC 1.
    let pair = aws_lc_rs::signature::EcdsaKeyPair::from_pkcs8(
        &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1_SIGNING,
        &issued.key.serialize_der(),
    )
    .unwrap();
    let sec1: aws_lc_rs::encoding::EcPrivateKeyRfc5915Der = pair.private_key().as_der().unwrap();
    let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, sec1.as_ref());
    files.write("server.key", format!("-----BEGIN EC PRIVATE KEY-----\n{text}\n-----END EC PRIVATE KEY-----\n"));
    let server = TlsServer::open(shows(files.path("server.pem"), files.path("server.key"))).unwrap();
    assert!(meet(&server, client(&authority, BOTH, None)).await.client.is_ok());
}
