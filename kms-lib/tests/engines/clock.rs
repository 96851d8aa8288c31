//! Tests of recovery from records that were written while a clock was ahead.

use std::time::Duration;

use crate::common::{Place, actor, admin, check_usable, code, last_record, whole_log};
use kms_lib::{
    Action, AuditAck, AuditQuery, Conditions, Context, ErrorCode, Kms, NewGrant, NewKey, Paging, Permission, Role,
    SchedulerConfig, Session, Timestamp,
};

const DAYS: i64 = 26_000;

async fn acknowledged(place: &Place) -> Kms {
    Kms::open(place.config().acknowledge_clock(place.now())).await.unwrap()
}

async fn count_acknowledgements(session: &Session) -> usize {
    let query = AuditQuery::new().action(Action::ClockAcknowledge);
    session.list_audit(&query, &Paging::default()).await.unwrap().items.len()
}

#[tokio::test]
async fn a_log_goes_on_once_it_is_acknowledged_that_a_clock_was_ahead() {
    let place = Place::new();
    let kms = place.open().await;
    let none = Context::new();
    admin(&kms).create_key(NewKey::aes("k")).await.unwrap();
    let before = admin(&kms).encrypt("k", b"before", &none).await.unwrap();
    kms.close().await.unwrap();

    place.pass_days(DAYS);
    let kms = place.open().await;
    admin(&kms).rotate_key("k", None).await.unwrap();
    let ahead = admin(&kms).encrypt("k", b"ahead", &none).await.unwrap();
    let last = last_record(&admin(&kms)).await.timestamp;
    kms.close().await.unwrap();
    place.pass_days(-DAYS);

    let error = Kms::open(place.config()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::ClockSkew);
    assert!(error.message().contains(&last.to_string()) && error.message().contains("acknowledge"), "{error}");

    let kms = acknowledged(&place).await;
    let session = admin(&kms);
    let record = last_record(&session).await;
    assert_eq!((record.action.as_str(), record.actor.as_str()), ("CLOCK_ACKNOWLEDGE", "system"));
    assert!(record.timestamp < last && record.details.unwrap().contains(&last.to_string()));
    assert_eq!(session.decrypt(&before.ciphertext, &none).await.unwrap().plaintext[..], b"before"[..]);
    assert_eq!(session.decrypt(&ahead.ciphertext, &none).await.unwrap().plaintext[..], b"ahead"[..]);
    check_usable(&kms).await;
    kms.ready().await.unwrap();
    kms.close().await.unwrap();

    // One acknowledgement is enough, and without anything to acknowledge, nothing is recorded.
    let kms = place.open().await;
    kms.close().await.unwrap();
    let kms = acknowledged(&place).await;
    let session = admin(&kms);
    assert_eq!(count_acknowledgements(&session).await, 1);
    assert!(session.verify_audit().await.unwrap().ok);
    assert!(session.verify_audit_incrementally().await.unwrap().ok);
    kms.close().await.unwrap();
}

/// Compares lists by all pairs of times with the whole log.
async fn check_searches(session: &Session, borders: &[Option<Timestamp>]) {
    let all = whole_log(session).await;
    for ascending in [true, false] {
        for (&since, &until) in borders.iter().flat_map(|since| borders.iter().map(move |until| (since, until))) {
            let fits = |t: Timestamp| since.is_none_or(|since| t >= since) && until.is_none_or(|until| t < until);
            let mut expected: Vec<u64> = all.iter().filter(|row| fits(row.timestamp)).map(|row| row.seq).collect();
            if !ascending {
                expected.reverse();
            }
            let mut query = AuditQuery::new();
            (query.oldest_first, query.since, query.until) = (ascending, since, until);
            let mut paging = Paging::new(50);
            let mut found = Vec::new();
            loop {
                let page = session.list_audit(&query, &paging).await.unwrap();
                found.extend(page.items.iter().map(|row| row.seq));
                paging.cursor = page.next_cursor;
                if paging.cursor.is_none() {
                    break;
                }
            }
            // Listing records nothing, so the result is the same as before.
            assert_eq!(found, expected, "{since:?} to {until:?}");
        }
    }
}

