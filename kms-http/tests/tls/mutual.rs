//! Tests of client certificates.

use std::sync::Arc;

use kms_http::auth::mtls::MtlsMapper;
use kms_http::settings::{ClientCertificates, MtlsSettings, TlsSettings};
use kms_http::tls::TlsServer;
use kms_lib::Role;
use kms_test_support::authority::{Authority, Files};

use crate::{BOTH, client, meet, plain};

/// A server that accepts client certificates of `callers`.
fn mutual(servers: &Authority, callers: &Authority, how: ClientCertificates) -> (Files, Arc<TlsServer>) {
    let (files, settings) = plain(servers);
    let client_ca_file = Some(files.write("clients.pem", callers.pem()));
    let server = TlsServer::open(TlsSettings { client_certificates: how, client_ca_file, ..settings }).unwrap();
    (files, server)
}

#[tokio::test]
async fn a_valid_certificate_names_the_principal() {
    let (servers, callers) = (Authority::new("servers"), Authority::new("callers"));
    let alice = callers.client("Alice");
    let mapper = MtlsMapper::new(&MtlsSettings::default()).unwrap();
    for how in [ClientCertificates::Required, ClientCertificates::Optional] {
        let (_files, server) = mutual(&servers, &callers, how);
        for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
            let met = meet(&server, client(&servers, versions, Some(&alice))).await;
            assert!(met.client.is_ok(), "{:?}", met.client);
            let peer = met.server.unwrap().unwrap();
            assert_eq!(&peer, alice.certificate.der());
            assert_eq!(mapper.authenticate(&peer), Ok(("Alice".to_owned(), Role::App)));
        }
    }
}

#[tokio::test]
async fn invalid_certificates_are_rejected() {
    let (servers, callers) = (Authority::new("servers"), Authority::new("callers"));
    // An authority with the same name and another key.
    let impostor = Authority::new("callers");
    let bad = [
        ("expired", callers.expired_client("alice")),
        ("another authority", servers.client("alice")),
        ("an authority of the same name", impostor.client("alice")),
        ("not for clients", callers.no_client("alice")),
    ];
    for how in [ClientCertificates::Required, ClientCertificates::Optional] {
        let (_files, server) = mutual(&servers, &callers, how);
        for (what, certificate) in &bad {
            for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
                let met = meet(&server, client(&servers, versions, Some(certificate))).await;
                assert!(met.server.is_err() && met.client.is_err(), "{what}, {how:?}, {versions:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_missing_certificate_is_accepted_only_where_it_is_optional() {
    let (servers, callers) = (Authority::new("servers"), Authority::new("callers"));
    let (_files, server) = mutual(&servers, &callers, ClientCertificates::Required);
    for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
        let met = meet(&server, client(&servers, versions, None)).await;
        assert!(met.server.is_err() && met.client.is_err());
    }
    let (_files, server) = mutual(&servers, &callers, ClientCertificates::Optional);
    let met = meet(&server, client(&servers, BOTH, None)).await;
    assert!(met.client.is_ok());
    assert_eq!(met.server.unwrap(), None);
}

#[tokio::test]
async fn sessions_with_certificates_are_not_resumed() {
    let (servers, callers) = (Authority::new("servers"), Authority::new("callers"));
    let alice = callers.client("alice");
    let (_files, server) = mutual(&servers, &callers, ClientCertificates::Required);
    for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
        // One configuration for all connections, so that the client could resume a session.
        let config = client(&servers, versions, Some(&alice));
        for _ in 0..3 {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config.clone()));
            let (accepted, connected) = tokio::join!(server.accept(far), connector.connect(name, near));
            assert!(accepted.unwrap().peer.is_some());
            let kind = connected.unwrap().get_ref().1.handshake_kind();
            assert_ne!(kind, Some(rustls::HandshakeKind::Resumed));
        }
    }
}

#[tokio::test]
async fn a_revoked_certificate_is_rejected() {
    let (servers, callers) = (Authority::new("servers"), Authority::new("callers"));
    let (alice, mallory) = (callers.client_with_serial("alice", 1), callers.client_with_serial("mallory", 2));
    let (files, settings) = plain(&servers);
    let settings = TlsSettings {
        client_certificates: ClientCertificates::Required,
        client_ca_file: Some(files.write("clients.pem", callers.pem())),
        client_crl_file: Some(files.write("revoked.pem", callers.revoke(2))),
        ..settings
    };
    let server = TlsServer::open(settings).unwrap();
    assert!(meet(&server, client(&servers, BOTH, Some(&alice))).await.client.is_ok());
    assert!(meet(&server, client(&servers, BOTH, Some(&mallory))).await.server.is_err());
    // A later revocation takes effect with the next list.
    files.write("revoked.pem", callers.revoke(1));
    assert!(server.reload_if_changed().unwrap());
    assert!(meet(&server, client(&servers, BOTH, Some(&alice))).await.server.is_err());
}
