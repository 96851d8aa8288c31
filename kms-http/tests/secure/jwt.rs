use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::common::{Answer, Server};
use kms_test_support::issuer::{Issuer, SigningKey, base64url};

/// Claims that are valid for an hour.
fn claims(issuer: &Issuer, subject: &str, role: &str) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let (audience, end) = ("kms", now + 3600);
    json!({"iss": issuer.url, "aud": audience, "sub": subject, "groups": [role], "iat": now, "nbf": now, "exp": end})
}

/// Starts a service that trusts this issuer.
fn serve(issuer: &Issuer) -> Server {
    serve_with(issuer, &[])
}

fn serve_with(issuer: &Issuer, more: &[(&str, &str)]) -> Server {
    let settings = [
        ("KMS_HTTP_AUTH", "token,oidc"),
        ("KMS_HTTP_TOKEN_PREFIX", "token:"),
        ("KMS_HTTP_OIDC_ISSUER", &issuer.url),
        ("KMS_HTTP_OIDC_AUDIENCES", "kms"),
        ("KMS_HTTP_OIDC_PRINCIPAL_PREFIX", "sso:"),
        ("KMS_HTTP_OIDC_ROLE_CLAIM", "groups"),
        ("KMS_HTTP_OIDC_ADMIN_VALUES", "kms-admins"),
        ("KMS_HTTP_OIDC_RETRY_SECONDS", "0"),
    ];
    Server::start(&[&settings, more].concat())
}

