//! Tests of the issuer's availability: rotated keys, outages, faulty documents and untrusted certificates.

use std::sync::Arc;

use axum::http::StatusCode;
use kms_http::auth::AuthError;
use kms_http::auth::oidc::OidcVerifier;
use kms_http::settings::OidcSettings;
use kms_test_support::issuer::{Fault, Issuer, SigningKey};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::{Authenticate, alice, claims, refused, settings, verifier};

/// Settings with which every token causes a request for the issuer's keys.
fn eager(issuer: &Issuer) -> OidcSettings {
    OidcSettings { refresh_seconds: 0, stale_seconds: 3600, retry_seconds: 0, ..settings(issuer) }
}

/// Settings with which the verifier requests the issuer's keys once in a test.
fn lazy(issuer: &Issuer) -> OidcSettings {
    OidcSettings { refresh_seconds: 3600, stale_seconds: 3600, retry_seconds: 3600, ..settings(issuer) }
}

const INVALID: &str = "the token's signature does not verify";

#[track_caller]
fn unavailable(outcome: Result<(String, kms_lib::Role), AuthError>) {
    let error = outcome.expect_err("authenticated");
    assert!(matches!(error, AuthError::Unavailable(_)), "{error}");
}

#[tokio::test]
async fn rotated_keys_are_fetched_and_withdrawn_ones_dropped() {
    let (old, new) = (SigningKey::es256("old"), SigningKey::rs256("new"));
    let issuer = Issuer::start(&[&old]).await;
    let settings = OidcSettings { retry_seconds: 0, ..lazy(&issuer) };
    let verifier = OidcVerifier::new(settings).unwrap();
    assert_eq!(verifier.authenticate(&old.token(&claims(&issuer))).await, alice());

    issuer.publish(&[&old, &new]);
    assert_eq!(verifier.authenticate(&new.token(&claims(&issuer))).await, alice());
    assert_eq!(verifier.authenticate(&old.token(&claims(&issuer))).await, alice());
    assert_eq!(issuer.key_requests(), 2);

    let eager = OidcVerifier::new(eager(&issuer)).unwrap();
    assert_eq!(eager.authenticate(&old.token(&claims(&issuer))).await, alice());
    issuer.publish(&[&new]);
    // The new keys are fetched in the background. Meanwhile, tokens are verified with the known keys.
    while eager.authenticate(&old.token(&claims(&issuer))).await == alice() {
        tokio::task::yield_now().await;
    }
    assert_eq!(refused(eager.authenticate(&old.token(&claims(&issuer))).await), "the issuer has no such key");
    assert_eq!(eager.authenticate(&new.token(&claims(&issuer))).await, alice());
}

/// Before, the signature of every token was verified with every request.
#[tokio::test]
async fn a_verified_token_is_recognized_while_the_issuer_has_its_key() {
    let (key, other) = (SigningKey::es256("a"), SigningKey::es256("a"));
    let issuer = Issuer::start(&[&key]).await;
    let verifier = OidcVerifier::new(eager(&issuer)).unwrap();
    let token = key.token(&claims(&issuer));
    assert_eq!(verifier.recall(&token).await, None);
    assert_eq!(verifier.authenticate(&token).await, alice());
    assert_eq!(refused(verifier.authenticate(&other.token(&claims(&issuer))).await), INVALID);
    let recalled = Some(("Alice".into(), kms_lib::Role::App));
    // The same keys are fetched again and again.
    let before = issuer.key_requests();
    while issuer.key_requests() < before + 3 {
        assert_eq!(verifier.recall(&token).await, recalled);
        tokio::task::yield_now().await;
    }
    assert_eq!(verifier.recall(&other.token(&claims(&issuer))).await, None);
    // Another key of the same name takes its place, and comes back.
    issuer.publish(&[&other]);
    while verifier.recall(&token).await == recalled {
        tokio::task::yield_now().await;
    }
    assert_eq!(refused(verifier.authenticate(&token).await), INVALID);
    issuer.publish(&[&key]);
    while verifier.recall(&token).await.is_none() {
        tokio::task::yield_now().await;
    }
    issuer.publish(&[&SigningKey::es256("b")]);
    while verifier.recall(&token).await == recalled {
        tokio::task::yield_now().await;
    }
    assert_eq!(refused(verifier.authenticate(&token).await), "the issuer has no such key");
}

