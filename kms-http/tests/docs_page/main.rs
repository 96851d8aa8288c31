//! Tests of `/docs` in a browser: light and dark, on large and small screens, and without external resources.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may fail by a panic, and says what it skips")]

#[path = "../common/mod.rs"]
mod common;
mod driver;

use common::{Client, Server};
use driver::{Browser, Form};
use serde_json::{Value, json};

/// Opens an operation, clicks Execute, and returns the status and the body that the page shows.
async fn execute(browser: &Browser, operation: &str) -> (String, String) {
    let within = |css: &str| format!("#operations-{operation} {css}");
    browser.press(&within(".opblock-summary-control")).await;
    browser.press(&within(".btn.execute")).await;
    let status = browser.text(&within(".live-responses-table tbody .response-col_status")).await;
    let body = browser.text(&within(".live-responses-table tbody .response-col_description")).await;
    let script = format!("document.querySelector('{}').scrollIntoView()", within(".live-responses-table"));
    browser.script(&script).await;
    browser.picture(operation).await;
    // Otherwise the next call would read this response before its own arrives.
    browser.press(&within(".btn-clear")).await;
    browser.press(&within(".opblock-summary-control")).await;
    (status.lines().next().unwrap().to_owned(), body)
}

/// Fills in the page's dialog for credentials: one value for each security scheme.
async fn authorize(browser: &Browser, values: &[&str]) {
    browser.press(".auth-wrapper .authorize").await;
    for (n, value) in values.iter().enumerate() {
        let form = format!(".auth-container:nth-of-type({})", n + 1);
        browser.enter(&format!("{form} input"), value).await;
        browser.picture("authorize").await;
        browser.press(&format!("{form} .modal-btn.authorize")).await;
    }
    browser.press(".auth-container .btn-done").await;
}

/// Clicks Execute on the operations that a newcomer tries first, with the examples that the page proposes.
async fn first_steps(browser: &Browser) {
    let (status, body) = execute(browser, "Keys-createKey").await;
    assert_eq!(status, "201", "{body}");
    let (status, body) = execute(browser, "Keys-listKeys").await;
    assert!(status == "200" && body.contains("\"name\": \"users\""), "{status}: {body}");
    let (status, body) = execute(browser, "Cryptography-encrypt").await;
    assert!(status == "200" && body.contains("\"ciphertext\": "), "{status}: {body}");
}

/// Asserts that the page fits the screen and that the console has no messages.
async fn assert_sound(browser: &Browser, form: Form) {
    let width = browser.script("return document.documentElement.scrollWidth - window.innerWidth").await;
    assert!(width.as_i64().unwrap() <= 0, "{form:?}: the page is {width} pixels wider than the screen");
    assert_eq!(browser.console().await, [""; 0], "{form:?}");
}

#[tokio::test]
async fn operations_are_executed_with_a_token() {
    for form in Form::ALL {
        let Some(browser) = Browser::start(form).await else { return };
        let server = Server::start_on_file(&[]);
        browser.open(&format!("{}/docs", server.url)).await;
        let shown = browser.text(".swagger-ui .info .title").await;
        assert!(shown.starts_with("Mini KMS"), "{shown}");
        browser.picture("page").await;
        let contract = server.client_with(None).get("/openapi.json").await.expect(200);
        let operations: usize =
            contract["paths"].as_object().unwrap().values().map(|path| path.as_object().unwrap().len()).sum();
        let blocks = browser.script("return document.querySelectorAll('.opblock-summary-path').length").await;
        assert_eq!(blocks, json!(operations));
        let is_dark = browser.script("return document.documentElement.classList.contains('dark-mode')").await;
        assert_eq!(is_dark, json!(form.dark));
        assert_sound(&browser, form).await;
        // Clicking takes seconds, so half of the forms suffice, unless screenshots of all are wanted.
        if form.dark != form.phone && std::env::var_os("KMS_TEST_SCREENSHOTS").is_none() {
            continue;
        }
        // Without a token, the page shows the error.
        let (status, body) = execute(&browser, "Keys-listKeys").await;
        assert!(status == "401" && body.contains("NotAuthenticated"), "{status}: {body}");
        authorize(&browser, &[&server.admin]).await;
        first_steps(&browser).await;
        assert_sound(&browser, form).await;
    }
}

