//! What every session looks at: keys, versions and grants as of a revision, held in memory, and unwrapped material.
//!
//! The revision is the sequence number of the record of the last change. Other processes move it; before a denial, a
//! not-found or a description is returned, and by the ledger under the head lock before anything is committed, the
//! image is brought up to the store's.

mod image;
mod material;
mod overlay;
mod refresh;

#[cfg(test)]
mod tests;

pub use image::Image;
pub use material::{MaterialCache, ReadyKey, run_blocking};
pub use overlay::Overlay;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::envelope::{Seals, row};
use crate::storage::tables::head;
use crate::storage::{Connection, Store};
use crate::types::change::Change;
use crate::types::error::Result;

/// The image, and how it is kept up to date.
pub struct Catalog {
    store: Arc<dyn Store>,
    seals: Seals,
    image: RwLock<Image>,
    /// Held while the image is brought up to date, so that callers who wait share one look at the store.
    refreshing: tokio::sync::Mutex<()>,
    /// How many looks at the store have begun.
    looks: AtomicU64,
}

impl Catalog {
    /// An empty catalog; [`Catalog::refresh`] fills it.
    pub fn new(store: Arc<dyn Store>, seals: Seals) -> Self {
        Self {
            store,
            seals,
            image: RwLock::new(Image::default()),
            refreshing: tokio::sync::Mutex::new(()),
            looks: AtomicU64::new(0),
        }
    }
    /// The image. Not to be held across an await.
    pub fn image(&self) -> RwLockReadGuard<'_, Image> {
        self.image.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn image_mut(&self) -> RwLockWriteGuard<'_, Image> {
        self.image.write().unwrap_or_else(PoisonError::into_inner)
    }
    /// The seals of this store.
    pub fn seals(&self) -> &Seals {
        &self.seals
    }

    /// Makes sure that the image is not older than this call: one look at the store serves all who wait.
    pub async fn ensure_fresh(&self) -> Result<()> {
        let begun = self.looks.load(Ordering::Acquire);
        let _alone = self.refreshing.lock().await;
        // A look that began after this call did, and is over now that the lock is free, has seen enough.
        if self.looks.load(Ordering::Acquire) > begun {
            return Ok(());
        }
        self.looks.fetch_add(1, Ordering::AcqRel);
        let mut connection = self.store.reader().await?;
        if head::revision(connection.as_mut()).await? <= self.image().revision() {
            return Ok(());
        }
        connection.begin_read().await?;
        let loaded = self.load(connection.as_mut()).await;
        connection.rollback().await?;
        loaded
    }

    /// Brings the image up to the store's revision, on a connection that already sees one state of the store.
    pub async fn refresh(&self, connection: &mut dyn Connection) -> Result<()> {
        let _alone = self.refreshing.lock().await;
        self.load(connection).await
    }

    async fn load(&self, connection: &mut dyn Connection) -> Result<()> {
        let known = self.image().revision();
        let revision = head::revision(connection).await?;
        if revision > known || known == 0 {
            let delta = refresh::read(connection, &self.seals, known).await?;
            delta.apply(&mut self.image_mut(), revision);
        }
        Ok(())
    }

    /// Applies changes that this process has committed.
    pub fn apply(&self, changes: &[Change], revision: u64) {
        let mut image = self.image_mut();
        for change in changes {
            image.apply(change);
        }
        image.advance(revision);
    }
}

/// A change's row in its unambiguous form.
pub fn change_row(change: &Change) -> Result<Vec<u8>> {
    Ok(match change {
        Change::InsertKey(key) | Change::UpdateKey(key) => row::key(key),
        Change::InsertVersion(version, _) | Change::UpdateVersion(version) | Change::EraseVersion(version) => {
            row::version(version)
        }
        Change::InsertGrant(grant) | Change::UpdateGrant(grant) => row::grant(grant)?,
        Change::InsertCredential(credential) | Change::UpdateCredential(credential) => row::credential(credential),
    })
}
