//! `/docs` in a browser: light and dark, on a desk and on a phone, with nothing from elsewhere.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may fail by a panic, and says what it skips")]

mod common;

use std::process::Command;

use common::Server;
use tempfile::TempDir;

/// The distribution's Chromium, if it is there.
fn browser() -> Option<&'static str> {
    let is_there = |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|run| run.status.success());
    let found = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(is_there);
    if found.is_none() {
        eprintln!("SKIPPED: there is no Chromium (tests/run installs it)");
    }
    found
}

/// What a browser makes of a page: the document after its scripts, and what the console says.
fn look(browser: &str, url: &str, dark: bool, width: u32) -> (String, String) {
    let profile = TempDir::new().unwrap();
    let mut command = Command::new(browser);
    command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]);
    // Nothing but this service can be reached.
    command.args(["--proxy-server=127.0.0.1:9", "--proxy-bypass-list=127.0.0.1", "--virtual-time-budget=20000"]);
    command.arg(format!("--user-data-dir={}", profile.path().display()));
    command.arg(format!("--window-size={width},900"));
    command.arg(format!("--blink-settings=preferredColorScheme={}", if dark { 0 } else { 1 }));
    if let Some(folder) = std::env::var_os("KMS_TEST_SCREENSHOTS") {
        // For people, who look at them.
        let name = format!("docs-{}-{width}.png", if dark { "dark" } else { "light" });
        let path = std::path::Path::new(&folder).join(name);
        let mut again = Command::new(browser);
        again.args(command.get_args().filter(|argument| *argument != "--dump-dom"));
        let shot = again.arg(format!("--screenshot={}", path.display())).arg(url).output().unwrap();
        assert!(shot.status.success(), "{shot:?}");
    }
    let run = command.arg(url).output().unwrap();
    assert!(run.status.success(), "{run:?}");
    (String::from_utf8(run.stdout).unwrap(), String::from_utf8_lossy(&run.stderr).into_owned())
}

#[tokio::test]
async fn the_page_shows_the_contract_in_light_and_dark() {
    let Some(browser) = browser() else { return };
    let server = Server::start_on_file(&[]);
    let contract = server.client_with(None).get("/openapi.json").await.expect(200);
    let operations: usize =
        contract["paths"].as_object().unwrap().values().map(|path| path.as_object().unwrap().len()).sum();
    let url = format!("{}/docs", server.url);
    for (dark, width) in [(false, 1280), (true, 1280), (false, 390), (true, 390)] {
        let (document, said) = look(browser, &url, dark, width);
        assert_eq!(document.matches("class=\"opblock-summary-path\"").count(), operations, "{document}");
        assert_eq!(document.contains("<html lang=\"en\" class=\"dark-mode\""), dark, "{}", &document[..300]);
        assert!(document.contains("Authorize"), "{document}");
        for trouble in ["Content Security Policy", "Refused to", "Uncaught", "ERR_"] {
            let lines: Vec<&str> =
                said.lines().filter(|line| line.contains("CONSOLE") && line.contains(trouble)).collect();
            assert!(lines.is_empty(), "{lines:?}");
        }
    }
}

/// The schemes are those that are on, so that the page asks for what callers have.
#[tokio::test]
async fn the_contract_names_the_schemes_that_are_on() {
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
    assert_eq!(contract["security"], serde_json::json!([{"bearer": []}, {"principal": [], "role": []}]));
}

#[tokio::test]
async fn the_page_is_served_with_a_policy_of_its_own() {
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
