use aws_lc_rs::hmac;
use kms_http::auth::oidc::OidcVerifier;
use kms_http::settings::OidcSettings;
use kms_lib::Role;
use serde_json::{Value, json};

use kms_test_support::issuer::{Issuer, SigningKey, base64url};

use crate::Authenticate;
use crate::{alice, claims, now, refused, settings, verifier};

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

fn without(mut claims: Value, name: &str) -> Value {
    claims.as_object_mut().unwrap().remove(name);
    claims
}

#[tokio::test]
async fn tokens_of_every_algorithm_are_accepted() {
    let keys = [
        SigningKey::rs256("rs"),
        SigningKey::ps256("ps"),
        SigningKey::es256("p256"),
        SigningKey::es384("p384"),
        SigningKey::eddsa("ed"),
    ];
    let issuer = Issuer::start(&keys.each_ref()).await;
    let verifier = verifier(&issuer);
    for key in &keys {
        assert_eq!(verifier.authenticate(&key.token(&claims(&issuer))).await, alice(), "{}", key.algorithm);
    }
    assert_eq!(issuer.key_requests(), 1);
}

#[tokio::test]
async fn a_token_is_valid_only_within_its_times() {
    let key = SigningKey::es256("a");
    let issuer = Issuer::start(&[&key]).await;
    let strict = OidcVerifier::new(OidcSettings { leeway_seconds: 0, ..settings(&issuer) }).unwrap();
    let tolerant = OidcVerifier::new(OidcSettings { leeway_seconds: 300, ..settings(&issuer) }).unwrap();
    let good = claims(&issuer);

    let expired = key.token(&with(good.clone(), "exp", json!(now() - 100)));
    assert_eq!(refused(strict.authenticate(&expired).await), "the token has expired");
    assert_eq!(tolerant.authenticate(&expired).await, alice());
    let early = key.token(&with(good.clone(), "nbf", json!(now() + 100)));
    assert_eq!(refused(strict.authenticate(&early).await), "the token is not valid yet");
    assert_eq!(tolerant.authenticate(&early).await, alice());

    let long_ago = key.token(&with(good.clone(), "exp", json!(1)));
    assert_eq!(refused(tolerant.authenticate(&long_ago).await), "the token has expired");
    let far = key.token(&with(good.clone(), "nbf", json!(now() + 100_000)));
    assert_eq!(refused(tolerant.authenticate(&far).await), "the token is not valid yet");

    assert_eq!(strict.authenticate(&key.token(&without(good.clone(), "nbf"))).await, alice());
    for broken in [
        without(good.clone(), "exp"),
        with(good.clone(), "exp", json!(null)),
        with(good.clone(), "exp", json!("9999999999")),
        with(good.clone(), "exp", json!(-1)),
        with(good.clone(), "exp", json!(1e300)),
        with(good.clone(), "nbf", json!("0")),
        with(good.clone(), "nbf", json!([0])),
    ] {
        refused(strict.authenticate(&key.token(&broken)).await);
    }
}

#[tokio::test]
async fn a_token_must_name_the_issuer_and_this_service() {
    let key = SigningKey::es256("a");
    let issuer = Issuer::start(&[&key]).await;
    let settings = OidcSettings { audiences: vec!["kms".into(), "kms-eu".into()], ..settings(&issuer) };
    let verifier = OidcVerifier::new(settings).unwrap();
    let good = claims(&issuer);

    for audience in [json!("kms"), json!("kms-eu"), json!(["shop", "kms"])] {
        assert_eq!(verifier.authenticate(&key.token(&with(good.clone(), "aud", audience))).await, alice());
    }
    for audience in [json!("shop"), json!("KMS"), json!(["shop"])] {
        let token = key.token(&with(good.clone(), "aud", audience));
        assert_eq!(refused(verifier.authenticate(&token).await), "the token is meant for another service");
    }
    for audience in [json!([]), json!(null), json!(1), json!({"kms": true}), json!("")] {
        refused(verifier.authenticate(&key.token(&with(good.clone(), "aud", audience))).await);
    }
    refused(verifier.authenticate(&key.token(&without(good.clone(), "aud"))).await);

    let slash = json!(format!("{}/", issuer.url));
    for other in [json!("https://evil.example.com"), slash, json!(""), json!([issuer.url]), json!(null), json!(1)] {
        refused(verifier.authenticate(&key.token(&with(good.clone(), "iss", other))).await);
    }
    refused(verifier.authenticate(&key.token(&without(good, "iss"))).await);
}

