//! Verifying signatures with public keys, newest version first, on other threads in pieces of a few milliseconds.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;

use super::call_scratch::CallScratch;
use super::item::{Usable, Worked};
use super::job::{Product, digest_of};
use crate::catalog::PublicKey;
use crate::crypto::provider::SignatureAlgorithm;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;
use crate::types::key::KeyVersion;
use crate::types::limits::RSA_2048_BYTES;
use crate::workers::Length;

/// The number of versions that are tried in one round, after the newest.
const ROUND: usize = 16;
/// The number of public key operations in one piece of work: about two milliseconds.
const TRIED_TOGETHER: usize = 64;

/// A signature, and the versions that may have made it.
pub(super) struct Verifying<'a> {
    digest: [u8; 32],
    signature: Arc<[u8]>,
    algorithm: SignatureAlgorithm,
    /// The versions to try, newest first.
    versions: &'a [Usable],
    /// Whether the key has versions beyond those that one call tries.
    has_more: bool,
    tried: usize,
}

/// A signature with the public keys to try in one round.
struct Attempt {
    digest: [u8; 32],
    signature: Arc<[u8]>,
    algorithm: SignatureAlgorithm,
    keys: Arc<[PublicKey]>,
}

impl<'a> Verifying<'a> {
    pub async fn new(
        payload: &[u8],
        signature: &[u8],
        algorithm: SignatureAlgorithm,
        versions: &'a [Usable],
        has_more: bool,
    ) -> Self {
        // A signature of another length cannot be valid: it is neither tried against keys nor copied.
        let can_be_one = signature.len() == RSA_2048_BYTES;
        let (digest, signature) = match can_be_one {
            true => (digest_of(payload).await, Arc::from(signature)),
            false => ([0; 32], Arc::default()),
        };
        Self { digest, signature, algorithm, versions, has_more, tried: 0 }
    }

    /// The versions to try in the next round.
    fn next(&self) -> &'a [Usable] {
        let width = if self.tried == 0 { 1 } else { ROUND };
        let rest = if self.signature.is_empty() { &[] } else { &self.versions[self.tried..] };
        &rest[..width.min(rest.len())]
    }

    /// The result if none of the versions made the signature. It names the newest version that was tried.
    fn fail(&self) -> Worked {
        if self.has_more && !self.signature.is_empty() {
            let text = format!(
                "none of the key's {} newest usable versions made the signature, and a call does not try more; name \
                 the version",
                self.versions.len()
            );
            return Err(Error::invalid(text));
        }
        let newest = self.versions.first().map(|usable| usable.version.version);
        newest
            .map(|version| (Product::Valid(false), version))
            .ok_or_else(|| Error::new(ErrorCode::Internal, "a signature without a version to verify it with"))
    }
}

/// Verifies signatures, each with its index among the items of the call.
pub(super) async fn verify_all<'a>(
    bench: &CallScratch<'_>,
    signatures: Vec<(usize, Verifying<'a>)>,
) -> Vec<(usize, Worked)> {
    let mut worked = Vec::with_capacity(signatures.len());
    let mut open = signatures;
    while !open.is_empty() {
        let (mut attempts, mut tried) = (Vec::new(), Vec::new());
        let mut loaded: HashMap<(KeyId, u32, usize), Arc<[PublicKey]>> = HashMap::new();
        for (n, verifying) in open {
            let versions = verifying.next();
            if versions.is_empty() {
                worked.push((n, verifying.fail()));
                continue;
            }
            match keys_of(bench, versions, &mut loaded).await {
                Ok(keys) => {
                    let Verifying { digest, algorithm, .. } = verifying;
                    attempts.push(Attempt { digest, signature: Arc::clone(&verifying.signature), algorithm, keys });
                    tried.push((n, verifying));
                }
                Err(error) => worked.push((n, Err(error))),
            }
        }
        open = Vec::new();
        for ((n, mut verifying), found) in tried.into_iter().zip(try_all(bench, attempts).await) {
            match found {
                Ok(Some(place)) => {
                    let version = verifying.versions[verifying.tried + place].version.version;
                    worked.push((n, Ok((Product::Valid(true), version))));
                }
                Ok(None) => {
                    verifying.tried += verifying.next().len();
                    open.push((n, verifying));
                }
                Err(error) => worked.push((n, Err(error))),
            }
        }
    }
    worked
}

/// The public keys of versions of one key; signatures with the same key share them.
async fn keys_of(
    bench: &CallScratch<'_>,
    versions: &[Usable],
    loaded: &mut HashMap<(KeyId, u32, usize), Arc<[PublicKey]>>,
) -> Result<Arc<[PublicKey]>> {
    let versions: Vec<&KeyVersion> = versions.iter().map(|usable| &usable.version).collect();
    let range = versions.first().map(|newest| (newest.key_id, newest.version, versions.len()));
    if let Some(keys) = range.and_then(|range| loaded.get(&range)) {
        return Ok(Arc::clone(keys));
    }
    let keys: Arc<[PublicKey]> = bench.public_keys(&versions).await?.into();
    loaded.extend(range.map(|range| (range, Arc::clone(&keys))));
    Ok(keys)
}

/// Tries one round. Returns for each attempt which of its keys made the signature, if any.
async fn try_all(bench: &CallScratch<'_>, attempts: Vec<Attempt>) -> Vec<Result<Option<usize>>> {
    if let [attempt] = attempts.as_slice()
        && attempt.keys.len() == 1
    {
        // About 20 us, less than the trip to another thread and back.
        return vec![Ok(attempt.find())];
    }
    let mut pieces: Vec<Vec<Attempt>> = Vec::new();
    let mut operations = TRIED_TOGETHER;
    for attempt in attempts {
        if operations >= TRIED_TOGETHER {
            pieces.push(Vec::new());
            operations = 0;
        }
        operations += attempt.keys.len();
        if let Some(piece) = pieces.last_mut() {
            piece.push(attempt);
        }
    }
    let pieces = pieces.into_iter().map(|piece| async move {
        let count = piece.len();
        let work = move || Ok(piece.iter().map(Attempt::find).collect::<Vec<Option<usize>>>());
        match bench.run(Length::Short, work).await {
            Ok(found) => found.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(error); count],
        }
    });
    join_all(pieces).await.into_iter().flatten().collect()
}

impl Attempt {
    fn find(&self) -> Option<usize> {
        self.keys.iter().position(|key| key.verify_digest(self.algorithm, &self.digest, &self.signature))
    }
}
