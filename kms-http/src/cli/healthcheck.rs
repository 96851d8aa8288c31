//! `kms-http healthcheck`: asks the service that runs with these settings, for containers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::exit::Failure;
use super::output;
use super::store::run as run_async;
use crate::settings::{Http, Settings};

/// How long the service may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ask the running service how it is.
#[derive(Args)]
pub struct Healthcheck {
    /// Ask whether the service is ready for requests, not only whether it is alive
    #[arg(long)]
    ready: bool,
}

/// Asks through the Unix socket, if there is one, else through the address that the service listens on.
pub fn run(wanted: &Healthcheck, settings: &Settings, as_json: bool) -> Result<ExitCode, Failure> {
    let path = if wanted.ready { "/v1/readyz" } else { "/v1/healthz" };
    let http = &settings.http;
    run_async(async {
        let url = format!("{}{path}", base(http)?);
        let failed = |error: reqwest::Error| {
            let reason = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            Failure::new(1, format!("{url} does not answer: {reason}"))
        };
        let answer = client(http).build().map_err(failed)?.get(&url).send().await.map_err(failed)?;
        let status = answer.status();
        let text = answer.text().await.map_err(failed)?;
        if !status.is_success() {
            return Err(Failure::new(1, format!("{url} answers {status}: {text}")));
        }
        output::show(as_json, &json!({"status": "ok", "url": url}), [format!("ok          {url}")])
    })
}

fn client(http: &Http) -> reqwest::ClientBuilder {
    // No secret is sent, and the name in the certificate is not the one of the loopback interface.
    let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy().tls_danger_accept_invalid_certs(true);
    match &http.unix_socket {
        Some(socket) => client.unix_socket(socket.as_path()),
        None => client,
    }
}

/// Where the service is reached from this machine.
fn base(http: &Http) -> Result<String, Failure> {
    if http.unix_socket.is_some() {
        return Ok("http://localhost".to_owned());
    }
    let address = http.listen.ok_or_else(|| Failure::new(2, "the service listens on no address"))?;
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let scheme = if http.tls.is_on() { "https" } else { "http" };
    Ok(format!("{scheme}://{}", SocketAddr::new(ip, address.port())))
}
