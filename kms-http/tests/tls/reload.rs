//! Tests of reloading TLS files while the service runs.

use std::os::unix::fs::symlink;

use kms_http::settings::{ClientCertificates, TlsSettings};
use kms_http::tls::TlsServer;
use kms_lib::ErrorCode;
use kms_test_support::authority::{Authority, Files, Issued};
use rustls::pki_types::CertificateDer;

use crate::{BOTH, client, meet, plain, shows};

async fn shown(server: &std::sync::Arc<TlsServer>, authority: &Authority) -> CertificateDer<'static> {
    meet(server, client(authority, BOTH, None)).await.client.unwrap()
}

#[tokio::test]
async fn changed_files_are_loaded_and_unchanged_ones_are_not() {
    let authority = Authority::new("ca");
    let (files, settings) = plain(&authority);
    let server = TlsServer::open(settings).unwrap();
    let first = shown(&server, &authority).await;
    assert!(!server.reload_if_changed().unwrap());
    assert!(server.certificate_expires().is_some());

    let second = authority.server(2);
    files.install(&second);
    // The server uses the old files until it checks again.
    assert_eq!(shown(&server, &authority).await, first);
    assert!(server.reload_if_changed().unwrap());
    assert_eq!(&shown(&server, &authority).await, second.certificate.der());
    assert!(!server.reload_if_changed().unwrap());
}

#[tokio::test]
async fn invalid_files_leave_the_former_in_use() {
    let authority = Authority::new("ca");
    let (files, settings) = plain(&authority);
    let server = TlsServer::open(settings).unwrap();
    let first = shown(&server, &authority).await;
    let second = authority.server(2);

    // The certificate is new, its key is not.
    files.write("server.pem", second.certificate.pem());
    assert_eq!(server.reload_if_changed().unwrap_err().code(), ErrorCode::InvalidConfiguration);
    // The same files are reported once, not at every check.
    assert!(!server.reload_if_changed().unwrap());
    for content in ["", "garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        files.write("server.pem", content);
        assert_eq!(server.reload().unwrap_err().code(), ErrorCode::InvalidConfiguration, "{content:?}");
    }
    std::fs::remove_file(files.path("server.pem")).unwrap();
    assert!(server.reload_if_changed().is_err());
    assert_eq!(shown(&server, &authority).await, first);

    files.install(&second);
    assert!(server.reload_if_changed().unwrap());
    assert_eq!(&shown(&server, &authority).await, second.certificate.der());
}

#[tokio::test]
async fn a_change_of_a_symbolic_link_is_noticed() {
    let authority = Authority::new("ca");
    let files = Files::create();
    let put = |folder: &str, issued: &Issued| {
        std::fs::create_dir(files.path(folder)).unwrap();
        files.write(&format!("{folder}/tls.crt"), issued.certificate.pem());
        files.write(&format!("{folder}/tls.key"), issued.key.serialize_pem());
    };
    let (first, second) = (authority.server(1), authority.server(2));
    put("a", &first);
    put("b", &second);
    symlink("a", files.path("current")).unwrap();
    let folder = files.folder().join("current");
    let server = TlsServer::open(shows(folder.join("tls.crt"), folder.join("tls.key"))).unwrap();
    assert_eq!(&shown(&server, &authority).await, first.certificate.der());
    symlink("b", files.path("next")).unwrap();
    std::fs::rename(files.path("next"), files.path("current")).unwrap();
    assert!(server.reload_if_changed().unwrap());
    assert_eq!(&shown(&server, &authority).await, second.certificate.der());
}

#[tokio::test]
async fn the_watch_loads_new_files_and_obeys_sighup() {
    let authority = Authority::new("ca");
    for reload_seconds in [1, 0] {
        let (files, settings) = plain(&authority);
        let server = TlsServer::open(TlsSettings { reload_seconds, ..settings }).unwrap();
        let watch = tokio::spawn(server.clone().watch());
        let second = authority.server(2);
        files.install(&second);
        // The wait has no limit, so that the test passes on a slow machine.
        while &shown(&server, &authority).await != second.certificate.der() {
            if reload_seconds == 0 {
                // The watch installs its handler when it first runs. Until then, this one keeps SIGHUP from ending
                // the process.
                let _ours = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).unwrap();
                let process = std::process::id().to_string();
                let sent = std::process::Command::new("kill").args(["-HUP", &process]).status().unwrap();
                assert!(sent.success());
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        watch.abort();
    }
}

#[tokio::test]
async fn the_client_authorities_are_reloaded_too() {
    let (servers, old, new) = (Authority::new("servers"), Authority::new("old"), Authority::new("new"));
    let (files, settings) = plain(&servers);
    let settings = TlsSettings {
        client_certificates: ClientCertificates::Required,
        client_ca_file: Some(files.write("clients.pem", old.pem())),
        ..settings
    };
    let server = TlsServer::open(settings).unwrap();
    let (before, after) = (old.client("alice"), new.client("alice"));
    assert!(meet(&server, client(&servers, BOTH, Some(&before))).await.client.is_ok());
    assert!(meet(&server, client(&servers, BOTH, Some(&after))).await.server.is_err());
    files.write("clients.pem", new.pem());
    assert!(server.reload_if_changed().unwrap());
    assert!(meet(&server, client(&servers, BOTH, Some(&before))).await.server.is_err());
    assert!(meet(&server, client(&servers, BOTH, Some(&after))).await.client.is_ok());
}

#[test]
fn errors_name_the_file() {
    let authority = Authority::new("ca");
    let (files, good) = plain(&authority);
    let stranger = authority.server(2);
    let garbage = files.write("garbage.pem", "garbage");
    let huge = files.write("huge.pem", vec![b'x'; 5 * 1024 * 1024]);
    let other_key = files.write("other.key", stranger.key.serialize_pem());
    let ca = files.write("ca.pem", authority.pem());
    let missing = files.path("missing.pem");
    let required = ClientCertificates::Required;
    let cases = [
        ("missing.pem", TlsSettings { certificate_file: missing.clone(), ..good.clone() }),
        ("missing.pem", TlsSettings { key_file: missing.clone(), ..good.clone() }),
        ("garbage.pem", TlsSettings { certificate_file: garbage.clone(), ..good.clone() }),
        ("garbage.pem", TlsSettings { key_file: garbage.clone(), ..good.clone() }),
        ("huge.pem", TlsSettings { certificate_file: huge, ..good.clone() }),
        ("other.key", TlsSettings { key_file: other_key, ..good.clone() }),
        ("server.pem", TlsSettings { key_file: good.certificate_file.clone(), ..good.clone() }),
        ("client_ca_file", TlsSettings { client_certificates: required, ..good.clone() }),
        ("client_certificates", TlsSettings { client_ca_file: Some(ca.clone()), ..good.clone() }),
        (
            "garbage.pem",
            TlsSettings { client_certificates: required, client_ca_file: Some(garbage.clone()), ..good.clone() },
        ),
        (
            "garbage.pem",
            TlsSettings {
                client_certificates: required,
                client_ca_file: Some(ca),
                client_crl_file: Some(garbage),
                ..good.clone()
            },
        ),
        ("server.key", TlsSettings { certificate_file: good.key_file.clone(), ..good.clone() }),
    ];
    for (named, settings) in cases {
        let error = TlsServer::open(settings).err().unwrap();
        assert_eq!(error.code(), ErrorCode::InvalidConfiguration, "{error}");
        assert!(error.message().contains(named), "{named} is not in: {error}");
        assert!(!error.message().contains("BEGIN"), "{error}");
    }
    assert!(TlsServer::open(good).is_ok());
}