async fn list(server: &Server, token: &str) -> Answer {
    server.client_with(Some(token)).get("/v1/keys").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jwt_authenticates_its_subject() {
    let key = SigningKey::rs256("a");
    let issuer = Issuer::start(&[&key]).await;
    let server = serve(&issuer);
    let admin = server.client_with(Some(&key.token(&claims(&issuer, "Alice", "kms-admins"))));
    assert_eq!(admin.aes_key("users").await["metadata"]["owner"], "sso:Alice");
    let app = server.client_with(Some(&key.token(&claims(&issuer, "shop", "others"))));
    app.get("/v1/keys/users").await.refused(403, "AccessDenied");
    let grant = json!({"principal": "sso:shop", "role": "app", "keyId": "users", "allowedOps": ["read"]});
    admin.post("/v1/grants", grant).await.expect(201);
    app.get("/v1/keys/users").await.expect(200);
    // Tokens of the service stay valid.
    server.client().get("/v1/keys/users").await.expect(200);
    let records = admin.get("/v1/audit?action=KEY_CREATE&limit=1").await.expect(200);
    assert_eq!(records[0]["actor"], "sso:Alice");
}

/// Subjects of an issuer that differ in case are distinct principals. Principals of tokens are folded to lower case.
#[tokio::test(flavor = "multi_thread")]
async fn the_prefix_of_a_named_principal_decides_whether_it_is_folded() {
    let key = SigningKey::rs256("a");
    let issuer = Issuer::start(&[&key]).await;
    let server = serve(&issuer);
    let admin = server.client();
    admin.aes_key("users").await;
    let subject = |name: &str| server.client_with(Some(&key.token(&claims(&issuer, name, "others"))));
    let (main, other) = (subject("refs/heads/MAIN"), subject("refs/heads/main"));
    let grant = |to: &str| json!({"principal": to, "role": "app", "keyId": "users", "allowedOps": ["read", "grant"]});
    // An admin with a token names a subject of the issuer.
    let made = admin.post("/v1/grants", grant("sso:refs/heads/MAIN")).await.expect(201);
    assert_eq!(made["principal"], "sso:refs/heads/MAIN");
    main.get("/v1/keys/users").await.expect(200);
    other.get("/v1/keys/users").await.refused(403, "AccessDenied");
    let shop = admin.token_for("Shop", "app").await;
    // A subject of the issuer names a principal with a token.
    assert_eq!(main.post("/v1/grants", grant("TOKEN:Shop")).await.expect(201)["principal"], "token:shop");
    shop.get("/v1/keys/users").await.expect(200);
    for (named, found) in [("Token:SHOP", 1), ("sso:refs/heads/MAIN", 1), ("sso:refs/heads/main", 0)] {
        let grants = admin.get(&format!("/v1/grants?principal={named}")).await.expect(200);
        assert_eq!(grants.as_array().unwrap().len(), found, "{named}");
    }
    for (named, is_found) in [("Token:SHOP", true), ("sso:refs/heads/main", true), ("sso:refs/heads/Main", false)] {
        shop.get("/v1/keys/nothing").await.refused(403, "AccessDenied");
        let records = admin.get(&format!("/v1/audit?actor={named}")).await.expect(200);
        assert_eq!(!records.as_array().unwrap().is_empty(), is_found, "{named}");
    }
    // A token cannot belong to a subject of the issuer.
    let stolen = json!({"principal": "sso:refs/heads/MAIN", "role": "app"});
    let made = admin.post("/v1/tokens", stolen).await.expect(201);
    assert_eq!(made["credential"]["principal"], "token:sso:refs/heads/main");
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_jwts_are_refused_without_a_reason() {
    let key = SigningKey::rs256("a");
    let issuer = Issuer::start(&[&key]).await;
    let server = serve(&issuer);
    let good = claims(&issuer, "alice", "kms-admins");
    list(&server, &key.token(&good)).await.expect(200);
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        key.token(&claims)
    };
    let body = base64url(good.to_string());
    let unsigned = base64url(json!({"alg": "none", "kid": "a"}).to_string());
    let mut bad = vec![
        ("expired", with("exp", json!(1_600_000_000))),
        ("not yet", with("nbf", json!(9_000_000_000_u64))),
        ("for another", with("aud", json!("other"))),
        ("of another issuer", with("iss", json!("https://issuer.example"))),
        ("of nobody", with("sub", json!(""))),
        ("another's key of the same name", SigningKey::rs256("a").token(&good)),
        ("a key that the issuer has not", SigningKey::rs256("b").token(&good)),
        ("none", format!("{unsigned}.{body}.")),
        ("no JWT", "a.b.c".to_owned()),
    ];
    let header = base64url(json!({"alg": "HS256", "kid": "a"}).to_string());
    for secret in key.public_forms() {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), format!("{header}.{body}").as_bytes());
        bad.push(("the public key as a secret", format!("{header}.{body}.{}", base64url(tag))));
    }
    let mut reasons = Vec::new();
    for (what, token) in &bad {
        let answer = list(&server, token).await;
        assert_eq!(answer.status, 401, "{what}");
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        reasons.push(answer.refused(401, "NotAuthenticated"));
    }
    reasons.dedup();
    assert_eq!(reasons.len(), 1, "{reasons:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate_and_an_unreachable_issuer_is_no_fault_of_the_caller() {
    let (old, new) = (SigningKey::es256("old"), SigningKey::es256("new"));
    let mut issuer = Issuer::start(&[&old]).await;
    let server = serve(&issuer);
    let claims = claims(&issuer, "alice", "kms-admins");
    list(&server, &old.token(&claims)).await.expect(200);
    issuer.publish(&[&old, &new]);
    list(&server, &new.token(&claims)).await.expect(200);

    issuer.stop().await;
    let fresh = serve(&issuer);
    let away = list(&fresh, &new.token(&claims)).await;
    away.refused(503, "IssuerUnavailable");
    assert!(away.headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap() >= 1);
    // Tokens of the service, and JWTs under known keys, need no issuer.
    fresh.client().get("/v1/keys").await.expect(200);
    list(&server, &new.token(&claims)).await.expect(200);
    issuer.start_again().await;
    list(&fresh, &new.token(&claims)).await.expect(200);
}