#[tokio::test]
async fn unknown_key_ids_do_not_flood_the_issuer() {
    let key = SigningKey::es256("a");
    let issuer = Issuer::start(&[&key]).await;
    let verifier = OidcVerifier::new(lazy(&issuer)).unwrap();
    let good = key.token(&claims(&issuer));
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..64 {
        let header = json!({"alg": "ES256", "kid": format!("made up {number}")});
        let (verifier, token) = (verifier.clone(), key.token_with(&header, &claims(&issuer)));
        callers.spawn(async move { verifier.authenticate(&token).await });
    }
    while let Some(outcome) = callers.join_next().await {
        assert_eq!(refused(outcome.unwrap()), "the issuer has no such key");
    }
    assert_eq!(verifier.authenticate(&good).await, alice());
    assert_eq!(issuer.key_requests(), 1);
}

#[tokio::test]
async fn many_callers_make_one_request() {
    let key = SigningKey::es256("a");
    let issuer = Issuer::start(&[&key]).await;
    let verifier = verifier(&issuer);
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (verifier, token) = (verifier.clone(), key.token(&claims(&issuer)));
        callers.spawn(async move { verifier.authenticate(&token).await });
    }
    while let Some(outcome) = callers.join_next().await {
        assert_eq!(outcome.unwrap(), alice());
    }
    assert_eq!(issuer.key_requests(), 1);
}

#[tokio::test]
async fn a_cancelled_caller_does_not_cancel_the_fetch_for_others() {
    let key = SigningKey::es256("a");
    let issuer = Issuer::start(&[&key]).await;
    let gate = Arc::new(Semaphore::new(0));
    *issuer.shared.gate.lock().unwrap() = Some(gate.clone());
    let verifier = OidcVerifier::new(lazy(&issuer)).unwrap();
    let token = key.token(&claims(&issuer));

    let caller = tokio::spawn({
        let (verifier, token) = (verifier.clone(), token.clone());
        async move { verifier.authenticate(&token).await }
    });
    issuer.shared.arrived.acquire().await.unwrap().forget();
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    gate.add_permits(1);

    // The next attempt is due in an hour, so the first fetch must have completed.
    assert_eq!(verifier.authenticate(&token).await, alice());
    assert_eq!(issuer.key_requests(), 1);
}

#[tokio::test]
async fn an_unreachable_issuer_makes_no_token_valid_or_invalid() {
    let (key, other) = (SigningKey::es256("a"), SigningKey::es256("b"));
    let mut issuer = Issuer::start(&[&key]).await;
    let token = key.token(&claims(&issuer));
    let patient = OidcVerifier::new(eager(&issuer)).unwrap();
    let strict = OidcVerifier::new(OidcSettings { stale_seconds: 0, ..eager(&issuer) }).unwrap();
    let fresh = OidcVerifier::new(eager(&issuer)).unwrap();
    assert_eq!(patient.authenticate(&token).await, alice());
    assert_eq!(strict.authenticate(&token).await, alice());

    issuer.stop().await;
    assert_eq!(patient.authenticate(&token).await, alice());
    unavailable(patient.authenticate(&other.token(&claims(&issuer))).await);
    unavailable(strict.authenticate(&token).await);
    unavailable(fresh.authenticate(&token).await);
    // A token that is malformed is refused without the issuer.
    refused(patient.authenticate("a.b.c").await);

    issuer.start_again().await;
    assert_eq!(strict.authenticate(&token).await, alice());
    assert_eq!(fresh.authenticate(&token).await, alice());
    refused(patient.authenticate(&other.token(&claims(&issuer))).await);
}

