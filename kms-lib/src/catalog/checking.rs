//! Checks the seals of rows on all cores while the next rows are read.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::snapshot::Folded;
use crate::envelope::{RowSet, Seals};
use crate::storage::tables::sealed::Sealed;
use crate::types::error::{Error, ErrorCode, Result};
use crate::workers;

/// Number of rows in a chunk. A chunk is checked on one thread.
const CHUNK: usize = if cfg!(test) { 2 } else { 1_024 };

/// The number of chunks that may wait for a thread. The next one is checked on the thread that reads, so that no more
/// rows are in memory than are needed to keep all cores busy.
const CHUNKS: usize = if cfg!(test) { 2 } else { 8 };

/// A row of the catalog.
pub(super) trait CatalogRow: Send + Sized + 'static {
    /// The table of the row.
    const TABLE: &'static str;
    /// The bytes that the row's seal covers.
    fn bytes(&self) -> Result<Vec<u8>>;
    /// The sequence number of the record of the row's last change.
    fn revision(&self) -> u64;
}

/// The function that receives rows with good seals.
pub(super) type EachChunk<'c, T> = dyn FnMut(Vec<Folded<T>>) + Send + 'c;

/// Rows of one table whose seals are being checked. They are handed on in the order of the table, apart from chunks
/// that a thread holds up: versions that arrive in another order are inserted between the present ones of their key.
pub(super) struct Checking<'c, T> {
    seals: Arc<Seals>,
    each: &'c mut EachChunk<'c, T>,
    /// The rows of the next chunk.
    waiting: Vec<Sealed<T>>,
    /// The chunks whose rows were not handed on yet, oldest first.
    chunks: VecDeque<Chunk<T>>,
    /// Whether the check of a chunk ended without a result.
    has_failed: bool,
}

/// A chunk whose rows were not handed on yet.
enum Chunk<T> {
    /// Waits for a thread or is being checked.
    Given {
        /// None once a thread has begun to check the rows.
        rows: Arc<Mutex<Option<Vec<Sealed<T>>>>>,
        checked: oneshot::Receiver<Vec<Folded<T>>>,
    },
    /// Rows that the thread which reads them has checked itself.
    Checked(Vec<Folded<T>>),
}

impl<T: CatalogRow> Chunk<T> {
    /// Has a chunk checked as soon as a thread is free.
    fn start(rows: Vec<Sealed<T>>, seals: Arc<Seals>) -> Self {
        let rows = Arc::new(Mutex::new(Some(rows)));
        let (done, checked) = oneshot::channel();
        let shared = Arc::clone(&rows);
        let work = move || {
            if let Some(rows) = take(&shared) {
                // Nobody receives the rows if the load was given up.
                let _ = done.send(check(rows, &seals));
            }
        };
        // Without a thread, the rows are checked by the task that reads.
        let _ = workers::start(work);
        Self::Given { rows, checked }
    }

    /// The rows, unless a thread has begun to check them.
    fn take(&self) -> Option<Vec<Sealed<T>>> {
        match self {
            Self::Given { rows, .. } => take(rows),
            Self::Checked(_) => None,
        }
    }
}