#[tokio::test]
async fn records_are_found_by_their_time_although_it_runs_backwards() {
    let place = Place::new();
    let mut borders = Vec::new();
    for (days, name) in [(0, "a"), (DAYS, "b"), (-DAYS, "c"), (1, "d")] {
        place.pass_days(days);
        let kms = acknowledged(&place).await;
        admin(&kms).create_key(NewKey::aes(name)).await.unwrap();
        borders.push(last_record(&admin(&kms)).await.timestamp);
        kms.close().await.unwrap();
    }
    let kms = place.open().await;
    let sealed = admin(&kms).encrypt("a", b"x", &Context::new()).await.unwrap();
    for _ in 0..150 {
        admin(&kms).decrypt(&sealed.ciphertext, &Context::new()).await.unwrap();
    }
    kms.close().await.unwrap();
    let borders: Vec<Option<Timestamp>> = borders.into_iter().map(Some).chain([None]).collect();
    // Searches by time depend neither on an index, whose rows can be deleted, nor on what is kept of a verification.
    for tampering in ["SELECT 1", "DELETE FROM audit_actors", "DELETE FROM meta"] {
        if tampering.ends_with("audit_actors") && !place.is_a_file() {
            continue;
        }
        place.tamper(tampering).await;
        let kms = place.open().await;
        check_searches(&admin(&kms), &borders).await;
        admin(&kms).verify_audit().await.unwrap();
        check_searches(&admin(&kms), &borders).await;
        kms.close().await.unwrap();
    }
    let kms = place.open().await;
    let session = admin(&kms);
    // Operations recorded while the clock was ahead do not count as those of the last day.
    assert!(session.metrics().await.unwrap().usage.encryptions_last24h <= 1);
    kms.close().await.unwrap();
}

