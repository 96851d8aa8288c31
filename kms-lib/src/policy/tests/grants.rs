//! Grants: scopes, conditions, withdrawal, and grants that apps pass on.

use std::sync::Arc;

use super::Cell::{self, No, Yes};
use super::{EARLIER, KEY, LATER, NOW, OTHER, Rows, admin, app, attempt, expect, grant, put_grant, rows};
use crate::policy::{decide, grantor};
use crate::types::actor::{Actor, Role};
use crate::types::attempt::{Attempt, Decision, Operation};
use crate::types::context::Context;
use crate::types::error::ErrorCode::{AccessDenied, GrantNotFound};
use crate::types::grant::{Conditions, Grant, GrantScope, Grantor, Permission, StoredConditions};
use crate::types::ids::GrantId;
use crate::types::key::{KeyPurpose, KeyState};

#[test]
fn scopes_withdrawals_and_conditions() {
    let encrypt = |context: Option<Context>, actor: Actor| Attempt {
        context: context.map(Arc::new),
        ..attempt(actor, Operation::Encrypt { version: 2 })
    };
    let with = |grants: Vec<Grant>| Rows { grants, ..rows(KeyPurpose::Encryption, KeyState::Enabled) };
    let one = |scope, conditions| with(vec![grant(scope, &[Permission::Encrypt], conditions)]);
    let none = Conditions::default();
    let plain = encrypt(Some(Context::new()), app());
    expect(&one(GrantScope::Key(KEY), none.clone()), &plain, Yes, "this key");
    expect(&one(GrantScope::Key(OTHER), none.clone()), &plain, No(AccessDenied), "another key");
    expect(&one(GrantScope::AllKeys, none.clone()), &plain, Yes, "all keys");
    let mut withdrawn = one(GrantScope::AllKeys, none.clone());
    withdrawn.grants[0].withdrawn_at = Some(EARLIER);
    expect(&withdrawn, &plain, No(AccessDenied), "withdrawn");
    let mut unknown = one(GrantScope::AllKeys, none.clone());
    unknown.grants[0].conditions = StoredConditions::from_json("{\"moonPhase\":\"full\"}");
    expect(&unknown, &plain, No(AccessDenied), "a condition that is not known");

    let at = |ip: &str| app().with_source_ip(ip.parse().unwrap());
    let tenant = |value: &str| Context::from([("tenant", value.to_owned())]);
    let both = Context::from([("tenant", "acme"), ("table", "users")]);
    let nets = |nets: &[&str]| Some(nets.iter().map(|net| net.parse().unwrap()).collect());
    let denied = No(AccessDenied);
    let equals = |context| Conditions { encryption_context_equals: Some(context), ..Conditions::default() };
    let subset = |context| Conditions { encryption_context_subset: Some(context), ..Conditions::default() };
    let from = |from: &[&str]| Conditions { source_ip: nets(from), ..Conditions::default() };
    #[rustfmt::skip]
    let cases: Vec<(Conditions, Attempt, Cell)> = vec![
        (Conditions { not_before: Some(NOW), ..none.clone() }, plain.clone(), Yes),
        (Conditions { not_before: Some(LATER), ..none.clone() }, plain.clone(), denied),
        (Conditions { not_after: Some(LATER), ..none.clone() }, plain.clone(), Yes),
        (Conditions { not_after: Some(NOW), ..none.clone() }, plain.clone(), denied),
        (from(&["10.0.0.0/8"]), encrypt(None, at("10.1.2.3")), Yes),
        (from(&["10.0.0.0/8"]), encrypt(None, at("::ffff:10.1.2.3")), Yes),
        (from(&["10.0.0.0/8"]), encrypt(None, at("11.1.2.3")), denied),
        (from(&["10.0.0.0/8", "fd00::/8"]), encrypt(None, at("fd00::1")), Yes),
        (from(&["0.0.0.0/0"]), plain.clone(), denied),
        (equals(tenant("acme")), encrypt(Some(tenant("acme")), app()), Yes),
        (equals(tenant("acme")), encrypt(Some(both.clone()), app()), denied),
        (equals(tenant("acme")), encrypt(None, app()), denied),
        (equals(Context::new()), encrypt(None, app()), denied),
        (subset(tenant("acme")), encrypt(Some(both.clone()), app()), Yes),
        (subset(tenant("evil")), encrypt(Some(both.clone()), app()), denied),
        (subset(Context::new()), encrypt(None, app()), denied),
        // All conditions must be met.
        (Conditions { not_after: Some(LATER), ..subset(tenant("evil")) }, encrypt(Some(both), app()), denied),
    ];
    for (conditions, attempt, cell) in cases {
        expect(&one(GrantScope::Key(KEY), conditions.clone()), &attempt, cell, &format!("{conditions:?}"));
    }
    // Of several grants the one that is valid longest counts, and the decision is valid until it ends.
    let ends = |end| grant(GrantScope::AllKeys, &[Permission::Encrypt], Conditions { not_after: end, ..none.clone() });
    let later = LATER.plus_days(1);
    let view = with(vec![ends(Some(LATER)), ends(Some(later))]);
    let Decision::Allowed { grant, valid_until } = decide(&view, &plain, NOW) else { panic!("denied") };
    assert_eq!((grant, valid_until), (Some(view.grants[1].id), Some(later)));
    let view = with(vec![ends(Some(LATER)), ends(None)]);
    assert!(matches!(decide(&view, &plain, NOW), Decision::Allowed { valid_until: None, .. }));
}

