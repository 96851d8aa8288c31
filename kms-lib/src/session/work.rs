//! Performing the items of a call after they were permitted.

use std::sync::Arc;

use futures_util::future::join_all;
use smallvec::smallvec;

use super::Session;
use super::call_scratch::CallScratch;
use super::item::{Decided, Item, Ruling, Usable, Worked};
use super::job::{Compute, Job, Product, Step};
use super::refusal::refusal;
use super::signatures::{Verifying, verify_all};
use crate::ledger::Few;
use crate::types::error::{Error, ErrorCode, Result};
use crate::workers::Length;

/// The maximum number of RSA private key operations in one piece of work: a few milliseconds.
const COMPUTED_TOGETHER: usize = 8;

/// The state of an item after its part on the caller's task.
enum Begun<'a> {
    Done(Worked),
    /// An RSA private key operation is left to compute, with this version.
    Left(Compute, u32),
    Verifying(Verifying<'a>),
}

impl Session {
    /// Performs all items. Long computations run on other threads; those of a batch run on all of them.
    ///
    /// With `chained`, items come in pairs: the second encrypts the plaintext that the first decrypted.
    pub(super) async fn work_all(&self, items: &[Item<'_>], decided: &[Arc<Decided>], chained: bool) -> Few<Worked> {
        let encryptions = items.iter().filter(|item| matches!(item.job, Job::Encrypt(..))).count();
        let mut bench = CallScratch::new(&self.shared, self.actor.principal(), encryptions);
        if let ([item], [decided]) = (items, decided) {
            return smallvec![work(&mut bench, item.job, decided).await];
        }
        if chained {
            let mut worked = Vec::with_capacity(items.len());
            for (items, decided) in items.chunks_exact(2).zip(decided.chunks_exact(2)) {
                // Both fail together: a plaintext that could not be encrypted again is not returned.
                match work_pair(&mut bench, items, decided).await {
                    Ok((source, onto)) => worked.extend([Ok(source), Ok(onto)]),
                    Err(error) => worked.extend([Err(error.clone()), Err(error)]),
                }
                tokio::task::coop::consume_budget().await;
            }
            return worked.into();
        }
        let mut worked: Vec<Option<Worked>> = Vec::with_capacity(items.len());
        let (mut left, mut verifying) = (Vec::new(), Vec::new());
        for (n, (item, decided)) in items.iter().zip(decided).enumerate() {
            worked.push(match begin(&mut bench, item.job, decided).await {
                Begun::Done(done) => Some(done),
                Begun::Left(compute, version) => {
                    left.push((n, compute, version));
                    None
                }
                Begun::Verifying(signature) => {
                    verifying.push((n, signature));
                    None
                }
            });
            // A batch lets other tasks of this thread run in between.
            tokio::task::coop::consume_budget().await;
        }
        let computed = compute_all(&bench, left).await;
        for (n, done) in computed.into_iter().chain(verify_all(&bench, verifying).await) {
            worked[n] = Some(done);
        }
        worked.into_iter().map(|done| done.unwrap_or_else(|| Err(unreached()))).collect()
    }
}

fn unreached() -> Error {
    Error::new(ErrorCode::Internal, "an operation without a result")
}

/// Computes the remaining operations on all threads, several in one piece of work if there are more than threads.
async fn compute_all(bench: &CallScratch<'_>, left: Vec<(usize, Compute, u32)>) -> Vec<(usize, Worked)> {
    let mut pieces = Vec::new();
    let together = left.len().div_ceil(bench.threads()).clamp(1, COMPUTED_TOGETHER);
    let mut left = left.into_iter().peekable();
    while left.peek().is_some() {
        let (mut places, mut computes) = (Vec::new(), Vec::new());
        for (n, compute, version) in left.by_ref().take(together) {
            places.push((n, version));
            computes.push(compute);
        }
        let work = move || Ok(computes.into_iter().map(|compute| compute()).collect::<Vec<Result<Product>>>());
        pieces.push(async move { (places, bench.run(Length::Short, work).await) });
    }
    let mut worked = Vec::new();
    for (places, products) in join_all(pieces).await {
        let products = products.unwrap_or_else(|error| places.iter().map(|_| Err(error.clone())).collect());
        let each = places.into_iter().zip(products);
        worked.extend(each.map(|((n, version), product)| (n, product.map(|product| (product, version)))));
    }
    worked
}

/// Decrypts the first item, and encrypts the plaintext as the second.
async fn work_pair(
    bench: &mut CallScratch<'_>,
    items: &[Item<'_>],
    decided: &[Arc<Decided>],
) -> Result<((Product, u32), (Product, u32))> {
    // Nothing is decrypted that may not be encrypted again.
    if let Some(error) = decided.iter().find_map(|decided| decided.error()) {
        return Err(error);
    }
    let ([source, onto], [of_source, of_onto]) = (items, decided) else {
        return Err(Error::new(ErrorCode::Internal, "a pair of operations does not have two items"));
    };
    let opened = work(bench, source.job, of_source).await?;
    let sealed = match (&opened.0, onto.job) {
        (Product::Bytes(plaintext), Job::Encrypt(_, context)) => {
            work(bench, Job::Encrypt(plaintext, context), of_onto).await?
        }
        _ => return Err(Error::new(ErrorCode::Internal, "the operations of a pair do not fit together")),
    };
    Ok((opened, sealed))
}

/// Performs one item to its end.
async fn work(bench: &mut CallScratch<'_>, job: Job<'_>, decided: &Decided) -> Worked {
    match begin(bench, job, decided).await {
        Begun::Done(done) => done,
        Begun::Left(compute, version) => bench.run(Length::Short, compute).await.map(|product| (product, version)),
        Begun::Verifying(signature) => {
            let verified = verify_all(bench, vec![(0, signature)]).await;
            verified.into_iter().next().map_or_else(|| Err(unreached()), |(_, worked)| worked)
        }
    }
}

async fn begin<'a>(bench: &mut CallScratch<'_>, job: Job<'_>, decided: &'a Decided) -> Begun<'a> {
    let Ruling::Work { key_type, versions, has_more, .. } = &decided.ruling else {
        let unreached = || Error::new(ErrorCode::Internal, "neither work nor an error");
        return Begun::Done(Err(decided.error().unwrap_or_else(unreached)));
    };
    let Some(Usable { version, .. }) = versions.first() else {
        return Begun::Done(Err(refusal(ErrorCode::VersionNotFound)));
    };
    if let Job::Verify(payload, signature, algorithm) = job {
        return Begun::Verifying(Verifying::new(payload, signature, algorithm, versions, *has_more).await);
    }
    let step = match bench.ready(version, *key_type).await {
        Ok(ready) => job.begin(bench, &ready, version.material_id()).await,
        Err(error) => Err(error),
    };
    match step {
        Ok(Step::Done(product)) => Begun::Done(Ok((product, version.version))),
        Ok(Step::Left(compute)) => Begun::Left(compute, version.version),
        Err(error) => Begun::Done(Err(error)),
    }
}