#[tokio::test]
async fn a_failing_issuer_is_not_asked_again_at_once() {
    let key = SigningKey::es256("a");
    let issuer = Issuer::start(&[&key]).await;
    *issuer.shared.key_fault.lock().unwrap() = Some(Fault::Status(StatusCode::INTERNAL_SERVER_ERROR));
    let verifier = OidcVerifier::new(lazy(&issuer)).unwrap();
    for _ in 0..20 {
        unavailable(verifier.authenticate(&key.token(&claims(&issuer))).await);
    }
    assert_eq!(issuer.key_requests(), 1);
}

#[tokio::test]
async fn a_silent_issuer_delays_no_caller_while_its_keys_are_fresh() {
    let key = SigningKey::es256("a");
    let issuer = Issuer::start(&[&key]).await;
    let verifier = OidcVerifier::new(OidcSettings { timeout_seconds: 3_600, ..eager(&issuer) }).unwrap();
    let token = key.token(&claims(&issuer));
    assert_eq!(verifier.authenticate(&token).await, alice());
    *issuer.shared.gate.lock().unwrap() = Some(Arc::new(Semaphore::new(0)));
    for _ in 0..10 {
        let answered = tokio::time::timeout(std::time::Duration::from_secs(60), verifier.authenticate(&token)).await;
        assert_eq!(answered.expect("the caller waits for the issuer"), alice());
    }
    // The fetch is under way nevertheless.
    issuer.shared.arrived.acquire_many(2).await.unwrap().forget();
}

#[tokio::test]
async fn keys_are_refreshed_without_callers() {
    let (old, new) = (SigningKey::es256("old"), SigningKey::es256("new"));
    let issuer = Issuer::start(&[&old]).await;
    let verifier = OidcVerifier::new(OidcSettings { retry_seconds: 0, refresh_seconds: 1, ..lazy(&issuer) }).unwrap();
    let keeping = tokio::spawn({
        let verifier = verifier.clone();
        async move { verifier.keep_fresh().await }
    });
    issuer.publish(&[&new]);
    while issuer.key_requests() < 3 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    keeping.abort();
    issuer.publish(&[]);
    assert_eq!(verifier.authenticate(&new.token(&claims(&issuer))).await, alice());
}

