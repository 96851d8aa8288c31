//! Runs tests with the real AWS SDK against a private server. The SDK reads its settings from the environment of its
//! process, so each test runs in its own process.

use std::process::Command;
use std::sync::{Mutex, OnceLock};

use crate::{AwsProxy, KnownKey, Moto, MotoAdmin};

/// The access key id that tests use. No AWS account has it.
pub const ACCESS_KEY: &str = "AKIAMINIKMSTESTS0000";
/// The secret access key that tests use. No output may contain it.
pub const SECRET_KEY: &str = "a secret access key of the tests, which nobody has";
/// The variable that gives the process of a test the port of the server.
const PORT: &str = "KMS_TEST_MOTO_PORT";

/// The server of a test, which implements AWS KMS, and a proxy in front of it.
pub struct Aws {
    /// A direct connection to the server, without the proxy.
    pub admin: MotoAdmin,
    /// The proxy between the SDK and the server. It counts calls and causes faults.
    pub proxy: AwsProxy,
}

/// The full name of the current test.
#[macro_export]
macro_rules! test_name {
    () => {{
        fn here() {}
        $crate::aws::name_of(std::any::type_name_of_val(&here))
    }};
}

/// The name of a test for the test harness, from the type name of a function in it.
pub fn name_of(inner: &'static str) -> &'static str {
    let outer = inner.strip_suffix("::here").unwrap_or(inner);
    outer.split_once("::").map_or(outer, |(_, name)| name)
}

/// The environment of tests: test credentials, no configuration files, no metadata service.
pub fn environment() -> Vec<(&'static str, String)> {
    vec![
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY.into()),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.into()),
        ("AWS_EC2_METADATA_DISABLED", "true".into()),
        ("AWS_CONFIG_FILE", "/nonexistent/config".into()),
        ("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent/credentials".into()),
    ]
}

/// Gives a command the environment of tests, without other AWS variables. An empty value unsets a variable.
pub fn set_environment(command: &mut Command, variables: &[(&str, String)]) {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("AWS_") || name.to_ascii_lowercase().ends_with("_proxy") {
            command.env_remove(&*name);
        }
    }
    let defaults = environment();
    for (name, value) in defaults.iter().chain(variables.iter()) {
        match value.as_str() {
            "" => command.env_remove(name),
            value => command.env(name, value),
        };
    }
}

/// The prefix of a line with a figure.
const FIGURE: &str = "FIGURE: ";

/// Prints a figure that a test measured, even if the test succeeds and its other output is not shown.
pub fn figure(text: &str) {
    eprintln!("{FIGURE}{text}");
}

/// Runs the body of a test in its own process, with the environment of tests and these variables. An empty value unsets
/// a variable, and `{moto}` in a value is replaced by the server's URL. The test is skipped if moto is not installed.
pub fn run(test: &str, variables: &[(&str, String)], body: impl FnOnce(Aws)) {
    run_on(test, variables, Moto::try_new, body);
}

/// Like [`run`], with a server that has these keys. All tests of a process must name the same keys.
pub fn run_with_keys(test: &str, keys: &[KnownKey], body: impl FnOnce(Aws)) {
    run_on(test, &[], || Moto::try_with_keys(keys), body);
}

fn run_on(test: &str, variables: &[(&str, String)], start: impl FnOnce() -> Option<Moto>, body: impl FnOnce(Aws)) {
    if let Some(port) = std::env::var(PORT).ok().and_then(|port| port.parse().ok()) {
        return body(Aws { admin: MotoAdmin(port), proxy: AwsProxy::new(port) });
    }
    // All tests of this process share the server.
    static SERVER: OnceLock<Mutex<Option<Moto>>> = OnceLock::new();
    let server = SERVER.get_or_init(|| Mutex::new(start()));
    let Some(port) = server.lock().expect("the server").as_ref().map(Moto::port) else {
        eprintln!("SKIPPED: moto is not installed (tests/run installs it)");
        return;
    };
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    let url = format!("http://127.0.0.1:{port}");
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.replace("{moto}", &url))).collect();
    set_environment(&mut command, &variables);
    let output = command.env(PORT, port.to_string()).output().expect("the test in its own process");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    text.lines().filter(|line| line.starts_with(FIGURE)).for_each(|line| eprintln!("{line}"));
    assert!(output.status.success() && text.contains("1 passed"), "{test}: {}\n{text}", output.status);
}
