//! The work of the items of a call, once it is decided that they may be done.

use std::sync::Arc;

use futures_util::future::join_all;

use super::Session;
use super::call_scratch::CallScratch;
use super::item::{Decided, Item, Ruling, Usable, Worked};
use super::job::{Compute, Job, Product, Step};
use super::refusal::refusal;
use super::signatures::{Verifying, verify_all};
use crate::types::error::{Error, ErrorCode, Result};
use crate::workers::Length;

/// So many operations with RSA private keys are one piece of work: some four milliseconds.
const COMPUTED_TOGETHER: usize = 8;

/// How far an item has come on the task of its caller.
enum Begun<'a> {
    Done(Worked),
    /// An RSA private key has to work; with this version.
    Left(Compute, u32),
    Verifying(Verifying<'a>),
}

impl Session {
    /// Does the work of all items. What takes the CPU for long is done on other threads, of a batch on all of them.
    ///
    /// With `chained`, items come in pairs: the second encrypts what the first decrypted.
    pub(super) async fn work_all(&self, items: &[Item<'_>], decided: &[Arc<Decided>], chained: bool) -> Vec<Worked> {
        let encryptions = items.iter().filter(|item| matches!(item.job, Job::Encrypt(..))).count();
        let mut bench = CallScratch::new(&self.shared, self.actor.principal(), encryptions);
        if chained {
            let mut worked = Vec::with_capacity(items.len());
            for (items, decided) in items.chunks_exact(2).zip(decided.chunks_exact(2)) {
                // Both fail together: what was decrypted and could not be encrypted anew has not left.
                match work_pair(&mut bench, items, decided).await {
                    Ok((source, onto)) => worked.extend([Ok(source), Ok(onto)]),
                    Err(error) => worked.extend([Err(error.clone()), Err(error)]),
                }
                tokio::task::coop::consume_budget().await;
            }
            return worked;
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
            // A batch lets other tasks of this thread in between.
            tokio::task::coop::consume_budget().await;
        }
        let computed = compute_all(&bench, left).await;
        for (n, done) in computed.into_iter().chain(verify_all(&bench, verifying).await) {
            worked[n] = Some(done);
        }
        let unreached = || Err(Error::new(ErrorCode::Internal, "an operation without a result"));
        worked.into_iter().map(|done| done.unwrap_or_else(unreached)).collect()
    }
}

/// Computes what was left, several operations in one piece of work, and as many pieces at once as there are threads.
async fn compute_all(bench: &CallScratch<'_>, left: Vec<(usize, Compute, u32)>) -> Vec<(usize, Worked)> {
    let mut pieces = Vec::new();
    let mut left = left.into_iter().peekable();
    while left.peek().is_some() {
        let (mut places, mut computes) = (Vec::new(), Vec::new());
        for (n, compute, version) in left.by_ref().take(COMPUTED_TOGETHER) {
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

/// Decrypts the first item, and encrypts that as the second.
async fn work_pair(
    bench: &mut CallScratch<'_>,
    items: &[Item<'_>],
    decided: &[Arc<Decided>],
) -> Result<((Product, u32), (Product, u32))> {
    // Nothing is decrypted that may not be encrypted anew.
    if let Some(error) = decided.iter().find_map(|decided| decided.error()) {
        return Err(error);
    }
    let ([source, onto], [of_source, of_onto]) = (items, decided) else {
        return Err(Error::new(ErrorCode::Internal, "a pair of operations that is none"));
    };
    let opened = work(bench, source.job, of_source).await?;
    let sealed = match (&opened.0, onto.job) {
        (Product::Bytes(plaintext), Job::Encrypt(_, context)) => {
            work(bench, Job::Encrypt(plaintext, context), of_onto).await?
        }
        _ => return Err(Error::new(ErrorCode::Internal, "a pair of operations that do not fit")),
    };
    Ok((opened, sealed))
}

/// The work of one item.
async fn work(bench: &mut CallScratch<'_>, job: Job<'_>, decided: &Decided) -> Worked {
    match begin(bench, job, decided).await {
        Begun::Done(done) => done,
        Begun::Left(compute, version) => bench.run(Length::Short, compute).await.map(|product| (product, version)),
        Begun::Verifying(_) => Err(Error::new(ErrorCode::Internal, "a verification in a pair of operations")),
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