/// Another process, such as the command line, acknowledges; the running service continues automatically.
#[tokio::test]
async fn a_service_that_runs_goes_on_when_another_process_acknowledges() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let app = kms.session(actor("app", Role::App));
    let not_after = last_record(&session).await.timestamp.plus_days(10);
    let conditions = Conditions::new().not_after(not_after);
    session
        .put_grant(NewGrant::new("app", Role::App).on_all_keys().allow([Permission::Encrypt]).conditions(conditions))
        .await
        .unwrap();
    app.encrypt("k", b"x", &Context::new()).await.unwrap();
    place.pass_days(DAYS);
    session.encrypt("k", b"x", &Context::new()).await.unwrap();
    assert_eq!(code(app.encrypt("k", b"x", &Context::new()).await), ErrorCode::AccessDenied);
    place.pass_days(-DAYS);
    assert_eq!(code(session.encrypt("k", b"x", &Context::new()).await), ErrorCode::ClockSkew);
    assert_eq!(code(kms.ready().await), ErrorCode::ClockSkew);

    // Of several concurrent attempts, one acknowledges.
    let opening = (0..6).map(|_| acknowledged(&place));
    for opened in futures_util::future::join_all(opening).await {
        opened.close().await.unwrap();
    }
    assert_eq!(count_acknowledgements(&session).await, 1);
    session.encrypt("k", b"x", &Context::new()).await.unwrap();
    app.encrypt("k", b"x", &Context::new()).await.unwrap();
    kms.ready().await.unwrap();
    assert!(session.verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

/// A backup made while the clock was ahead is restored where the high-water file has more records.
#[tokio::test]
async fn a_restore_and_a_clock_are_acknowledged_together() {
    let place = Place::in_a_file();
    let config = place.config().high_water(place.folder.path().join("high-water"));
    place.pass_days(DAYS);
    let kms = Kms::open(config.clone()).await.unwrap();
    admin(&kms).create_key(NewKey::aes("k")).await.unwrap();
    let backup = place.folder.path().join("backup.db");
    kms.session(actor("alice", Role::Admin)).backup(&backup).await.unwrap();
    check_usable(&kms).await;
    kms.close().await.unwrap();
    place.pass_days(-DAYS);
    std::fs::remove_file(place.file()).unwrap();
    Kms::restore(&config, &backup).await.unwrap();

    assert_eq!(code(Kms::open(config.clone()).await), ErrorCode::ClockSkew);
    assert_eq!(code(Kms::open(config.clone().acknowledge_restore(true)).await), ErrorCode::ClockSkew);
    // Nothing is written before both are acknowledged.
    assert_eq!(code(Kms::open(config.clone().acknowledge_clock(place.now())).await), ErrorCode::RestoreDetected);
    assert_eq!(code(Kms::open(config.clone()).await), ErrorCode::ClockSkew);
    let both = config.clone().acknowledge_clock(place.now()).acknowledge_restore(true);
    Kms::open(both).await.unwrap().close().await.unwrap();
    let kms = Kms::open(config).await.unwrap();
    check_usable(&kms).await;
    assert!(admin(&kms).verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

/// An acknowledgement needs the right time, and the statement about the head must be true.
#[tokio::test]
async fn an_acknowledgement_of_another_time_or_of_an_altered_head_is_none() {
    let place = Place::new();
    let kms = place.open().await;
    check_usable(&kms).await;
    kms.close().await.unwrap();
    // Without anything to acknowledge, the given time has no effect.
    let given = place.config().acknowledge_clock(Timestamp::from_micros(0));
    Kms::open(given.clone()).await.unwrap().close().await.unwrap();
    // This machine's clock is behind.
    place.pass_days(-400);
    let right = place.now().plus_days(400);
    assert_eq!(code(Kms::open(given).await), ErrorCode::InvalidArgument);
    assert_eq!(code(Kms::open(place.config().acknowledge_clock(right)).await), ErrorCode::InvalidArgument);
    place.pass_days(400);
    let seq = place.number("SELECT seq FROM audit_head").await;
    let time = place.number("SELECT timestamp FROM audit_head").await;
    let later = place.now().plus_days(4_000).micros();
    place.tamper(&format!("UPDATE audit_head SET timestamp = {later}")).await;
    let given = place.config().acknowledge_clock(place.now());
    assert_eq!(code(Kms::open(given.clone()).await), ErrorCode::IntegrityFailure);
    place.tamper(&format!("UPDATE audit_logs SET timestamp = {later} WHERE seq = {seq}")).await;
    assert_eq!(code(Kms::open(given.clone()).await), ErrorCode::IntegrityFailure);
    place.tamper(&format!("UPDATE audit_logs SET timestamp = {time} WHERE seq = {seq}")).await;
    place.tamper(&format!("UPDATE audit_head SET timestamp = {time}")).await;
    let kms = Kms::open(given).await.unwrap();
    assert_eq!(count_acknowledgements(&admin(&kms)).await, 0);
    kms.close().await.unwrap();
}

/// Dates written while the clock was ahead do not block later operations.
#[tokio::test]
async fn dates_of_a_clock_that_was_ahead() {
    let place = Place::new();
    let scheduler = SchedulerConfig::disabled().revoke_expired(true);
    let config = place.config().scheduler(scheduler);
    let none = Context::new();
    place.pass_days(DAYS);
    let kms = Kms::open(config.clone()).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("k").rotation_period_days(90)).await.unwrap();
    let sealed = session.encrypt("k", b"x", &none).await.unwrap();
    let once = session.with_idempotency_key("once").unwrap();
    assert_eq!(once.rotate_key("k", None).await.unwrap().current_version, 2);
    assert_eq!(once.rotate_key("k", None).await.unwrap().current_version, 2);
    kms.close().await.unwrap();

    place.pass_days(-DAYS);
    Kms::open(config.clone().acknowledge_clock(place.now())).await.unwrap().close().await.unwrap();
    let kms = Kms::open(config).await.unwrap();
    let session = admin(&kms);
    // The key is still rotated, and the request is neither executed twice nor answered from its idempotency record
    // indefinitely.
    let once = session.with_idempotency_key("once").unwrap();
    assert_eq!(once.rotate_key("k", None).await.unwrap().current_version, 2);
    assert_eq!(kms.run_scheduler().await.unwrap().rotated.len(), 1);
    assert!(kms.run_scheduler().await.unwrap().rotated.is_empty());
    place.pass_days(1);
    assert_eq!(once.rotate_key("k", None).await.unwrap().current_version, 4);
    assert_eq!(once.rotate_key("k", None).await.unwrap().current_version, 4);
    // A version in use is recognized as such.
    session.set_window("k", 1, Some(place.now().plus_days(7))).await.unwrap();
    place.pass_days(6);
    session.decrypt(&sealed.ciphertext, &none).await.unwrap();
    place.pass_days(2);
    assert!(kms.run_scheduler().await.unwrap().revoked.is_empty());
    assert!(session.verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

/// After a clock that was ahead, the last use of a version is the last one, not the one with the latest date.
#[tokio::test]
async fn the_last_use_after_a_clock_that_was_ahead() {
    let place = Place::new();
    let none = Context::new();
    place.pass_days(5);
    let kms = place.open().await;
    // More versions than the head has room for: the rows of some are written by statements of their own.
    let names: Vec<String> = (0..13).map(|n| format!("k{n}")).collect();
    for name in &names {
        admin(&kms).create_key(NewKey::aes(name)).await.unwrap();
    }
    let mut sealed = Vec::new();
    for name in &names {
        sealed.push(admin(&kms).encrypt(name.as_str(), b"x", &none).await.unwrap().ciphertext);
    }
    kms.close().await.unwrap();
    place.pass_days(-5);
    let kms = acknowledged(&place).await;
    let session = admin(&kms);
    let decryptions = sealed.iter().map(|sealed| session.decrypt(sealed, &none));
    assert!(futures_util::future::join_all(decryptions).await.iter().all(Result::is_ok));
    for name in &names {
        let used = session.get_version(name.as_str(), 1).await.unwrap().last_used_at;
        assert!(used.is_some_and(|used| used <= place.now()), "{name}: {used:?}");
    }
    kms.close().await.unwrap();
}

/// Times recorded while the clock was a few days ahead prove nothing about use, even after they have passed.
#[tokio::test]
async fn versions_in_use_are_not_revoked_by_doubtful_times() {
    for (ahead, revoked) in [(5, 0), (0, 1)] {
        let place = Place::new();
        let scheduler = SchedulerConfig::disabled().revoke_expired(true);
        let config = place.config().scheduler(scheduler);
        let none = Context::new();
        place.pass_days(ahead);
        let kms = Kms::open(config.clone()).await.unwrap();
        let session = admin(&kms);
        session.create_key(NewKey::aes("k").grace_period_days(7)).await.unwrap();
        let sealed = session.encrypt("k", b"x", &none).await.unwrap();
        session.rotate_key("k", None).await.unwrap();
        kms.close().await.unwrap();
        place.pass_days(-ahead);
        let kms = Kms::open(config.acknowledge_clock(place.now())).await.unwrap();
        let session = admin(&kms);
        for _ in 0..ahead.min(4) {
            place.pass_days(1);
            session.decrypt(&sealed.ciphertext, &none).await.unwrap();
        }
        // The job does not depend on an index, whose rows can be deleted.
        for _ in 0..150 {
            session.encrypt("k", b"x", &none).await.unwrap();
        }
        if place.is_a_file() {
            place.tamper("DELETE FROM audit_actors").await;
        }
        place.pass_days(9);
        assert_eq!(kms.run_scheduler().await.unwrap().revoked.len(), revoked, "{ahead}");
        // Later versions are treated as usual.
        session.rotate_key("k", None).await.unwrap();
        place.pass_days(9);
        assert_eq!(kms.run_scheduler().await.unwrap().revoked.len(), 1, "{ahead}");
        kms.close().await.unwrap();
    }
}

/// With early release of results, the acknowledgement is still in the log when opening is done.
#[tokio::test]
async fn an_acknowledgement_is_durable() {
    let place = Place::in_a_file();
    place.pass_days(DAYS);
    let kms = place.open().await;
    check_usable(&kms).await;
    kms.close().await.unwrap();
    place.pass_days(-DAYS);
    let refuse = "CREATE TRIGGER full BEFORE INSERT ON audit_logs BEGIN SELECT RAISE(ABORT, 'no'); END";
    place.tamper(refuse).await;
    let durable = place.config().acknowledge_clock(place.now());
    let queued = durable.clone().audit_ack(AuditAck::Queued);
    Kms::open(durable).await.unwrap_err();
    Kms::open(queued.clone()).await.unwrap_err();
    place.tamper("DROP TRIGGER full").await;
    let kms = Kms::open(queued).await.unwrap();
    assert_eq!(place.number("SELECT COUNT(*) FROM audit_logs WHERE action = 'CLOCK_ACKNOWLEDGE'").await, 1);
    kms.close().await.unwrap();
}

/// A store that is only read is not written, whatever is acknowledged.
#[tokio::test]
async fn backups_are_left_as_they_are() {
    let place = Place::in_a_file();
    place.pass_days(DAYS);
    let kms = place.open().await;
    check_usable(&kms).await;
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("backup.db");
    kms.session(actor("alice", Role::Admin)).backup(&backup).await.unwrap();
    kms.close().await.unwrap();
    place.pass_days(-DAYS);
    let before = std::fs::read(&backup).unwrap();
    let given = place.config().acknowledge_clock(place.now());
    Kms::verify_backup(&given, &backup).await.unwrap();
    let kms = Kms::open(given.clone()).await.unwrap();
    kms.session(actor("alice", Role::Admin)).compare_backup(&backup).await.unwrap();
    kms.close().await.unwrap();
    for _ in 0..5 {
        std::fs::remove_file(place.file()).unwrap();
        let report = Kms::restore(&given, &backup).await.unwrap();
        let kms = Kms::open(given.clone()).await.unwrap();
        assert_eq!(last_record(&admin(&kms)).await.seq, report.verification.size + 1);
        kms.close().await.unwrap();
    }
    assert!(std::fs::read(&backup).unwrap() == before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// Released results that cannot be logged because the clock was set back are reported.
#[tokio::test]
async fn closing_says_that_released_results_are_not_in_the_log() {
    let place = Place::in_a_file();
    let kms = Kms::open(place.config().audit_ack(AuditAck::Queued)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    // Results are released early again once the ledger is idle.
    session.encrypt("k", b"x", &Context::new()).await.unwrap();
    while last_record(&session).await.action != "ENCRYPT" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    place.pass_days(-1);
    session.encrypt("k", b"x", &Context::new()).await.unwrap();
    let error = kms.close().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::ClockSkew);
    assert!(error.message().contains("released results missing from the log: 1"), "{error}");
    place.pass_days(1);
    let kms = place.open().await;
    check_usable(&kms).await;
    kms.close().await.unwrap();
    // The same if the ledger has stopped; then no more results are released.
    let kms = Kms::open(place.config().audit_ack(AuditAck::Queued)).await.unwrap();
    let session = admin(&kms);
    // Nothing is released early until the ledger is idle.
    tokio::time::sleep(Duration::from_millis(200)).await;
    place.tamper("UPDATE audit_head SET timestamp = timestamp + 1").await;
    let mut released = 0;
    for _ in 0..5 {
        released += usize::from(session.encrypt("k", b"x", &Context::new()).await.is_ok());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(released, 1);
    let error = kms.close().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::IntegrityFailure);
    assert!(error.message().contains("released results missing from the log: 1"), "{error}");
}
