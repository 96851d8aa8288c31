//! Lists that most often have few elements.

use std::iter::Chain;
use std::mem::take;
use std::ops::{Deref, DerefMut};

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

impl<T> DerefMut for Few<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::One(one) => std::slice::from_mut(one),
            Self::Any(any) => any,
        }
    }
}

impl<T> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        let mut elements = elements.into_iter();
        match (elements.next(), elements.next()) {
            (Some(one), None) => Self::One(one),
            (first, second) => Self::Any(first.into_iter().chain(second).chain(elements).collect()),
        }
    }
}

impl<T> IntoIterator for Few<T> {
    type Item = T;
    type IntoIter = Chain<std::option::IntoIter<T>, std::vec::IntoIter<T>>;
    fn into_iter(self) -> Self::IntoIter {
        match self {
            Self::One(one) => Some(one).into_iter().chain(Vec::new()),
            Self::Any(any) => None.into_iter().chain(any),
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

/// A list whose elements need no allocation as long as there are at most `N`.
#[derive(Clone, Debug)]
pub struct Short<T, const N: usize> {
    /// The elements, with default values in the free places; none if there are `many`.
    few: [T; N],
    /// The number of elements in `few`.
    len: usize,
    many: Vec<T>,
}

impl<T: Default, const N: usize> Short<T, N> {
    /// Inserts an element at a place, at most behind the last one.
    pub fn insert(&mut self, place: usize, element: T) {
        if self.many.is_empty() && self.len < N {
            self.few[self.len] = element;
            self.few[place..=self.len].rotate_right(1);
            self.len += 1;
            return;
        }
        let before = take(&mut self.len);
        self.many.extend(self.few.iter_mut().take(before).map(take));
        self.many.insert(place, element);
    }

    /// Removes the element at a place.
    pub fn remove(&mut self, place: usize) {
        if self.many.is_empty() {
            self.few[place..self.len].rotate_left(1);
            self.len -= 1;
            self.few[self.len] = T::default();
        } else {
            self.many.remove(place);
        }
    }
}

impl<T: Default, const N: usize> Default for Short<T, N> {
    fn default() -> Self {
        Self { few: std::array::from_fn(|_| T::default()), len: 0, many: Vec::new() }
    }
}

impl<T, const N: usize> Deref for Short<T, N> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        if self.many.is_empty() { &self.few[..self.len] } else { &self.many }
    }
}

impl<T, const N: usize> DerefMut for Short<T, N> {
    fn deref_mut(&mut self) -> &mut [T] {
        if self.many.is_empty() { &mut self.few[..self.len] } else { &mut self.many }
    }
}

impl<T: PartialEq, const N: usize> PartialEq for Short<T, N> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Eq, const N: usize> Eq for Short<T, N> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_the_same_whether_it_has_one_element_or_many() {
        for count in 0..5 {
            let few: Few<u32> = (0..count).collect();
            assert_eq!(matches!(few, Few::One(_)), count == 1);
            assert_eq!(*few, *(0..count).collect::<Vec<_>>());
            assert!(few.into_iter().eq(0..count));
        }
    }

    #[test]
    fn a_short_list_keeps_its_order_when_it_grows_and_shrinks() {
        let (mut short, mut plain): (Short<u32, 3>, Vec<u32>) = Default::default();
        let places = [0, 0, 1, 3, 2, 5, 0];
        for (element, place) in (1..).zip(places) {
            short.insert(place, element);
            plain.insert(place, element);
            assert_eq!(*short, *plain);
        }
        for place in [6, 0, 2, 1, 2, 0, 0] {
            short.remove(place);
            plain.remove(place);
            assert_eq!(*short, *plain);
        }
        short.insert(0, 8);
        short.insert(1, 9);
        short.remove(0);
        assert_eq!(*short, [9]);
        let mut never_long = Short::<u32, 3>::default();
        never_long.insert(0, 9);
        assert_eq!(short, never_long);
    }
}