fn take<T>(rows: &Mutex<Option<Vec<Sealed<T>>>>) -> Option<Vec<Sealed<T>>> {
    rows.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl<'c, T: CatalogRow> Checking<'c, T> {
    pub(super) fn new(seals: &Arc<Seals>, each: &'c mut EachChunk<'c, T>) -> Self {
        let seals = Arc::clone(seals);
        Self { seals, each, waiting: Vec::new(), chunks: VecDeque::new(), has_failed: false }
    }

    pub(super) fn push(&mut self, row: Sealed<T>) {
        self.waiting.push(row);
        if self.waiting.len() < CHUNK {
            return;
        }
        self.hand_on();
        let chunk = std::mem::replace(&mut self.waiting, Vec::with_capacity(CHUNK));
        if self.chunks.len() < CHUNKS {
            return self.chunks.push_back(Chunk::start(chunk, Arc::clone(&self.seals)));
        }
        // All threads are busy. The oldest chunk is the next one in the order of the table.
        if let Some(oldest) = self.chunks.front().and_then(Chunk::take) {
            self.chunks.pop_front();
            (self.each)(check(oldest, &self.seals));
            self.chunks.push_back(Chunk::start(chunk, Arc::clone(&self.seals)));
        } else if self.chunks.len() < 2 * CHUNKS {
            self.chunks.push_back(Chunk::Checked(check(chunk, &self.seals)));
        } else {
            // A thread holds up the oldest chunk. Only the speed depends on the order.
            (self.each)(check(chunk, &self.seals));
        }
    }

    /// Hands on the rows of the oldest chunks, as far as they are checked.
    fn hand_on(&mut self) {
        while let Some(chunk) = self.chunks.pop_front() {
            match chunk {
                Chunk::Checked(checked) => (self.each)(checked),
                Chunk::Given { rows, mut checked } => match checked.try_recv() {
                    // Not polled as a future, which would wait when the task has used up its turn.
                    Ok(checked) => (self.each)(checked),
                    Err(oneshot::error::TryRecvError::Closed) => match take(&rows) {
                        Some(rows) => (self.each)(check(rows, &self.seals)),
                        None => self.has_failed = true,
                    },
                    Err(oneshot::error::TryRecvError::Empty) => {
                        return self.chunks.push_front(Chunk::Given { rows, checked });
                    }
                },
            }
        }
    }

    /// Checks the rows that no other thread has begun to check, and hands on all that remain.
    pub(super) async fn finish(mut self) -> Result<()> {
        self.chunks.push_back(Chunk::Checked(check(std::mem::take(&mut self.waiting), &self.seals)));
        // This thread begins with the newest chunk, since the others begin with the oldest. If no other thread is free,
        // it checks all of them.
        for chunk in self.chunks.iter_mut().rev() {
            if let Some(rows) = chunk.take() {
                *chunk = Chunk::Checked(check(rows, &self.seals));
            }
        }
        for chunk in std::mem::take(&mut self.chunks) {
            match chunk {
                Chunk::Checked(checked) => (self.each)(checked),
                Chunk::Given { checked, .. } => match checked.await {
                    Ok(checked) => (self.each)(checked),
                    Err(_) => self.has_failed = true,
                },
            }
        }
        match self.has_failed {
            false => Ok(()),
            true => Err(Error::new(ErrorCode::Internal, "the check of the rows ended unexpectedly")),
        }
    }
}

/// Returns the rows with good seals, each with its fold.
fn check<T: CatalogRow>(rows: Vec<Sealed<T>>, seals: &Seals) -> Vec<Folded<T>> {
    let folded = |row: &T, seal: &[u8]| {
        let bytes = row.bytes().ok().filter(|bytes| seals.is_row_sealed(bytes, seal, row.revision()))?;
        Some(RowSet::of(seals, &bytes))
    };
    let mut good = Vec::with_capacity(rows.len());
    for sealed in rows {
        match sealed.row.ok().and_then(|row| folded(&row, &sealed.seal).map(|fold| Folded { row, fold })) {
            Some(row) => good.push(row),
            None => {
                let id = sealed.id.map(uuid::Uuid::from_bytes);
                tracing::error!(table = T::TABLE, ?id, "a row has no valid seal and is not used");
            }
        }
    }
    good
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::envelope::{INTEGRITY_KEY_BYTES, row};
    use crate::types::ids::{KeyId, VersionId};
    use crate::types::key::{KeyVersion, Origin, VersionState};
    use crate::types::time::Timestamp;

    fn version(number: u32) -> KeyVersion {
        KeyVersion {
            id: VersionId::random(),
            key_id: KeyId::random(),
            version: number,
            state: VersionState::Enabled,
            not_before: None,
            not_after: None,
            grace_period_days: None,
            created_at: Timestamp::now(),
            origin: Origin::Generated,
            fingerprint: [1; 32],
            public_key_digest: None,
            revision: 1,
        }
    }

    /// Pushes 1,000 rows, of which every tenth has no good seal; calls `pause` after each. Returns the numbers of the
    /// rows that arrive.
    async fn arrived(pause: impl Fn(&Checking<'_, KeyVersion>)) -> Vec<u32> {
        let seals = Arc::new(Seals::new(1, &[7; INTEGRITY_KEY_BYTES]).unwrap());
        let mut arrived = Vec::new();
        let mut each = |rows: Vec<Folded<KeyVersion>>| arrived.extend(rows.into_iter().map(|row| row.row.version));
        let mut checking = Checking::new(&seals, &mut each);
        for number in 1..=1_000 {
            let version = version(number);
            let seal = if number % 10 == 0 { vec![0; 32] } else { seals.seal(&row::version(&version)).to_vec() };
            checking.push(Sealed { id: None, row: Ok(version), seal });
            pause(&checking);
        }
        checking.finish().await.unwrap();
        arrived
    }

    fn good() -> Vec<u32> {
        (1..=1_000).filter(|number| number % 10 > 0).collect()
    }

    /// All rows arrive if other threads check hundreds of chunks in one turn of the task that reads.
    #[tokio::test]
    async fn rows_that_threads_check_arrive() {
        let wait = |checking: &Checking<'_, KeyVersion>| {
            while let Some(Chunk::Given { checked, .. }) = checking.chunks.front()
                && checked.is_empty()
            {
                std::thread::yield_now();
            }
        };
        assert_eq!(arrived(wait).await, good());
    }

    /// If the runtime has no free thread for blocking work, all rows arrive nevertheless, in the order of the table. In
    /// any other order, inserting a version of a key would move all those with higher numbers.
    #[test]
    fn rows_arrive_without_a_free_thread() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let busy = runtime.spawn_blocking(move || ended.recv());
        assert_eq!(runtime.block_on(arrived(|_| ())), good());
        drop(end);
        runtime.block_on(busy).unwrap().unwrap_err();
    }
}