/// The issuer can only be reached through the proxy in the environment variables.
#[tokio::test(flavor = "multi_thread")]
async fn proxy_variables_are_used() {
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::rs256("a");
    let issuer = Issuer::start_https("issuer.example", folder.path(), &[&key]).await;
    let address = issuer.address;
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let through = proxy.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut caller, _) = proxy.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(caller.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                assert!(head.starts_with(&format!("CONNECT issuer.example:{} ", address.port())), "{head}");
                caller.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let mut issuer = TcpStream::connect(address).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut caller, &mut issuer).await;
            });
        }
    });
    let server = Server::start(&[
        ("HTTPS_PROXY", &format!("http://{through}")),
        ("KMS_HTTP_AUTH", "token,oidc"),
        ("KMS_HTTP_TOKEN_PREFIX", "token:"),
        ("KMS_HTTP_OIDC_ISSUER", &issuer.url),
        ("KMS_HTTP_OIDC_AUDIENCES", "kms"),
        ("KMS_HTTP_OIDC_CA_FILE", folder.path().join("server.pem").to_str().unwrap()),
        ("KMS_HTTP_OIDC_PRINCIPAL_PREFIX", "sso:"),
    ]);
    list(&server, &key.token(&claims(&issuer, "alice", "others"))).await.expect(200);
}

/// Callers behind one address share its limits. Credentials that are cheap to reject do not count against the limit for
/// new JWTs.
#[tokio::test(flavor = "multi_thread")]
async fn cheap_bad_credentials_do_not_keep_out_a_new_jwt() {
    let key = SigningKey::rs256("a");
    let issuer = Issuer::start(&[&key]).await;
    let server = serve_with(&issuer, &[("KMS_HTTP_AUTH_FAILURES_PER_SECOND", "1")]);
    let tried = (0..200).map(|n| {
        let token = if n % 2 == 0 { format!("kms_{n}") } else { format!("a.b.{n}") };
        let client = server.client_with(Some(&token));
        async move { client.get("/v1/keys").await.status.as_u16() }
    });
    let tried = futures_util::future::join_all(tried).await;
    assert!(tried.iter().all(|status| [401, 429].contains(status)) && tried.contains(&429), "{tried:?}");
    // More new JWTs than the limit for forged ones.
    for n in 0..20 {
        list(&server, &key.token(&claims(&issuer, &format!("caller-{n}"), "others"))).await.expect(200);
    }
}

/// Beyond an address's limit, forged tokens are refused with 429. Good ones from there are served, new ones too.
#[tokio::test(flavor = "multi_thread")]
async fn forged_tokens_are_limited_and_known_tokens_still_accepted() {
    let (key, forger) = (SigningKey::rs256("a"), SigningKey::rs256("a"));
    let issuer = Issuer::start(&[&key]).await;
    let server = serve_with(&issuer, &[("KMS_HTTP_AUTH_FAILURES_PER_SECOND", "1")]);
    let good = key.token(&claims(&issuer, "alice", "others"));
    list(&server, &good).await.expect(200);
    let mut refused = 0;
    for n in 0..20 {
        let answer = list(&server, &forger.token(&claims(&issuer, &format!("forged-{n}"), "others"))).await;
        if answer.status == 429 {
            answer.refused(429, "RateLimited");
            refused += 1;
        } else {
            answer.refused(401, "NotAuthenticated");
        }
    }
    assert!(refused >= 5, "{refused}");
    list(&server, &good).await.expect(200);
    // New ones, while the forger goes on.
    let forged = forger.token(&claims(&issuer, "forged", "others"));
    let client = server.client_with(Some(&forged));
    let forging = tokio::spawn(async move {
        loop {
            client.get("/v1/keys").await;
        }
    });
    for n in 0..20 {
        list(&server, &key.token(&claims(&issuer, &format!("caller-{n}"), "others"))).await.expect(200);
    }
    forging.abort();
}
