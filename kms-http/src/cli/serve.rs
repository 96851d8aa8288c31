//! `kms-http serve`.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use kms_lib::{Actor, Kms, Paging};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use super::bootstrap::{hand_over_first_token, make_root_key_if_missing, root_key_lines};
use super::exit::Failure;
use super::folders::make_folders;
use super::output;
use crate::api::App;
use crate::auth::Authenticator;
use crate::auth::principals::Principals;
use crate::server::{self, Listeners};
use crate::settings::{AuthMethod, Http, LogFormat, Settings};
use crate::tls::TlsServer;

/// Most records that opening a new store makes: of the log itself, and of how it acknowledges.
const OPENING: u64 = 2;

/// Serve.
#[derive(Args, Default)]
pub struct Serve {
    /// Where to listen, such as 127.0.0.1:8080, or none
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// A unix socket to listen on
    #[arg(long, value_name = "PATH")]
    unix_socket: Option<String>,
}

impl Serve {
    /// The flags of this command, as settings.
    pub fn settings(&self) -> impl Iterator<Item = (String, String)> {
        let flags = [("listen", &self.listen), ("unix_socket", &self.unix_socket)];
        flags.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)))
    }
}

/// Serves until a signal says to stop.
pub fn run(settings: Settings) -> Result<ExitCode, Failure> {
    start_log(&settings.http)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if settings.http.threads > 0 {
        runtime.worker_threads(settings.http.threads);
    }
    let runtime = runtime.enable_all().build()?;
    runtime.block_on(serve(settings))?;
    Ok(ExitCode::SUCCESS)
}

/// Whether this can be served: finds what only starting would find, without doing anything.
pub fn try_settings(http: &Http) -> Result<(), Failure> {
    log_filter(http)?;
    http.tls.is_on().then(|| TlsServer::open(http.tls.clone())).transpose()?;
    Authenticator::new(http)?;
    Ok(())
}

fn log_filter(http: &Http) -> Result<EnvFilter, Failure> {
    // A plain level is ours; h2 warns of every connection that it ends because a caller misbehaves.
    let is_plain = !http.log.contains(['=', ',']);
    let filter = if is_plain { format!("{},h2=error", http.log) } else { http.log.clone() };
    EnvFilter::try_new(filter).map_err(|e| Failure::new(2, format!("http.log: {e}")))
}

fn start_log(http: &Http) -> Result<(), Failure> {
    let filter = log_filter(http)?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match http.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}

async fn serve(settings: Settings) -> Result<(), Failure> {
    // Before anything else: a signal must not end the process half-way.
    let stop = stop_on_signals()?;
    let listeners = Listeners::bind(&settings.http).await?;
    warn_of_open_doors(&settings.http);
    if make_root_key_if_missing(&settings)?
        && let Some(path) = &settings.default_key_file
    {
        root_key_lines(path).iter().for_each(|text| output::line(text));
    }
    let settings = settings.with_default_key()?;
    make_folders(&settings)?;
    let kms = Kms::open(settings.kms).await?;
    if settings.http.has(AuthMethod::Token) && is_untouched(&kms).await? {
        let principal = Principals::new(&settings.http).of_token("admin")?;
        hand_over_first_token(&kms, &principal, &settings.token_file?).await?;
    }
    let address = listeners.address();
    let socket = settings.http.unix_socket.clone();
    let app = Arc::new(App::new(kms.clone(), settings.http)?);
    if let Some(address) = address {
        let scheme = if listeners.is_secure() { "https" } else { "http" };
        output::line(&format!("listening   {scheme}://{address}"));
    }
    if let Some(socket) = socket {
        output::line(&format!("listening   unix:{}", socket.display()));
    }
    let preparing = Arc::clone(&app);
    tokio::spawn(async move { preparing.auth.prepare().await });
    tracing::info!(address = address.map(tracing::field::display), "serving");
    server::serve(app, listeners, stop).await;
    tracing::info!("closing");
    kms.close().await?;
    Ok(())
}

/// Whether nobody has done anything with the store, whatever became of earlier starts: it holds no more than what
/// opening records.
async fn is_untouched(kms: &Kms) -> Result<bool, Failure> {
    if kms.telemetry().await?.records > OPENING {
        return Ok(false);
    }
    let operator = kms.session(Actor::operator());
    Ok(operator.list_credentials(&Paging::new(1)).await?.items.is_empty())
}

fn warn_of_open_doors(http: &Http) {
    let Some(address) = http.listen.filter(|address| !address.ip().is_loopback()) else { return };
    if http.has(AuthMethod::TrustedHeaders) {
        tracing::warn!(%address, "TRUSTED HEADERS ARE ON: whoever can connect is whoever it says it is");
    }
    if !http.tls.is_on() {
        let message = "others can connect, and there is no TLS: tokens and plaintexts can be read on the way";
        tracing::warn!(%address, message);
    }
}

/// Says when to stop: on SIGTERM and SIGINT. SIGHUP asks for files to be read again, which TLS does; without TLS there
/// are none, and it must not end the process.
fn stop_on_signals() -> Result<watch::Receiver<bool>, Failure> {
    let (say, stop) = watch::channel(false);
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move { while hangup.recv().await.is_some() {} });
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let _ = say.send(true);
        // A second signal does not wait for what is running.
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::process::exit(130);
    });
    Ok(stop)
}
