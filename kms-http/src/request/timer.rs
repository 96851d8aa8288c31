//! One timer for all deadlines of a task. In HTTP/1.1, the requests on a connection are handled by its task, one after
//! the other, so the connection owns the timer. A deadline that is met costs nothing: the timer is set to the first of
//! them, and set again only when it has fired.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time;

use hyper::rt;
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

/// The timer of one task. Clones are the same timer.
#[derive(Clone, Debug, Default)]
pub struct Timer(Arc<Mutex<Option<Pin<Box<Sleep>>>>>);

/// The error of a future that was not ready before its deadline.
#[derive(Debug)]
pub struct Elapsed;

impl Timer {
    /// Waits for the future, until the deadline at most.
    pub async fn timeout_at<F: Future>(
        &self,
        deadline: Instant,
        mut future: Pin<&mut F>,
    ) -> Result<F::Output, Elapsed> {
        poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => self.poll(deadline, context).map(|()| Err(Elapsed)),
        })
        .await
    }

    /// Ready when the deadline has passed; otherwise the task is woken then, or before.
    fn poll(&self, deadline: Instant, context: &mut Context<'_>) -> Poll<()> {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sleep = place.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            // Without regard to the budget of the task: what it waits for may have used it up.
            let fired = Pin::new(&mut unconstrained(sleep.as_mut())).poll(context);
            if fired.is_pending() {
                return Poll::Pending;
            }
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            // It was set to the deadline of a future that was ready in time.
            sleep.as_mut().reset(deadline);
        }
    }
}

/// For the time limit of hyper for the head of a request.
impl rt::Timer for Timer {
    fn sleep(&self, duration: time::Duration) -> Pin<Box<dyn rt::Sleep>> {
        self.sleep_until(time::Instant::now() + duration)
    }
    fn sleep_until(&self, deadline: time::Instant) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(Until { timer: self.clone(), deadline: deadline.into() })
    }
    fn reset(&self, sleep: &mut Pin<Box<dyn rt::Sleep>>, deadline: time::Instant) {
        *sleep = self.sleep_until(deadline);
    }
}

/// A future that is ready when its deadline has passed.
struct Until {
    timer: Timer,
    deadline: Instant,
}

impl Future for Until {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.timer.poll(self.deadline, context)
    }
}

impl rt::Sleep for Until {}

#[cfg(test)]
#[path = "../../tests/unit/timer.rs"]
mod tests;