#[tokio::test]
async fn tokens_without_a_signature_of_the_issuer_are_refused() {
    let key = SigningKey::rs256("a");
    let issuer = Issuer::start(&[&key]).await;
    let verifier = verifier(&issuer);
    let good = claims(&issuer);
    let body = base64url(good.to_string());

    for algorithm in ["none", "None", "NONE", "nOnE", "", "RS1", "HS256", "HS384", "HS512", "ES512", "RS256 "] {
        let header = base64url(json!({"alg": algorithm, "kid": "a"}).to_string());
        for signature in ["", "AA", &base64url(key.sign(format!("{header}.{body}").as_bytes()))] {
            refused(verifier.authenticate(&format!("{header}.{body}.{signature}")).await);
        }
    }

    // The attacker's key has the same id.
    let thief = SigningKey::rs256("a");
    assert_eq!(refused(verifier.authenticate(&thief.token(&good)).await), "the token's signature does not verify");

    // Keys in the token's header are ignored.
    for header in [
        json!({"alg": "RS256", "kid": "a", "jwk": thief.jwk()}),
        json!({"alg": "RS256", "jwk": thief.jwk()}),
        json!({"alg": "RS256", "kid": "a", "jku": format!("{}/keys", issuer.url)}),
    ] {
        refused(verifier.authenticate(&thief.token_with(&header, &good)).await);
    }

    // A valid token with altered parts.
    let token = key.token(&good);
    let parts: Vec<_> = token.split('.').collect();
    let admin = base64url(with(good.clone(), "sub", json!("root")).to_string());
    refused(verifier.authenticate(&format!("{}.{admin}.{}", parts[0], parts[2])).await);
    refused(verifier.authenticate(&format!("{}.{}.", parts[0], parts[1])).await);
    assert_eq!(verifier.authenticate(&token).await, alice());
}

#[tokio::test]
async fn the_public_key_is_not_accepted_as_an_hmac_secret() {
    let key = SigningKey::rs256("a");
    let issuer = Issuer::start(&[&key]).await;
    let verifier = verifier(&issuer);
    for algorithm in ["HS256", "RS256"] {
        let header = base64url(json!({"alg": algorithm, "kid": "a", "typ": "JWT"}).to_string());
        let message = format!("{header}.{}", base64url(claims(&issuer).to_string()));
        for secret in key.public_forms() {
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), message.as_bytes());
            refused(verifier.authenticate(&format!("{message}.{}", base64url(tag))).await);
        }
    }
}

#[tokio::test]
async fn a_symmetric_key_in_the_set_is_not_used() {
    let key = SigningKey::es256("a");
    let issuer = Issuer::start(&[]).await;
    let secret = [7; 32];
    issuer
        .publish_raw(json!({"keys": [key.jwk(), {"kty": "oct", "k": base64url(secret), "kid": "s", "alg": "HS256"}]}));
    let header = base64url(json!({"alg": "HS256", "kid": "s"}).to_string());
    let message = format!("{header}.{}", base64url(claims(&issuer).to_string()));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), message.as_bytes());
    let verifier = verifier(&issuer);
    refused(verifier.authenticate(&format!("{message}.{}", base64url(tag))).await);
    assert_eq!(verifier.authenticate(&key.token(&claims(&issuer))).await, alice());
}

#[tokio::test]
async fn the_algorithm_must_be_that_of_the_key() {
    let (rsa, ec, encryption) = (SigningKey::rs256("rsa"), SigningKey::es256("ec"), SigningKey::rs256("enc"));
    let issuer = Issuer::start(&[&rsa, &ec]).await;
    let mut for_encryption = encryption.bare_jwk();
    for_encryption["use"] = json!("enc");
    issuer.publish_raw(json!({"keys": [rsa.jwk(), ec.jwk(), for_encryption]}));
    let verifier = verifier(&issuer);
    let good = claims(&issuer);
    for header in [
        json!({"alg": "ES256", "kid": "rsa"}),
        json!({"alg": "PS256", "kid": "rsa"}),
        json!({"alg": "RS512", "kid": "rsa"}),
        json!({"alg": "EdDSA", "kid": "rsa"}),
    ] {
        refused(verifier.authenticate(&rsa.token_with(&header, &good)).await);
    }
    for header in [json!({"alg": "RS256", "kid": "ec"}), json!({"alg": "ES384", "kid": "ec"})] {
        refused(verifier.authenticate(&ec.token_with(&header, &good)).await);
    }
    refused(verifier.authenticate(&encryption.token(&good)).await);
    assert_eq!(verifier.authenticate(&rsa.token(&good)).await, alice());
}

#[tokio::test]
async fn a_key_without_an_id_is_used_if_it_is_the_only_one() {
    let (a, b, ec) = (SigningKey::rs256("a"), SigningKey::rs256("b"), SigningKey::es256("c"));
    let issuer = Issuer::start(&[&a, &ec]).await;
    let nameless = a.token_with(&json!({"alg": "RS256"}), &claims(&issuer));
    assert_eq!(verifier(&issuer).authenticate(&nameless).await, alice());
    issuer.publish(&[&a, &b]);
    refused(verifier(&issuer).authenticate(&nameless).await);
}

