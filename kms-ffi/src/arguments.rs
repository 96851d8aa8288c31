//! Reading arguments: pointers, lengths, UTF-8, option structs, and places for results.

use std::slice;

use crate::failure::{Failure, Outcome};

/// Bytes that a struct of a newer header may have at most.
const STRUCT_BYTES: usize = 4_096;

/// Reads bytes of the caller. NULL means no bytes if the length is 0.
///
/// # Safety
/// `pointer` is NULL or valid for `length` bytes while `'a` lasts.
#[inline]
pub unsafe fn bytes<'a>(pointer: *const u8, length: usize, name: &'static str) -> Outcome<&'a [u8]> {
    if length == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() {
        return Err(Failure::null(name));
    }
    check_length(length, name)?;
    // SAFETY: not NULL, not too long, and the caller promises the rest.
    Ok(unsafe { slice::from_raw_parts(pointer, length) })
}

/// Reads text of the caller, which must be UTF-8.
///
/// # Safety
/// As [`bytes`].
#[inline]
pub unsafe fn text<'a>(pointer: *const std::ffi::c_char, length: usize, name: &'static str) -> Outcome<&'a str> {
    if pointer.is_null() {
        return Err(Failure::null(name));
    }
    // SAFETY: as the caller promises.
    let bytes = unsafe { bytes(pointer.cast(), length, name) }?;
    str::from_utf8(bytes).map_err(|e| Failure::not_utf8(name, e.valid_up_to()))
}

/// Reads optional text: NULL means none.
///
/// # Safety
/// As [`bytes`].
pub unsafe fn optional_text<'a>(
    pointer: *const std::ffi::c_char,
    length: usize,
    name: &'static str,
) -> Outcome<Option<&'a str>> {
    if pointer.is_null() && length == 0 {
        return Ok(None);
    }
    // SAFETY: as the caller promises.
    unsafe { text(pointer, length, name) }.map(Some)
}

#[inline]
fn check_length(length: usize, name: &str) -> Outcome<()> {
    if isize::try_from(length).is_err() {
        return Err(Failure::too_long(name, length));
    }
    Ok(())
}

/// A struct whose first field is its size, so that fields can be added later.
///
/// # Safety
/// Every bit pattern, all zeros among them, is a value of the type, and its first field is its size as `usize`.
pub unsafe trait Extensible: Copy {
    /// The name of the type in the header.
    const NAME: &'static str;
}

/// Reads an options struct: NULL means that all fields are 0. Fields that a struct of an older header lacks are 0; a
/// struct of a newer header is accepted if its unknown fields are 0.
///
/// # Safety
/// `pointer` is NULL or points to as many bytes as its first field says.
pub unsafe fn options<T: Extensible>(pointer: *const T, name: &'static str) -> Outcome<T> {
    if pointer.is_null() {
        // SAFETY: the trait promises that zeros are a value.
        return Ok(unsafe { std::mem::zeroed() });
    }
    // SAFETY: as the caller promises.
    unsafe { structure(pointer, name) }
}

/// Reads a required struct.
///
/// # Safety
/// As [`options`].
pub unsafe fn structure<T: Extensible>(pointer: *const T, name: &'static str) -> Outcome<T> {
    // SAFETY: as the caller promises.
    let size = unsafe { size(pointer, name) }?;
    // SAFETY: the caller promises that `size` bytes can be read.
    let given = unsafe { slice::from_raw_parts(pointer.cast::<u8>(), size) };
    let known = size.min(size_of::<T>());
    if given[known..].iter().any(|byte| *byte != 0) {
        let text = format!("{name} has fields that this version of the library does not know; see mkms_version");
        return Err(Failure::invalid(text));
    }
    // SAFETY: the trait promises that every bit pattern is a value; what is not written stays 0.
    let mut read: T = unsafe { std::mem::zeroed() };
    // SAFETY: both have `known` bytes, and do not overlap: one is on this function's stack.
    unsafe { std::ptr::copy_nonoverlapping(given.as_ptr(), (&raw mut read).cast(), known) };
    Ok(read)
}

/// Reads the size in the first field and checks that it is plausible.
///
/// # Safety
/// `pointer` is NULL or points to a `usize`.
unsafe fn size<T: Extensible>(pointer: *const T, name: &'static str) -> Outcome<usize> {
    if pointer.is_null() {
        return Err(Failure::null(name));
    }
    if !pointer.is_aligned() {
        return Err(Failure::misaligned(name));
    }
    // SAFETY: not NULL, aligned, and the caller promises the rest.
    let size = unsafe { pointer.cast::<usize>().read() };
    if !(size_of::<usize>()..=STRUCT_BYTES).contains(&size) {
        return Err(Failure::invalid(format!("{name}: its field size must be sizeof({})", T::NAME)));
    }
    Ok(size)
}