#[test]
fn an_app_passes_on_no_more_than_it_holds() {
    use Permission as P;
    let put = |permissions: &[P], conditions: Conditions| {
        attempt(app(), Operation::PutGrant { principal: "bob".into(), permissions: permissions.to_vec(), conditions })
    };
    let none = Conditions::default();
    let mut view = rows(KeyPurpose::Encryption, KeyState::Enabled);
    view.grants.push(grant(GrantScope::Key(KEY), &[P::Encrypt, P::Decrypt], none.clone()));
    expect(&view, &put(&[P::Encrypt], none.clone()), No(AccessDenied), "without the permission grant");
    view.grants.push(grant(GrantScope::Key(KEY), &[P::Grant], none.clone()));
    expect(&view, &put(&[P::Encrypt], none.clone()), Yes, "what one holds");
    expect(&view, &put(&[P::Encrypt, P::Decrypt, P::Grant], none.clone()), Yes, "all that one holds");
    expect(&view, &put(&[P::Encrypt, P::Sign], none.clone()), No(AccessDenied), "more than one holds");
    let on_all = Attempt { key: None, ..put(&[P::Encrypt], none.clone()) };
    expect(&view, &on_all, No(AccessDenied), "on more keys");
    let missing = Attempt { key: Some(OTHER), ..put(&[P::Encrypt], none.clone()) };
    expect(&view, &missing, No(AccessDenied), "on another key");

    // Conditions may be stricter, but not weaker.
    let nets = |net: &str| Some(vec![net.parse().unwrap()]);
    let acme = Context::from([("tenant", "acme")]);
    let users = Context::from([("tenant", "acme"), ("table", "users")]);
    let held = Conditions {
        not_before: Some(EARLIER),
        not_after: Some(LATER),
        source_ip: nets("10.0.0.0/8"),
        encryption_context_equals: None,
        encryption_context_subset: Some(acme.clone()),
    };
    let mut view = rows(KeyPurpose::Encryption, KeyState::Enabled);
    view.grants.push(grant(GrantScope::Key(KEY), &[P::Encrypt], held.clone()));
    view.grants.push(grant(GrantScope::Key(KEY), &[P::Grant], none.clone()));
    let stronger = [
        held.clone(),
        Conditions { not_before: Some(NOW), not_after: Some(NOW.plus_seconds(0)), ..held.clone() },
        Conditions { source_ip: nets("10.1.0.0/16"), ..held.clone() },
        Conditions { encryption_context_subset: Some(users.clone()), ..held.clone() },
        Conditions { encryption_context_subset: None, encryption_context_equals: Some(users), ..held.clone() },
    ];
    for conditions in stronger {
        expect(&view, &put(&[P::Encrypt], conditions), Yes, "no weaker");
    }
    let weaker = [
        none.clone(),
        Conditions { not_before: None, ..held.clone() },
        Conditions { not_after: None, ..held.clone() },
        Conditions { not_after: Some(LATER.plus_seconds(1)), ..held.clone() },
        Conditions { source_ip: nets("0.0.0.0/0"), ..held.clone() },
        Conditions { source_ip: nets("11.0.0.0/8"), ..held.clone() },
        Conditions { encryption_context_subset: None, ..held.clone() },
        Conditions { encryption_context_subset: Some(Context::new()), ..held.clone() },
        Conditions { encryption_context_subset: None, encryption_context_equals: Some(Context::new()), ..held },
    ];
    for conditions in weaker {
        expect(&view, &put(&[P::Encrypt], conditions), No(AccessDenied), "weaker");
    }
}

