//! Drives the distribution's Chromium with chromedriver (W3C WebDriver), on the screen of a desktop or of a phone.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The name of the member that contains an element's id (W3C WebDriver).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A color scheme and a screen.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// Whether the browser reports that the user prefers a dark color scheme.
    pub dark: bool,
    /// Whether the browser emulates the screen of a phone, 390 by 844 pixels.
    pub phone: bool,
}

impl Form {
    /// All combinations of color scheme and width.
    pub const ALL: [Self; 4] = [
        Self { dark: false, phone: false },
        Self { dark: true, phone: false },
        Self { dark: false, phone: true },
        Self { dark: true, phone: true },
    ];
}

/// A browser with one page. Killed when dropped.
pub struct Browser {
    driver: Child,
    http: reqwest::Client,
    session: String,
    form: Form,
    _profile: TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser is in the driver's process group, so it is killed too.
        let group = format!("-{}", self.driver.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.driver.wait();
    }
}

impl Browser {
    /// Starts a browser that can only connect to this machine, or returns None if chromedriver is not installed.
    pub async fn start(form: Form) -> Option<Self> {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").process_group(0).stdout(Stdio::piped()).stderr(Stdio::null());
        let Ok(mut driver) = command.spawn() else {
            eprintln!("SKIPPED: chromedriver is not installed (tests/run installs it)");
            return None;
        };
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port =
            lines.find_map(|line| line.unwrap().rsplit_once("successfully on port ").map(|(_, port)| port.to_owned()));
        let base = format!("http://127.0.0.1:{}", port.unwrap().trim_end_matches('.'));
        let profile = TempDir::new().unwrap();
        let mut options = json!({"args": [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900",
            "--proxy-server=127.0.0.1:9", "--proxy-bypass-list=127.0.0.1",
            format!("--user-data-dir={}", profile.path().display()),
            format!("--blink-settings=preferredColorScheme={}", if form.dark { 0 } else { 1 }),
        ]});
        if form.phone {
            let metrics = json!({"width": 390, "height": 844, "pixelRatio": 2.0, "touch": true});
            options["mobileEmulation"] = json!({"deviceMetrics": metrics});
        }
        let wanted = json!({"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}});
        let mut browser = Self { driver, http: reqwest::Client::new(), session: base.clone(), form, _profile: profile };
        let body = json!({"capabilities": {"alwaysMatch": wanted}});
        let made = browser.call(Method::POST, "/session", body).await;
        browser.session = format!("{base}/session/{}", made["sessionId"].as_str().unwrap());
        Some(browser)
    }

    async fn try_call(&self, method: Method, path: &str, body: Value) -> Result<Value, Value> {
        let request = self.http.request(method.clone(), format!("{}{path}", self.session));
        let request = if method == Method::POST { request.json(&body) } else { request };
        let response = request.send().await.unwrap();
        let is_good = response.status().is_success();
        let value = response.json::<Value>().await.unwrap()["value"].take();
        if is_good { Ok(value) } else { Err(value) }
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> Value {
        self.try_call(method, path, body).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Opens the page at this URL.
    pub async fn open(&self, url: &str) {
        self.call(Method::POST, "/url", json!({"url": url})).await;
    }

    /// Runs a script in the page and returns its result.
    pub async fn script(&self, script: &str) -> Value {
        self.call(Method::POST, "/execute/sync", json!({"script": script, "args": []})).await
    }

    /// Repeats an action on an element until it succeeds, because the page may still be changing.
    async fn with(&self, css: &str, what: &str, body: Value) -> Value {
        let mut failed = Value::Null;
        for _ in 0..300 {
            match self.try_call(Method::POST, "/element", json!({"using": "css selector", "value": css})).await {
                Ok(element) => {
                    let path = format!("/element/{}/{what}", element[ELEMENT].as_str().unwrap());
                    let method = if what == "text" { Method::GET } else { Method::POST };
                    match self.try_call(method, &path, body.clone()).await {
                        Ok(value) => return value,
                        Err(error) => failed = error,
                    }
                }
                Err(error) => failed = error,
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{css}: {what}: {failed}");
    }

    /// Clicks an element. It must be visible and not covered.
    pub async fn press(&self, css: &str) {
        self.with(css, "click", json!({})).await;
    }

    /// Types into an element.
    pub async fn enter(&self, css: &str, text: &str) {
        self.with(css, "value", json!({"text": text})).await;
    }

    /// Waits for an element and returns its text.
    pub async fn text(&self, css: &str) -> String {
        self.with(css, "text", Value::Null).await.as_str().unwrap().to_owned()
    }

    /// Saves a screenshot for review, if `KMS_TEST_SCREENSHOTS` names a folder.
    pub async fn picture(&self, name: &str) {
        let Some(folder) = std::env::var_os("KMS_TEST_SCREENSHOTS") else { return };
        let picture = self.call(Method::GET, "/screenshot", Value::Null).await;
        let bytes = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, picture.as_str().unwrap()).unwrap();
        let Form { dark, phone } = self.form;
        let form = format!("{}-{}", if phone { "phone" } else { "desk" }, if dark { "dark" } else { "light" });
        std::fs::write(std::path::Path::new(&folder).join(format!("docs-{name}-{form}.png")), bytes).unwrap();
    }

    /// The messages on the browser's console, without those about responses with an error status.
    pub async fn console(&self) -> Vec<String> {
        let entries = self.call(Method::POST, "/se/log", json!({"type": "browser"})).await;
        let messages = entries.as_array().unwrap().iter().map(|entry| entry["message"].as_str().unwrap().to_owned());
        messages.filter(|message| !message.contains("the server responded with a status of")).collect()
    }
}
