//! Handles: the objects behind the opaque pointers of the header.
//!
//! Every handle begins with a tag that names its type. A pointer to a handle of another type, or to one that was
//! freed, is refused as long as its memory can be read; reading memory that was given back remains the caller's fault.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::failure::{Failure, Outcome};

/// The tag of a handle that was freed.
const FREED: u64 = 0;

/// A type that is opaque in the header.
pub trait Opaque: Sized {
    /// The content of a handle of this type.
    type Value;
    /// Tells handles of this type from all others. Not 0.
    const TAG: u64;
    /// The type's name in the header.
    const NAME: &'static str;
    /// Whether the value has threads, file descriptors or locks that a forked child must not touch. Freeing such a
    /// handle in a forked child leaks it.
    const BOUND_TO_PROCESS: bool;
}

/// A tag for [`Opaque::TAG`]: eight characters.
pub const fn tag(text: &[u8; 8]) -> u64 {
    u64::from_le_bytes(*text)
}

/// The memory of a handle. `repr(C)`: the tag comes first, whatever the value is.
#[repr(C)]
pub struct Handle<T> {
    tag: AtomicU64,
    process: u32,
    value: T,
}

/// Makes a handle, which belongs to the caller until it is freed.
pub fn new<O: Opaque>(value: O::Value) -> *mut O {
    let process = if O::BOUND_TO_PROCESS { std::process::id() } else { 0 };
    Box::into_raw(Box::new(Handle { tag: AtomicU64::new(O::TAG), process, value })).cast()
}

/// The value of a handle.
///
/// # Safety
/// `pointer` is NULL or leads to a handle of any type that is not freed while `'a` lasts.
pub unsafe fn get<'a, O: Opaque>(pointer: *const O, name: &'static str) -> Outcome<&'a O::Value> {
    // SAFETY: as the caller promises.
    unsafe { checked(pointer, name) }.map(|handle| &handle.value)
}

/// The same, and `UsedAfterFork` in a process that was forked after the handle was made. For calls that do not go
/// through the service, which checks this itself.
///
/// # Safety
/// As [`get`].
pub unsafe fn get_here<'a, O: Opaque>(pointer: *const O, name: &'static str) -> Outcome<&'a O::Value> {
    // SAFETY: as the caller promises.
    let handle = unsafe { checked(pointer, name) }?;
    if handle.process == std::process::id() { Ok(&handle.value) } else { Err(Failure::after_fork(O::NAME)) }
}

/// Frees a handle and sets the caller's pointer to NULL. NULL, or a pointer to NULL, is left alone.
///
/// # Safety
/// `place` is NULL or can be read and written; it holds NULL or a pointer to a handle that no other thread uses.
pub unsafe fn free<O: Opaque>(place: *mut *mut O) -> Outcome<()> {
    if place.is_null() {
        return Ok(());
    }
    // SAFETY: not NULL, and the caller promises the rest.
    let pointer = unsafe { place.read() };
    if pointer.is_null() {
        return Ok(());
    }
    // SAFETY: as the caller promises.
    let handle = unsafe { checked(pointer, O::NAME) }?;
    let is_foreign = O::BOUND_TO_PROCESS && handle.process != std::process::id();
    // SAFETY: not NULL, and the caller promises that it can be written.
    unsafe { place.write(std::ptr::null_mut()) };
    if !is_foreign {
        handle.tag.store(FREED, Ordering::Relaxed);
        // SAFETY: `new` made it with `Box`, its tag says that it was not freed, and nobody else uses it.
        drop(unsafe { Box::from_raw(pointer.cast::<Handle<O::Value>>()) });
    }
    Ok(())
}

/// # Safety
/// As [`get`].
unsafe fn checked<'a, O: Opaque>(pointer: *const O, name: &'static str) -> Outcome<&'a Handle<O::Value>> {
    if pointer.is_null() {
        return Err(Failure::null(name));
    }
    let handle = pointer.cast::<Handle<O::Value>>();
    let wrong = || Failure::invalid(format!("{name} is not a handle of type {} that is in use", O::NAME));
    if !pointer.cast::<Handle<()>>().is_aligned() {
        return Err(wrong());
    }
    // SAFETY: every handle begins with its tag, whatever its type; it is aligned.
    let tag = unsafe { &*pointer.cast::<AtomicU64>() }.load(Ordering::Relaxed);
    if tag != O::TAG || !handle.is_aligned() {
        return Err(wrong());
    }
    // SAFETY: the tag says that it was made as this type.
    Ok(unsafe { &*handle })
}