/// A grant that an app made through others.
fn passed_on(from: &str, to: &str, permissions: &[Permission], through: &[GrantId]) -> Grant {
    Grant {
        principal: to.into(),
        grantor: Grantor { principal: from.into(), role: Role::App, through: through.to_vec() },
        ..grant(GrantScope::Key(KEY), permissions, Conditions::default())
    }
}

fn named(principal: &str) -> Actor {
    Actor::new(principal, Role::App).unwrap()
}

fn withdraw(actor: Actor, id: GrantId, cascade: bool) -> Attempt {
    attempt(actor, Operation::WithdrawGrant { id, cascade })
}

/// alice (admin) -> shop -> bob -> carol; and dave, to whom alice gave the same as to shop.
fn chain() -> Rows {
    use Permission as P;
    let mut view = rows(KeyPurpose::Encryption, KeyState::Enabled);
    let all = [P::Encrypt, P::Grant];
    let shops = grant(GrantScope::Key(KEY), &all, Conditions::default());
    let bobs = passed_on("shop", "bob", &all, &[shops.id]);
    let carols = passed_on("bob", "carol", &[P::Encrypt], &[bobs.id]);
    let daves = Grant { principal: "dave".into(), ..grant(GrantScope::Key(KEY), &all, Conditions::default()) };
    view.grants = vec![shops, bobs, carols, daves];
    view
}

#[test]
fn only_those_above_a_grant_withdraw_it() {
    let view = chain();
    let [shops, bobs, carols, _] = [0, 1, 2, 3].map(|n| view.grants[n].id);
    for (who, id, cell) in [
        ("shop", shops, No(AccessDenied)),
        ("shop", bobs, Yes),
        ("shop", carols, Yes),
        ("bob", shops, No(AccessDenied)),
        ("bob", bobs, No(AccessDenied)),
        ("bob", carols, Yes),
        ("carol", carols, No(AccessDenied)),
        ("dave", bobs, No(AccessDenied)),
        ("dave", carols, No(AccessDenied)),
    ] {
        for cascade in [false, true] {
            expect(&view, &withdraw(named(who), id, cascade), cell, who);
        }
    }
    for id in [shops, bobs, carols] {
        expect(&view, &withdraw(admin(), id, false), Yes, "an admin");
    }
    expect(&view, &withdraw(admin(), GrantId::random(), false), No(GrantNotFound), "unknown");

    // Without the permission `grant`, an app cannot revoke even its own grants.
    let mut view = chain();
    view.grants[0].permissions = vec![Permission::Encrypt];
    expect(&view, &withdraw(named("shop"), bobs, false), No(AccessDenied), "without the permission grant");
}