#[tokio::test]
async fn operations_are_executed_with_trusted_headers() {
    for form in [Form::ALL[0], Form::ALL[3]] {
        let Some(browser) = Browser::start(form).await else { return };
        let server = Server::start_on_file(&[("KMS_HTTP_AUTH", "trusted_headers")]);
        browser.open(&format!("{}/docs", server.url)).await;
        authorize(&browser, &["alice", "admin"]).await;
        first_steps(&browser).await;
        assert_sound(&browser, form).await;
    }
}

/// Calls every operation with a body, with the example in the contract.
#[tokio::test]
async fn the_examples_of_the_contract_are_accepted() {
    let server = Server::start_on_file(&[]);
    let admin = server.client();
    admin.rsa_key("contracts", "SIGNING").await;
    let contract = admin.get("/openapi.json").await.expect(200);
    let example =
        |path: &str| contract["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"].clone();
    admin.post("/v1/keys", example("/v1/keys")).await.expect(201);
    admin.post("/v1/crypto/encrypt", example("/v1/crypto/encrypt")).await.expect(200);
    let tags: Vec<&Value> = contract["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    let mut bodies = 0;
    for (path, operations) in contract["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            assert!(tags.contains(&&operation["tags"][0]), "{method} {path} has no tag");
            let Some(body) = operation.get("requestBody") else { continue };
            let example = &body["content"]["application/json"]["example"];
            assert!(example.is_object(), "{method} {path} has no example");
            bodies += 1;
            assert_accepted(&admin, method, path, example).await;
        }
    }
    assert!(bodies > 20, "{bodies}");
}

async fn assert_accepted(admin: &Client, method: &str, path: &str, example: &Value) {
    let path = path.replace("{key}", "users").replace("{version}", "1");
    let request = admin.request(method.to_uppercase().parse().unwrap(), &path).json(example);
    let answer = Client::send(request).await;
    // The ciphertext in the examples is from another store. A conflict with the store's state shows that the request
    // was valid.
    let is_understood = answer.status.is_success()
        || answer.status == 409
        || ["InvalidCiphertext", "KeyNotFound"].map(Value::from).contains(&answer.json()["code"]);
    assert!(is_understood, "{method} {path} {example}: {}", answer.text);
}

/// The page asks only for credentials of the authentication methods that are enabled.
#[tokio::test]
async fn the_contract_names_the_enabled_security_schemes() {
    let server = Server::start_on_file(&[]);
    let contract = server.client_with(None).get("/openapi.json").await.expect(200);
    assert_eq!(contract["components"]["securitySchemes"].as_object().unwrap().keys().collect::<Vec<_>>(), ["bearer"]);
    let server = Server::start_on_file(&[
        ("KMS_HTTP_AUTH", "token,trusted_headers"),
        ("KMS_HTTP_TOKEN_PREFIX", "t:"),
        ("KMS_HTTP_TRUSTED_HEADERS_PREFIX", "h:"),
    ]);
    let contract = server.client_with(None).get("/openapi.json").await.expect(200);
    let schemes = &contract["components"]["securitySchemes"];
    assert_eq!(schemes["principal"]["name"], "x-principal");
    assert_eq!(contract["security"], json!([{"bearer": []}, {"principal": [], "role": []}]));
}

#[tokio::test]
async fn the_page_has_its_own_content_security_policy() {
    let server = Server::start_on_file(&[]);
    let nobody = server.client_with(None);
    for (path, kind) in [
        ("/docs", "text/html"),
        ("/docs/swagger-ui.css", "text/css"),
        ("/docs/swagger-ui.js", "text/javascript"),
        ("/docs/start.js", "text/javascript"),
    ] {
        let file = nobody.get(path).await;
        assert_eq!(file.status, 200, "{path}");
        assert!(file.headers["content-type"].to_str().unwrap().starts_with(kind), "{path}");
        let policy = file.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self';"), "{policy}");
    }
}
