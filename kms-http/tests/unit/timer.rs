//! Unit tests of `src/request/timer.rs`.

#![allow(clippy::unwrap_used)]

use super::*;
use std::future::{pending, ready};
use std::pin::pin;
use std::time::Duration;

const SHORT: Duration = Duration::from_millis(30);
const LONG: Duration = Duration::from_secs(600);

/// Waits for a deadline that is this far away. The test does not end if the deadline is missed.
async fn wait(timer: &Timer, after: Duration) {
    let begun = Instant::now();
    timer.timeout_at(begun + after, pin!(pending::<()>())).await.unwrap_err();
    assert!(begun.elapsed() >= after, "{:?}", begun.elapsed());
}

/// Sets the timer to a deadline, which is then met.
async fn set(timer: &Timer, after: Duration) {
    timer.timeout_at(Instant::now() + after, pin!(tokio::task::yield_now())).await.unwrap();
}

#[tokio::test]
async fn the_timer_fires_although_it_was_set_to_a_later_deadline() {
    let timer = Timer::default();
    for _ in 0..3 {
        set(&timer, LONG).await;
        wait(&timer, SHORT).await;
    }
}

#[tokio::test]
async fn a_deadline_is_not_over_when_the_timer_fires_for_an_earlier_one() {
    let timer = Timer::default();
    for times in 2..5 {
        set(&timer, SHORT).await;
        wait(&timer, times * SHORT).await;
    }
}

#[tokio::test]
async fn the_earlier_of_two_deadlines_ends_first() {
    for (outer, inner) in [(LONG, SHORT), (SHORT, LONG)] {
        let (timer, now) = (Timer::default(), Instant::now());
        let within = pin!(wait(&timer, inner));
        assert_eq!(timer.timeout_at(now + outer, within).await.is_ok(), inner < outer);
    }
}

#[tokio::test]
async fn what_is_ready_has_its_result_even_after_the_deadline() {
    let (timer, now) = (Timer::default(), Instant::now());
    assert_eq!(timer.timeout_at(now, pin!(ready(7))).await.unwrap(), 7);
}

#[tokio::test]
async fn time_ends_a_future_that_uses_up_the_budget_of_its_task() {
    let timer = Timer::default();
    let busy = async {
        loop {
            tokio::task::consume_budget().await;
        }
    };
    timer.timeout_at(Instant::now() + SHORT, pin!(busy)).await.unwrap_err();
}

#[tokio::test]
async fn hyper_waits_with_the_same_timer() {
    let (timer, begun) = (Timer::default(), Instant::now());
    set(&timer, LONG).await;
    let mut sleep = rt::Timer::sleep(&timer, LONG);
    rt::Timer::reset(&timer, &mut sleep, (begun + SHORT).into_std());
    sleep.await;
    assert!(begun.elapsed() >= SHORT);
}
