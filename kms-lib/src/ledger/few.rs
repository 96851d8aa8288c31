//! Lists that most often have one element.

use smallvec::SmallVec;

/// A list whose only element needs no allocation. What callers allocate, the ledger's thread frees, which costs the
/// allocators of both threads more than other allocations.
pub type Few<T> = SmallVec<[T; 1]>;