#[test]
fn grants_that_were_passed_on_end_only_with_a_cascade() {
    let encrypt = |who| attempt(named(who), Operation::Encrypt { version: 2 });
    let mut view = chain();
    view.grants[0].withdrawn_at = Some(EARLIER);
    let shops = view.grants[0].id;
    for who in ["bob", "carol"] {
        expect(&view, &encrypt(who), Yes, who);
    }
    expect(&view, &withdraw(admin(), shops, false), No(GrantNotFound), "withdrawn before");
    expect(&view, &withdraw(admin(), shops, true), Yes, "what was passed on can still be ended");
    view.grants[0].cascade = true;
    expect(&view, &withdraw(admin(), shops, true), No(GrantNotFound), "withdrawn before with all");
    for (who, cell) in
        [("shop", No(AccessDenied)), ("bob", No(AccessDenied)), ("carol", No(AccessDenied)), ("dave", Yes)]
    {
        expect(&view, &encrypt(who), cell, who);
    }
    // A grant whose origin is missing allows nothing.
    let mut view = chain();
    view.grants.remove(0);
    for who in ["bob", "carol"] {
        expect(&view, &encrypt(who), No(AccessDenied), who);
    }
}

#[test]
fn an_app_cannot_pass_on_to_itself_upwards_or_in_long_chains() {
    use Permission as P;
    let put = |who: &str, to: &str| {
        let operation = Operation::PutGrant {
            principal: to.into(),
            permissions: vec![P::Encrypt],
            conditions: Conditions::default(),
        };
        attempt(named(who), operation)
    };
    let view = chain();
    expect(&view, &put("bob", "eve"), Yes, "down");
    expect(&view, &put("bob", "bob"), No(AccessDenied), "to itself");
    expect(&view, &put("bob", "shop"), No(AccessDenied), "upwards");
    assert_eq!(grantor(&view, &put("bob", "eve"), NOW).through, [view.grants[1].id]);
    assert_eq!(grantor(&view, &attempt(admin(), put_grant()), NOW).through, []);

    // A chain of 16 grants can be made and used, but not a longer one.
    let mut view = chain();
    view.grants.truncate(1);
    for n in 0..20 {
        let from = if n == 0 { "shop".to_owned() } else { format!("p{n}") };
        let to = format!("p{}", n + 1);
        let cell = if n < 16 { Yes } else { No(AccessDenied) };
        expect(&view, &put(&from, &to), cell, &format!("{n} times passed on before"));
        let through = [view.grants[view.grants.len() - 1].id];
        view.grants.push(passed_on(&from, &to, &[P::Encrypt, P::Grant], &through));
    }
    expect(&view, &attempt(named("p16"), Operation::Encrypt { version: 2 }), Yes, "at the end of the chain");
    expect(&view, &attempt(named("p17"), Operation::Encrypt { version: 2 }), No(AccessDenied), "beyond it");
}

#[test]
fn a_grant_through_several_grants_depends_on_each() {
    use Permission as P;
    let mut view = rows(KeyPurpose::Encryption, KeyState::Enabled);
    view.grants.push(grant(GrantScope::Key(KEY), &[P::Grant], Conditions::default()));
    view.grants.push(grant(GrantScope::AllKeys, &[P::Encrypt], Conditions::default()));
    view.grants.push(grant(GrantScope::Key(KEY), &[P::Decrypt], Conditions::default()));
    let operation = Operation::PutGrant {
        principal: "bob".into(),
        permissions: vec![P::Encrypt],
        conditions: Conditions::default(),
    };
    let mut expected = vec![view.grants[0].id, view.grants[1].id];
    expected.sort_unstable();
    let through = grantor(&view, &attempt(app(), operation), NOW).through;
    assert_eq!(through, expected);
    view.grants.push(passed_on("shop", "bob", &[P::Encrypt], &through));
    for n in 0..3 {
        let mut view = view.clone();
        view.grants[n].withdrawn_at = Some(EARLIER);
        view.grants[n].cascade = true;
        let cell = if n == 2 { Yes } else { No(AccessDenied) };
        expect(&view, &attempt(named("bob"), Operation::Encrypt { version: 2 }), cell, &n.to_string());
    }
}
