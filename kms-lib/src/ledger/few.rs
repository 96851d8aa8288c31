//! A list that most often has one element.

use std::ops::Deref;

/// A list whose only element needs no allocation. What callers allocate, the ledger's thread frees, which costs the
/// allocators of both threads more than other allocations.
#[derive(Clone, Debug)]
pub enum Few<T> {
    /// A single element, which is stored in place.
    One(T),
    /// Any number of elements, in memory of their own.
    Any(Vec<T>),
}

impl<T> Deref for Few<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Any(any) => any,
        }
    }
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self::Any(Vec::new())
    }
}

impl<T> From<Vec<T>> for Few<T> {
    fn from(any: Vec<T>) -> Self {
        Self::Any(any)
    }
}

impl<T> From<Option<T>> for Few<T> {
    fn from(one: Option<T>) -> Self {
        one.map_or_else(Self::default, Self::One)
    }
}
