//! Helpers for tests with a current and a next root key.

use crate::common::Place;
use kms_lib::{Config, RootKeyJob, RootKeySource, RootKeyState, Session};

/// The root key of generation 2 in most tests.
pub const NEXT: [u8; 32] = [8; 32];

/// The source of the next root key.
pub fn next() -> RootKeySource {
    crate::common::output::secret(&NEXT);
    RootKeySource::from_bytes(NEXT)
}

/// A configuration with the current and the next root key.
pub fn both(place: &Place) -> Config {
    place.config().add_root_key_bytes(NEXT)
}

/// A configuration with the next root key alone.
pub fn only_next(place: &Place) -> Config {
    place.config().root_key_bytes(NEXT)
}

/// Adds a root key, wraps everything under it, and verifies the wrappings. Returns its generation.
pub async fn move_to(session: &Session, source: &RootKeySource) -> u32 {
    let added = session.add_root_key(source).await.unwrap();
    assert!(added.at_hand && added.state == RootKeyState::Active);
    assert_eq!(added.wrappings, 2, "the service's own keys are wrapped at once");
    let report = session.rewrap(&RootKeyJob::default()).await.unwrap();
    assert!(report.is_complete(), "{report:?}");
    let report = session.verify_root_key(added.generation, &RootKeyJob::default()).await.unwrap();
    assert!(report.is_complete() && report.done == report.total, "{report:?}");
    added.generation
}
