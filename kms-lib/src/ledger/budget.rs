//! The memory budget of calls: copies of large inputs, and results that wait for their commit.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::types::error::{Error, ErrorCode, Result};

/// Calls of at most one part in this many of the budget are small.
const SMALL: usize = 64;
/// One part in this many of the budget is left to small calls.
const LEFT: usize = 8;

/// A number of bytes that principals share.
pub struct Budget {
    bytes: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    all: usize,
    /// By principal. Those that hold nothing are not here.
    by: HashMap<Arc<str>, usize>,
}

/// The bytes that a call holds until this is dropped.
pub struct Bytes {
    budget: Arc<Budget>,
    principal: Arc<str>,
    bytes: usize,
}

impl Drop for Bytes {
    fn drop(&mut self) {
        let mut held = self.budget.held();
        held.all -= self.bytes;
        match held.by.get_mut(&self.principal) {
            Some(own) if *own > self.bytes => *own -= self.bytes,
            _ => drop(held.by.remove(&self.principal)),
        }
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({})", self.bytes)
    }
}

impl Budget {
    pub fn new(bytes: usize) -> Self {
        Self { bytes, held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes bytes for a call. Fails with `InvalidArgument` if the call exceeds the budget for a single call.
    ///
    /// A principal with several calls at once may hold no more than is free. Large calls leave a part to small ones.
    pub fn take(self: &Arc<Self>, principal: &str, bytes: usize) -> Result<Bytes> {
        let for_large = self.bytes - self.bytes / LEFT;
        if bytes > for_large {
            let mib = |bytes: usize| bytes.div_ceil(1024 * 1024);
            let text = format!(
                "the call needs {} MiB of memory, but the limit for a call is {} MiB; send less at once, use a stream, \
                 or raise limits.result_mib",
                mib(bytes),
                mib(for_large)
            );
            return Err(Error::invalid(text));
        }
        let mut held = self.held();
        let most = if bytes <= self.bytes / SMALL { self.bytes } else { for_large };
        if held.all + bytes > most {
            let text = "too much memory is held by operations in flight; nothing was done, retry later";
            return Err(Error::new(ErrorCode::Overloaded, text));
        }
        let (principal, own) = match held.by.get_key_value(principal) {
            Some((principal, own)) => (Arc::clone(principal), *own),
            None => (Arc::from(principal), 0),
        };
        let free = self.bytes - held.all - bytes;
        if own > 0 && own + bytes > free {
            let text = "this caller's operations in flight hold too much memory; nothing was done, retry later";
            return Err(Error::new(ErrorCode::CallerOverloaded, text));
        }
        held.all += bytes;
        held.by.insert(Arc::clone(&principal), own + bytes);
        Ok(Bytes { budget: Arc::clone(self), principal, bytes })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MIB: usize = 1024 * 1024;

    fn code(taken: Result<Bytes>) -> Option<ErrorCode> {
        taken.err().map(|error| error.code())
    }

    #[test]
    fn no_principal_takes_all_and_small_calls_always_fit() {
        let budget = Arc::new(Budget::new(256 * MIB));
        let mut held = Vec::new();
        let refused = loop {
            match budget.take("greedy", 32 * MIB) {
                Ok(bytes) => held.push(bytes),
                Err(error) => break error,
            }
        };
        assert_eq!((held.len(), refused.code()), (4, ErrorCode::CallerOverloaded));
        // Other principals still get large amounts, until only the part for small calls is left.
        for other in ["b", "c", "d"] {
            held.push(budget.take(other, 32 * MIB).unwrap());
        }
        assert_eq!(code(budget.take("e", 32 * MIB)), Some(ErrorCode::Overloaded));
        held.push(budget.take("e", 4 * MIB).unwrap());
        drop(held);
        assert!(budget.held().all == 0 && budget.held().by.is_empty());
        drop(budget.take("greedy", 224 * MIB).unwrap());
    }

    #[test]
    fn what_can_never_be_had_is_no_reason_to_retry() {
        let budget = Arc::new(Budget::new(64 * MIB));
        assert_eq!(code(budget.take("a", 57 * MIB)), Some(ErrorCode::InvalidArgument));
        assert_eq!(code(budget.take("a", usize::MAX)), Some(ErrorCode::InvalidArgument));
        assert_eq!(code(budget.take("a", 56 * MIB)), None);
    }
}
