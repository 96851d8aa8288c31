//! The command `kms-http serve`.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use kms_lib::internals::build_runtime;
use kms_lib::{Actor, Kms, Paging};
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use super::bootstrap::{hand_over_first_token, make_root_key_if_missing, root_key_lines};
use super::exit::Failure;
use super::folders::make_folders;
use super::output;
use crate::anchors::Anchors;
use crate::api::App;
use crate::auth::Authenticator;
use crate::auth::principals::Principals;
use crate::otlp::{Status, Traces};
use crate::server::{self, Inherited, Listeners, supervisor};
use crate::settings::{AuthMethod, Http, LogFormat, Settings};
use crate::tls::TlsServer;

/// Maximum number of records that opening a new store writes: the first of the log, and its acknowledgement mode.
const OPENING: u64 = 2;

/// Maximum number of log lines that wait to be written.
const LOG_LINES: usize = 16_384;

/// A thread of the runtime looks into the queue that all of them share after this many tasks of its own. The ledger
/// wakes requests through that queue, so under load each of them would otherwise wait for up to 127 tasks.
const SHARED: u32 = 4;

/// Options of `kms-http serve`.
#[derive(Args, Default)]
pub struct Serve {
    /// Address to listen on, or none [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Unix socket to listen on as well
    #[arg(long, value_name = "PATH")]
    unix_socket: Option<String>,
}

impl Serve {
    /// The flags of this command as settings of the section `http`.
    pub fn settings(&self) -> impl Iterator<Item = (String, String)> {
        let flags = [("listen", &self.listen), ("unix_socket", &self.unix_socket)];
        flags.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)))
    }
}

/// Serves until SIGTERM or SIGINT.
pub fn run(settings: Settings) -> Result<ExitCode, Failure> {
    let inherited = Inherited::take()?;
    let traces = Traces::new(&settings.http.otlp)?;
    let (_log, dropped) = start_log(&settings.http, traces.as_ref())?;
    let threads = Some(settings.http.threads).filter(|threads| *threads > 0);
    let mut builder = Builder::new_multi_thread();
    let runtime = build_runtime(builder.enable_all().global_queue_interval(SHARED), threads)?;
    runtime.block_on(serve(settings, inherited, dropped, traces))?;
    Ok(ExitCode::SUCCESS)
}

/// Checks the settings that only a start would otherwise check, such as files and filters, without side effects.
pub fn try_settings(http: &Http) -> Result<(), Failure> {
    log_filter(http)?;
    http.tls.is_on().then(|| TlsServer::open(http.tls.clone())).transpose()?;
    Authenticator::new(http)?;
    Anchors::new(&http.anchors)?;
    Traces::new(&http.otlp)?;
    Ok(())
}

fn log_filter(http: &Http) -> Result<EnvFilter, Failure> {
    // With a plain level, silence h2, which warns about every connection that it closes on a protocol error.
    let is_plain = !http.log.contains(['=', ',']);
    let filter = if is_plain { format!("{},h2=error", http.log) } else { http.log.clone() };
    EnvFilter::try_new(filter).map_err(|e| Failure::new(2, format!("http.log: {e}")))
}

/// Starts the log on standard error. A separate thread writes it, so that requests never wait for a slow reader. Lines
/// that exceed the buffer are dropped and counted. Dropping the guard flushes the buffer.
fn start_log(http: &Http, traces: Option<&Traces>) -> Result<(WorkerGuard, ErrorCounter), Failure> {
    let filter = log_filter(http)?;
    let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(LOG_LINES).finish(std::io::stderr());
    let dropped = writer.error_counter();
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match http.log_format {
        LogFormat::Text => lines.with_filter(filter).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    };
    tracing_subscriber::registry().with(lines).with(traces.map(Traces::layer)).init();
    Ok((guard, dropped))
}

async fn serve(
    settings: Settings,
    inherited: Inherited,
    dropped: ErrorCounter,
    traces: Option<Traces>,
) -> Result<(), Failure> {
    // First, so that a signal during the start does not kill the process.
    let (stop, hangup) = take_signals()?;
    try_settings(&settings.http)?;
    warn_of_open_doors(&settings.http);
    if make_root_key_if_missing(&settings)?
        && let Some(path) = &settings.default_key_file
    {
        root_key_lines(path).iter().for_each(|text| output::line(text));
    }
    let settings = settings.with_default_key()?;
    make_folders(&settings)?;
    let (exported, exporting) = traces.map(|traces| (traces.status(), traces.start())).unzip();
    let kms = Kms::open(settings.kms.clone()).await?;
    let served = serve_on(&kms, settings, Surroundings { inherited, dropped, exported, stop, hangup }).await;
    tracing::info!("closing");
    let closed = kms.close().await;
    if let Some(exporting) = exporting {
        exporting.stop().await;
    }
    served.and(closed.map_err(Failure::from))
}

/// Resources of the process that the service uses.
struct Surroundings {
    inherited: Inherited,
    /// Counts dropped log lines.
    dropped: ErrorCounter,
    /// The status of the trace export, if traces are exported.
    exported: Option<Arc<Status>>,
    stop: watch::Receiver<bool>,
    hangup: Signal,
}

/// Serves an open store. The listeners are opened only now, so no client connects before the store is open.
async fn serve_on(kms: &Kms, settings: Settings, surroundings: Surroundings) -> Result<(), Failure> {
    let Surroundings { inherited, dropped, exported, stop, hangup } = surroundings;
    let listeners = Listeners::open(&settings.http, inherited)?;
    if settings.http.has(AuthMethod::Token) && is_untouched(kms).await? {
        let principal = Principals::new(&settings.http).of_token("admin")?;
        hand_over_first_token(kms, &principal, &settings.token_file?).await?;
    }
    let app = Arc::new(App::new(kms.clone(), settings.http)?);
    app.metrics.count_dropped_lines(move || dropped.dropped_lines() as u64);
    if let Some(status) = exported {
        let _ = app.traces.set(status);
    }
    listeners.describe().iter().for_each(|place| output::line(&format!("listening   {place}")));
    let preparing = Arc::clone(&app);
    tokio::spawn(async move { preparing.auth.prepare().await });
    if app.http.anchors.is_on() {
        // Anchoring runs as the operator.
        let session = kms.session(Actor::operator());
        let anchors = Anchors::new(&app.http.anchors)?;
        tokio::spawn(anchors.run(session, Arc::clone(&app.anchoring), stop.clone()));
    }
    let reporting = tokio::spawn(supervisor::report(Arc::clone(&app), hangup));
    tracing::info!(address = listeners.address().map(tracing::field::display), "serving");
    server::serve(app, listeners, stop).await;
    reporting.abort();
    Ok(())
}

/// Whether the store is new: it has only the records that opening writes, and no tokens. Earlier failed starts do not
/// matter.
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
        tracing::warn!(%address, "TRUSTED HEADERS ARE ON: every client that can connect can claim to be any principal");
    }
    if !http.tls.is_on() {
        let message = "other machines can connect without TLS; tokens and plaintexts can be read on the network";
        tracing::warn!(%address, message);
    }
}

/// Handles signals: SIGTERM and SIGINT stop the service. SIGHUP reloads the TLS files; it is also caught without TLS,
/// so that it does not kill the process.
fn take_signals() -> Result<(watch::Receiver<bool>, Signal), Failure> {
    let (say, stop) = watch::channel(false);
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        supervisor::stopping();
        let _ = say.send(true);
        // A second signal exits at once, without waiting for running requests.
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::process::exit(130);
    });
    Ok((stop, hangup))
}