/// Reads an array of structs, each as long as the first one says.
///
/// # Safety
/// `pointer` is NULL or points to `count` structs, each as [`options`] requires.
pub unsafe fn structures<T: Extensible>(pointer: *const T, count: usize, name: &'static str) -> Outcome<Vec<T>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: as the caller promises, for the first one.
    let stride = unsafe { size(pointer, name) }?;
    if !stride.is_multiple_of(align_of::<T>()) {
        return Err(Failure::invalid(format!("{name}: its field size must be sizeof({})", T::NAME)));
    }
    if count > kms_lib::limits::BATCH_ITEMS {
        let text = format!("{name} has {count} items; at most {} are allowed", kms_lib::limits::BATCH_ITEMS);
        return Err(Failure::invalid(text));
    }
    let each = |index: usize| {
        // SAFETY: the caller promises that there are `count` structs.
        let item = unsafe { pointer.byte_add(index * stride) };
        // SAFETY: as the caller promises.
        let size = unsafe { size(item, name) }?;
        if size != stride {
            return Err(Failure::invalid(format!(
                "{name}: the field size of item {index} differs from that of item 0"
            )));
        }
        // SAFETY: as the caller promises.
        unsafe { structure(item, name) }
    };
    (0..count).map(each).collect()
}

/// An out-parameter for a result, written only when the call has succeeded.
pub struct Place<T>(*mut T);

impl<T> Place<T> {
    /// Writes the result.
    pub fn set(self, value: T) {
        // SAFETY: `place` checked the pointer, and the caller promised that it can be written.
        unsafe { self.0.write(value) };
    }
}

/// Checks a required out-parameter.
///
/// # Safety
/// `pointer` is NULL or can be written as long as the result lives.
#[inline]
pub unsafe fn place<T>(pointer: *mut T, name: &'static str) -> Outcome<Place<T>> {
    if pointer.is_null() {
        return Err(Failure::null(name));
    }
    if !pointer.is_aligned() {
        return Err(Failure::misaligned(name));
    }
    Ok(Place(pointer))
}

/// A struct of the caller that the call fills, up to the size that the caller's header knows.
pub struct Filled<T>(Option<(*mut T, usize)>);

impl<T: Extensible> Filled<T> {
    /// Writes the fields that the caller's struct has room for, except its size. The value is computed only if the
    /// caller wants it.
    pub fn set(self, value: impl FnOnce() -> T) {
        let Some((pointer, size)) = self.0 else { return };
        let value = value();
        let (skipped, known) = (size_of::<usize>(), size.min(size_of::<T>()));
        let from = (&raw const value).cast::<u8>().wrapping_add(skipped);
        let to = pointer.cast::<u8>().wrapping_add(skipped);
        // SAFETY: the caller's struct has `size` bytes, as its first field says; ours has the size of its type.
        unsafe { std::ptr::copy_nonoverlapping(from, to, known - skipped) };
    }
}

/// Checks an optional struct that the call fills; NULL means that the caller does not want it.
///
/// # Safety
/// `pointer` is NULL or points to as many bytes as its first field says, which can be written as long as the result
/// lives.
#[inline]
pub unsafe fn optional_filled<T: Extensible>(pointer: *mut T, name: &'static str) -> Outcome<Filled<T>> {
    if pointer.is_null() {
        return Ok(Filled(None));
    }
    // SAFETY: as the caller promises.
    unsafe { filled(pointer, name) }
}

/// Checks a required struct that the call fills.
///
/// # Safety
/// As [`optional_filled`].
pub unsafe fn filled<T: Extensible>(pointer: *mut T, name: &'static str) -> Outcome<Filled<T>> {
    // SAFETY: as the caller promises.
    let size = unsafe { size(pointer, name) }?;
    Ok(Filled(Some((pointer, size))))
}

/// A buffer of the caller for output bytes.
pub struct Output {
    data: *mut u8,
    capacity: usize,
    length: *mut usize,
    name: &'static str,
}

impl Output {
    /// Checks the capacity before anything is done. If it is too small, writes the required size to the caller's
    /// length.
    #[inline]
    pub fn require(&self, needed: usize) -> Outcome<()> {
        if self.capacity < needed {
            // SAFETY: `output` checked the pointer, and the caller promised that it can be written.
            unsafe { self.length.write(needed) };
            return Err(Failure::too_small(self.name, needed, self.capacity));
        }
        Ok(())
    }
    /// Writes the result. It may overwrite the input of the call.
    #[inline]
    pub fn set(self, bytes: &[u8]) -> Outcome<()> {
        // `require` has checked this already; the second check guarantees that nothing is written beyond the buffer.
        self.require(bytes.len())?;
        if !bytes.is_empty() {
            // SAFETY: the buffer is large enough, as the caller promises; `bytes` is memory of the library.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.data, bytes.len()) };
        }
        // SAFETY: `output` checked the pointer, and the caller promised that it can be written.
        unsafe { self.length.write(bytes.len()) };
        Ok(())
    }
}

/// Checks a buffer of the caller. NULL with a capacity of 0 queries the required size.
///
/// # Safety
/// `data` is NULL or `capacity` bytes that can be written, `length` is NULL or can be written, as long as the result
/// lives.
#[inline]
pub unsafe fn output(
    data: *mut u8,
    capacity: usize,
    length: *mut usize,
    length_name: &'static str,
    name: &'static str,
) -> Outcome<Output> {
    if data.is_null() && capacity > 0 {
        return Err(Failure::null(name));
    }
    check_length(capacity, name)?;
    if length.is_null() {
        return Err(Failure::null(length_name));
    }
    if !length.is_aligned() {
        return Err(Failure::misaligned(length_name));
    }
    Ok(Output { data, capacity, length, name })
}

/// Checks an optional out-parameter.
///
/// # Safety
/// As [`place`].
pub unsafe fn optional_place<T>(pointer: *mut T, name: &'static str) -> Outcome<Option<Place<T>>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: as the caller promises.
    unsafe { place(pointer, name) }.map(Some)
}