#[tokio::test]
async fn faulty_documents_are_rejected_and_change_nothing() {
    let key = SigningKey::es256("a");
    let issuer = Issuer::start(&[&key]).await;
    let verifier = OidcVerifier::new(eager(&issuer)).unwrap();
    let token = key.token(&claims(&issuer));
    let mut huge = json!({"keys": [key.jwk()]});
    huge["padding"] = json!("x".repeat(4 * 1024 * 1024));
    let many: Vec<_> = (0..1000).map(|_| key.jwk()).collect();
    let elsewhere = format!("{}/keys", issuer.url);
    let faults = [
        Fault::Status(StatusCode::NOT_FOUND),
        Fault::Status(StatusCode::NO_CONTENT),
        Fault::Redirect(elsewhere),
        Fault::Redirect("file:///etc/passwd".to_owned()),
        Fault::Body(huge.to_string().into_bytes()),
        Fault::Body(json!({ "keys": many }).to_string().into_bytes()),
        Fault::Body(b"<html>".to_vec()),
        Fault::Body(Vec::new()),
        Fault::Body(vec![0xff; 100]),
        Fault::Body(b"[".repeat(100_000)),
        Fault::Body(br#"{"keys":[]}"#.to_vec()),
        Fault::Endless,
    ];
    for fault in faults {
        *issuer.shared.key_fault.lock().unwrap() = Some(fault.clone());
        unavailable(OidcVerifier::new(eager(&issuer)).unwrap().authenticate(&token).await);
        *issuer.shared.key_fault.lock().unwrap() = None;
        *issuer.shared.discovery_fault.lock().unwrap() = Some(fault);
        unavailable(OidcVerifier::new(eager(&issuer)).unwrap().authenticate(&token).await);
        *issuer.shared.discovery_fault.lock().unwrap() = None;
    }
    assert_eq!(verifier.authenticate(&token).await, alice());
    // Keys that were fetched before stay valid.
    *issuer.shared.key_fault.lock().unwrap() = Some(Fault::Endless);
    assert_eq!(verifier.authenticate(&token).await, alice());
}

#[tokio::test]
async fn a_request_to_a_silent_issuer_times_out() {
    let key = SigningKey::es256("a");
    let issuer = Issuer::start(&[&key]).await;
    *issuer.shared.key_fault.lock().unwrap() = Some(Fault::Silence);
    let verifier = OidcVerifier::new(OidcSettings { timeout_seconds: 1, ..eager(&issuer) }).unwrap();
    unavailable(verifier.authenticate(&key.token(&claims(&issuer))).await);
}

#[tokio::test]
async fn a_discovery_document_must_name_its_issuer() {
    let key = SigningKey::es256("a");
    let issuer = Issuer::start(&[&key]).await;
    let keys = format!("{}/keys", issuer.url);
    let token = key.token(&claims(&issuer));
    for document in [
        json!({"issuer": "https://other.example.com", "jwks_uri": keys}),
        json!({"issuer": format!("{}/", issuer.url), "jwks_uri": keys}),
        json!({"jwks_uri": keys}),
        json!({"issuer": issuer.url}),
        json!({"issuer": issuer.url, "jwks_uri": "http://192.0.2.1/keys"}),
        json!({"issuer": issuer.url, "jwks_uri": "file:///etc/passwd"}),
        json!({"issuer": issuer.url, "jwks_uri": "/keys"}),
    ] {
        *issuer.shared.discovery.lock().unwrap() = document;
        unavailable(OidcVerifier::new(eager(&issuer)).unwrap().authenticate(&token).await);
    }
    // A configured `jwks_uri` needs no discovery document.
    let direct = OidcVerifier::new(OidcSettings { jwks_uri: Some(keys), ..eager(&issuer) }).unwrap();
    assert_eq!(direct.authenticate(&token).await, alice());
}

#[tokio::test]
async fn prefetched_keys_need_no_issuer_at_the_first_token() {
    let key = SigningKey::es256("a");
    let mut issuer = Issuer::start(&[&key]).await;
    let verifier = OidcVerifier::new(lazy(&issuer)).unwrap();
    verifier.prefetch().await;
    issuer.stop().await;
    assert_eq!(verifier.authenticate(&key.token(&claims(&issuer))).await, alice());
}

#[tokio::test]
async fn an_https_issuer_must_have_a_trusted_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let stranger = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(path("stranger.pem"), stranger.cert.pem()).unwrap();
    let key = SigningKey::es256("a");
    let issuer = Issuer::start_https("localhost", folder.path(), &[&key]).await;

    let trusting = |ca: &str| OidcVerifier::new(OidcSettings { ca_file: Some(path(ca)), ..eager(&issuer) }).unwrap();
    let token = key.token(&claims(&issuer));
    assert_eq!(trusting("server.pem").authenticate(&token).await, alice());
    unavailable(trusting("stranger.pem").authenticate(&token).await);
    // The system's authorities do not trust the certificate either.
    unavailable(verifier(&issuer).authenticate(&token).await);
    // The discovery document of an https issuer must not lead to plain http.
    let plain = Issuer::start(&[&key]).await;
    *issuer.shared.discovery.lock().unwrap() = json!({"issuer": issuer.url, "jwks_uri": format!("{}/keys", plain.url)});
    unavailable(trusting("server.pem").authenticate(&token).await);
    assert_eq!(plain.key_requests(), 0);
}
