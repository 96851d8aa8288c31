//! The cost of operations in Rust alone, on the same service as in Python: `kms-py/bench` compares both in one run.
//! Only the feature `bench` includes this module; published wheels do not.

use std::sync::Arc;
use std::time::Instant;

use kms_lib::{Context, DecryptItem, EncryptItem, Error, ErrorCode, Result};
use pyo3::prelude::*;

use crate::engine::Engine;
use crate::errors::{Outcome, invalid};
use crate::session::Session;

/// The number of threads in the form `threads`.
const THREADS: usize = 8;
/// The number of items in a batch, and of concurrent tasks.
const MANY: usize = 1_000;
/// The name of the benchmark's key.
const KEY: &str = "aes";

/// The error of a task or thread that panicked.
fn lost<E>(_: E) -> Result<()> {
    Err(Error::new(ErrorCode::Internal, "a task of the benchmark panicked"))
}

/// The operation to be measured.
#[derive(Clone)]
struct Job {
    session: kms_lib::Session,
    input: Arc<Vec<u8>>,
    decrypts: bool,
}

impl Job {
    async fn once(&self) -> Result<()> {
        let context = Context::new();
        if self.decrypts {
            self.session.decrypt(&self.input, &context).await.map(drop)
        } else {
            self.session.encrypt(KEY, &self.input, &context).await.map(drop)
        }
    }

    async fn repeatedly(self, count: usize) -> Result<()> {
        for _ in 0..count {
            self.once().await?;
        }
        Ok(())
    }

    async fn batch(&self) -> Result<()> {
        if self.decrypts {
            let items: Vec<_> = (0..MANY).map(|_| DecryptItem::new(&self.input, Context::new())).collect();
            self.session.decrypt_batch(&items).await?.into_iter().try_for_each(|done| done.map(drop))
        } else {
            let items: Vec<_> = (0..MANY).map(|_| EncryptItem::new(KEY, &self.input, Context::new())).collect();
            self.session.encrypt_batch(&items).await?.into_iter().try_for_each(|done| done.map(drop))
        }
    }

    async fn tasks(&self, engine: &Engine) -> Result<()> {
        let started: Vec<_> = (0..MANY).map(|_| engine.start(self.clone().repeatedly(1))).collect();
        for task in started {
            task.await.unwrap_or_else(lost)?;
        }
        Ok(())
    }

    fn threads(&self, engine: &Engine, count: usize) -> Result<()> {
        std::thread::scope(|scope| {
            let each = || engine.block_on(self.clone().repeatedly(count / THREADS));
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(each)).collect();
            threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(lost))
        })
    }

    fn run(&self, engine: &Engine, form: &str, count: usize) -> Result<()> {
        match form {
            "call" => (0..count).try_for_each(|_| engine.block_on(self.once())),
            "await" => engine.block_on(engine.start(self.clone().repeatedly(count))).unwrap_or_else(lost),
            "tasks" => (0..count / MANY).try_for_each(|_| engine.block_on(self.tasks(engine))),
            "batch" => (0..count / MANY).try_for_each(|_| engine.block_on(self.batch())),
            _ => self.threads(engine, count),
        }
    }
}

/// Measures the seconds that `count` operations on this input take, in one of the forms `call`, `await`, `tasks`,
/// `batch` and `threads`.
#[pyfunction]
#[pyo3(name = "_measure_rust")]
pub fn measure_rust(
    py: Python<'_>,
    session: &Session,
    operation: &str,
    form: &str,
    input: Vec<u8>,
    count: usize,
) -> Outcome<f64> {
    if !["call", "await", "tasks", "batch", "threads"].contains(&form) {
        return Err(invalid("form must be call, await, tasks, batch or threads"));
    }
    let (session, engine) = session.parts();
    let job = Job { session, input: Arc::new(input), decrypts: operation == "decrypt" };
    py.detach(|| {
        let begun = Instant::now();
        job.run(&engine, form, count)?;
        Ok(begun.elapsed().as_secs_f64())
    })
}