/// The encoded message (EMSA-PKCS1-v1_5, RFC 8017, section 9.2) of `message`, before the RSA operation.
fn padded(message: &str, length: usize) -> Vec<u8> {
    const SHA_256: [u8; 19] = [
        0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04,
        0x20,
    ];
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, message.as_bytes());
    let mut block = vec![0xff; length];
    block[..2].copy_from_slice(&[0, 1]);
    let tail = length - SHA_256.len() - digest.as_ref().len();
    block[tail - 1] = 0;
    block[tail..tail + SHA_256.len()].copy_from_slice(&SHA_256);
    block[tail + SHA_256.len()..].copy_from_slice(digest.as_ref());
    block
}

#[tokio::test]
async fn weak_rsa_keys_are_not_used() {
    // With the exponent 1, the encoded message itself is a valid signature, so such a key must not be used.
    let issuer = Issuer::start(&[]).await;
    for length in [128, 256] {
        let mut modulus = vec![0xc5; length];
        modulus[length - 1] |= 1;
        issuer.publish_raw(json!({"keys": [{"kty": "RSA", "n": base64url(modulus), "e": "AQ", "kid": "weak"}]}));
        let header = base64url(json!({"alg": "RS256", "kid": "weak"}).to_string());
        let message = format!("{header}.{}", base64url(claims(&issuer).to_string()));
        let token = format!("{message}.{}", base64url(padded(&message, length)));
        let reason = refused(verifier(&issuer).authenticate(&token).await);
        assert_eq!(reason, "the token's signature does not verify", "{length}");
    }
}

#[tokio::test]
async fn tokens_of_other_types_are_refused() {
    let key = SigningKey::es256("a");
    let issuer = Issuer::start(&[&key]).await;
    let verifier = verifier(&issuer);
    let good = claims(&issuer);
    for kind in [json!("JWT"), json!("jwt"), json!("at+jwt"), json!("application/at+jwt"), json!(null)] {
        let token = key.token_with(&json!({"alg": "ES256", "kid": "a", "typ": kind}), &good);
        assert_eq!(verifier.authenticate(&token).await, alice(), "{kind}");
    }
    for header in [
        json!({"alg": "ES256", "kid": "a", "typ": "logout+jwt"}),
        json!({"alg": "ES256", "kid": "a", "typ": "dpop+jwt"}),
        json!({"alg": "ES256", "kid": "a", "typ": ""}),
        json!({"alg": "ES256", "kid": "a", "crit": ["exp"], "exp": 1}),
        json!({"alg": "ES256", "kid": "a", "crit": ["b64"], "b64": false}),
        json!({"alg": "ES256", "kid": "a", "crit": []}),
        json!({"alg": "ES256", "kid": "a".repeat(257)}),
        json!({"alg": "ES256", "kid": 1}),
        json!({"alg": ["ES256"], "kid": "a"}),
        json!({"kid": "a"}),
        json!([]),
    ] {
        refused(verifier.authenticate(&key.token_with(&header, &good)).await);
    }
}

