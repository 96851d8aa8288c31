//! Handles: the objects behind the opaque pointers of the header.
//!
//! Every handle begins with a tag that identifies its type. A pointer to a handle of another type, or to a freed
//! handle, is refused as long as its memory can be read; reading memory that was returned to the system remains
//! undefined.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::failure::{Failure, Outcome};

/// The tag of a handle that was freed.
const FREED: u64 = 0;

/// A type that the header declares as opaque.
pub trait Opaque: Sized {
    /// The content of a handle of this type.
    type Value;
    /// The tag that distinguishes handles of this type from all others. Not 0.
    const TAG: u64;
    /// The name of the type in the header.
    const NAME: &'static str;
    /// Whether the value has threads, file descriptors or locks that a forked child must not touch. A forked child
    /// leaks such a handle instead of freeing it.
    const BOUND_TO_PROCESS: bool;
}

/// Makes a tag for [`Opaque::TAG`] from eight characters.
pub const fn tag(text: &[u8; 8]) -> u64 {
    u64::from_le_bytes(*text)
}

/// The memory of a handle. `repr(C)` guarantees that the tag comes first.
#[repr(C)]
pub struct Handle<T> {
    tag: AtomicU64,
    process: u32,
    value: T,
}

/// Creates a handle, which belongs to the caller until it is freed.
pub fn new<O: Opaque>(value: O::Value) -> *mut O {
    let process = if O::BOUND_TO_PROCESS { std::process::id() } else { 0 };
    Box::into_raw(Box::new(Handle { tag: AtomicU64::new(O::TAG), process, value })).cast()
}

/// The value of a handle.
///
/// # Safety
/// `pointer` is NULL or points to a handle of any type that is not freed while `'a` lasts.
#[inline]
pub unsafe fn get<'a, O: Opaque>(pointer: *const O, name: &'static str) -> Outcome<&'a O::Value> {
    // SAFETY: as the caller promises.
    unsafe { checked(pointer, name) }.map(|handle| &handle.value)
}

/// The value of a handle, or `UsedAfterFork` in a process that was forked after the handle was created. For calls that
/// do not go through the service, which makes this check itself.
///
/// # Safety
/// As [`get`].
pub unsafe fn get_here<'a, O: Opaque>(pointer: *const O, name: &'static str) -> Outcome<&'a O::Value> {
    // SAFETY: as the caller promises.
    let handle = unsafe { checked(pointer, name) }?;
    if handle.process == std::process::id() { Ok(&handle.value) } else { Err(Failure::after_fork(O::NAME)) }
}

/// Frees a handle and sets the caller's pointer to NULL. NULL and a pointer to NULL are ignored.
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
        // SAFETY: `new` allocated it with `Box`, its tag says that it was not freed, and no other thread uses it.
        drop(unsafe { Box::from_raw(pointer.cast::<Handle<O::Value>>()) });
    }
    Ok(())
}

/// # Safety
/// As [`get`].
#[inline]
unsafe fn checked<'a, O: Opaque>(pointer: *const O, name: &'static str) -> Outcome<&'a Handle<O::Value>> {
    if pointer.is_null() {
        return Err(Failure::null(name));
    }
    let handle = pointer.cast::<Handle<O::Value>>();
    if !pointer.cast::<Handle<()>>().is_aligned() {
        return Err(Failure::wrong_handle(name, O::NAME));
    }
    // SAFETY: every handle begins with its tag, whatever its type; it is aligned.
    let tag = unsafe { &*pointer.cast::<AtomicU64>() }.load(Ordering::Relaxed);
    if tag != O::TAG || !handle.is_aligned() {
        return Err(Failure::wrong_handle(name, O::NAME));
    }
    // SAFETY: the tag says that it was created as this type.
    Ok(unsafe { &*handle })
}
