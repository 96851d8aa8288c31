//! `kms-http healthcheck`: queries the service that runs with these settings; for container health checks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::exit::Failure;
use super::output;
use super::store::run as run_async;
use crate::settings::{Http, Settings};

/// Timeout of the request.
const PATIENCE: Duration = Duration::from_secs(5);

/// Options of `kms-http healthcheck`.
#[derive(Args)]
pub struct Healthcheck {
    /// Check readiness (/v1/readyz) instead of liveness (/v1/healthz)
    #[arg(long)]
    ready: bool,
}

/// Sends the request through the Unix socket if one is configured, otherwise to the address the service listens on.
pub fn run(wanted: &Healthcheck, settings: &Settings, as_json: bool) -> Result<ExitCode, Failure> {
    let path = if wanted.ready { "/v1/readyz" } else { "/v1/healthz" };
    let http = &settings.http;
    run_async(async {
        let url = format!("{}{path}", base(http)?);
        let failed = |error: reqwest::Error| {
            let reason = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            Failure::new(1, format!("no response from {url}: {reason}"))
        };
        let answer = client(http).build().map_err(failed)?.get(&url).send().await.map_err(failed)?;
        let status = answer.status();
        let text = answer.text().await.map_err(failed)?;
        if !status.is_success() {
            return Err(Failure::new(1, format!("{url} returned {status}: {text}")));
        }
        output::show(as_json, &json!({"status": "ok", "url": url}), [format!("ok          {url}")])
    })
}

fn client(http: &Http) -> reqwest::ClientBuilder {
    // The certificate is not checked: its name is not that of the loopback interface, and no secret is sent.
    let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy().tls_danger_accept_invalid_certs(true);
    match &http.unix_socket {
        Some(socket) => client.unix_socket(socket.as_path()),
        None => client,
    }
}

/// The base URL of the service from this machine.
fn base(http: &Http) -> Result<String, Failure> {
    if http.unix_socket.is_some() {
        return Ok("http://localhost".to_owned());
    }
    let unset = "the service listens on no address; set http.listen or http.unix_socket";
    let address = http.listen.ok_or_else(|| Failure::new(2, unset))?;
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let scheme = if http.tls.is_on() { "https" } else { "http" };
    Ok(format!("{scheme}://{}", SocketAddr::new(ip, address.port())))
}