#[tokio::test]
async fn garbage_is_refused_without_asking_the_issuer() {
    let issuer = Issuer::start(&[&SigningKey::es256("a")]).await;
    let verifier = verifier(&issuer);
    let header = base64url(r#"{"alg":"ES256"}"#);
    let nested = base64url(format!("{{\"alg\":\"ES256\",\"x\":{}", "[".repeat(10_000)));
    let long = format!("{header}.{}.AA", "A".repeat(16 * 1024));
    for token in [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "Bearer",
        "\u{0}",
        "é.é.é",
        &header,
        &format!("{header}."),
        &format!("{header}=.e30.AA"),
        &format!("{nested}.e30.AA"),
        &long,
        &"a".repeat(1_000_000),
        // A JWE has five parts.
        &format!("{header}.a.b.c.d"),
    ] {
        refused(verifier.authenticate(token).await);
    }
    assert_eq!(issuer.key_requests(), 0);

    // Valid headers with invalid bodies.
    for body in ["", "e30", "bnVsbA", "W10", "!!", "AAAA"] {
        refused(verifier.authenticate(&format!("{header}.{body}.AA")).await);
    }
}

#[tokio::test]
async fn signed_bodies_that_are_not_claims_are_refused() {
    let key = SigningKey::es256("a");
    let issuer = Issuer::start(&[&key]).await;
    let verifier = verifier(&issuer);
    for body in [json!(null), json!([]), json!("text"), json!(1), json!({})] {
        refused(verifier.authenticate(&key.token(&body)).await);
    }
    // A claim that occurs twice makes the token invalid.
    let twice = format!(r#"{{"iss":"{0}","aud":"kms","sub":"a","exp":1,"exp":{1}}}"#, issuer.url, now() + 3600);
    let header = base64url(json!({"alg": "ES256", "kid": "a"}).to_string());
    let message = format!("{header}.{}", base64url(twice));
    let token = format!("{message}.{}", base64url(key.sign(message.as_bytes())));
    refused(verifier.authenticate(&token).await);
}

#[tokio::test]
async fn the_principal_is_exactly_the_configured_claim() {
    let key = SigningKey::es256("a");
    let issuer = Issuer::start(&[&key]).await;
    let good = claims(&issuer);
    let by = |claim: &str, prefix: &str| {
        let (principal_claim, principal_prefix) = (claim.to_owned(), prefix.to_owned());
        OidcVerifier::new(OidcSettings { principal_claim, principal_prefix, ..settings(&issuer) }).unwrap()
    };
    let name = |verifier: OidcVerifier, claims: Value| {
        let token = key.token(&claims);
        async move { verifier.authenticate(&token).await.map(|(principal, _)| principal) }
    };
    let user = with(good.clone(), "user", json!({"name": "Bob"}));
    assert_eq!(name(by("/user/name", ""), user.clone()).await.unwrap(), "Bob");
    assert_eq!(name(by("sub", "OIDC:"), good.clone()).await.unwrap(), "OIDC:Alice");
    assert!(name(by("user", ""), user).await.is_err());
    assert!(name(by("nothing", ""), good.clone()).await.is_err());

    let mail = with(good.clone(), "email", json!("Alice@Example.com"));
    assert!(name(by("email", ""), mail.clone()).await.is_err());
    for unproven in [json!(false), json!("true"), json!(1), json!(null)] {
        assert!(name(by("email", ""), with(mail.clone(), "email_verified", unproven)).await.is_err());
    }
    let proven = with(mail, "email_verified", json!(true));
    assert_eq!(name(by("email", ""), proven).await.unwrap(), "Alice@Example.com");

    for reserved in ["system", "Scheduler", "ANONYMOUS", "", " ", "a\u{0}", "a\u{200b}", "*"] {
        assert!(name(by("sub", ""), with(good.clone(), "sub", json!(reserved))).await.is_err(), "{reserved:?}");
    }
    for no_text in [json!(1), json!(["alice"]), json!(null), json!({})] {
        assert!(name(by("sub", ""), with(good.clone(), "sub", no_text)).await.is_err());
    }
}

#[tokio::test]
async fn roles_come_from_the_configured_claim_only() {
    let key = SigningKey::es256("a");
    let issuer = Issuer::start(&[&key]).await;
    let by = |claim: &str| {
        let settings = OidcSettings {
            role_claim: Some(claim.to_owned()),
            admin_values: vec!["kms-admin".into()],
            auditor_values: vec!["kms-audit".into()],
            ..settings(&issuer)
        };
        OidcVerifier::new(settings).unwrap()
    };
    let cases = [
        ("groups", "groups", json!(["x", "kms-audit", "kms-admin"]), Role::Admin),
        ("groups", "groups", json!(["kms-audit"]), Role::Auditor),
        ("groups", "groups", json!("kms-admin"), Role::Admin),
        ("groups", "groups", json!("x kms-admin"), Role::App),
        ("groups", "groups", json!(["KMS-ADMIN", "kms-admin "]), Role::App),
        ("groups", "groups", json!([["kms-admin"], {"kms-admin": 1}, 1, null]), Role::App),
        ("groups", "groups", json!({"kms-admin": true}), Role::App),
        ("groups", "roles", json!(["kms-admin"]), Role::App),
        ("scope", "scope", json!("openid kms-audit"), Role::Auditor),
        ("scope", "scope", json!("openid kms-administrator"), Role::App),
        ("/realm_access/roles", "realm_access", json!({"roles": ["kms-admin"]}), Role::Admin),
        ("/realm_access/roles", "/realm_access/roles", json!(["kms-admin"]), Role::App),
    ];
    for (configured, claim, value, expected) in cases {
        let token = key.token(&with(claims(&issuer), claim, value.clone()));
        let (_, role) = by(configured).authenticate(&token).await.unwrap();
        assert_eq!(role, expected, "{configured} with {claim} = {value}");
    }
    // Without a configured claim, every caller has the role `app`.
    let token = key.token(&with(claims(&issuer), "role", json!("admin")));
    assert_eq!(verifier(&issuer).authenticate(&token).await, alice());
}
