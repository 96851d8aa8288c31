//! The export of ended spans: through a bounded queue, in batches, to the collector.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter as _, SpanProcessor};
use tokio::sync::{Notify, mpsc, oneshot};

use super::Status;

/// Maximum number of spans in the queue. A span takes up to about 2 KiB.
const QUEUE: usize = 4_096;
/// Maximum number of spans in one export.
const BATCH: usize = 512;
/// Maximum time that a span waits for a batch to fill.
const PAUSE: Duration = Duration::from_secs(1);

/// The cause of the client's last failure, which the exporter's own errors leave out.
pub(super) type Problem = Arc<Mutex<String>>;

/// Queues ended spans. It never waits; a span that does not fit is dropped and counted.
#[derive(Debug)]
pub(super) struct Queue {
    spans: mpsc::Sender<SpanData>,
    filled: Arc<Notify>,
    status: Arc<Status>,
}

/// Takes spans from the queue and exports them.
pub(super) struct Exporter {
    exporter: SpanExporter,
    spans: mpsc::Receiver<SpanData>,
    filled: Arc<Notify>,
    status: Arc<Status>,
    problem: Problem,
    is_failing: bool,
}

/// Creates a queue and its exporter.
pub(super) fn queue(exporter: SpanExporter, problem: Problem, status: Arc<Status>) -> (Queue, Exporter) {
    let (sender, spans) = mpsc::channel(QUEUE);
    let filled = Arc::<Notify>::default();
    let queue = Queue { spans: sender, filled: Arc::clone(&filled), status: Arc::clone(&status) };
    (queue, Exporter { exporter, spans, filled, status, problem, is_failing: false })
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        if self.spans.try_send(span).is_err() {
            self.status.dropped.fetch_add(1, Ordering::Relaxed);
        }
        if self.spans.capacity() < QUEUE / 2 {
            self.filled.notify_one();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Exporter {
    /// Exports spans until `stop` is sent, then exports the rest of the queue.
    pub(super) async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        let mut is_last = false;
        while !is_last {
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = self.filled.notified() => {}
                _ = &mut stop => is_last = true,
            }
            if is_last {
                self.spans.close();
            }
            while self.export().await {}
        }
    }

    /// Exports a batch. False if the queue was empty.
    async fn export(&mut self) -> bool {
        let mut batch = Vec::new();
        while batch.len() < BATCH
            && let Ok(span) = self.spans.try_recv()
        {
            batch.push(span);
        }
        let count = batch.len() as u64;
        if count == 0 {
            return false;
        }
        match self.exporter.export(batch).await {
            Ok(()) => {
                self.status.exported.fetch_add(count, Ordering::Relaxed);
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!("traces can be exported again");
                }
            }
            Err(error) => {
                self.status.dropped.fetch_add(count, Ordering::Relaxed);
                self.status.failures.fetch_add(1, Ordering::Relaxed);
                // Log an outage once; the metrics count every failed export.
                if !std::mem::replace(&mut self.is_failing, true) {
                    let cause = self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    tracing::warn!(%error, %cause, "traces cannot be exported");
                }
            }
        }
        true
    }
}
