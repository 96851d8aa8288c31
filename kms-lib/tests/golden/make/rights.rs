//! A store with grants and access tokens of every kind (conditional, delegated, withdrawn, expired and removed ones),
//! and a store with a quarantined row.

use kms_lib::{Conditions, Context, GrantId, NewGrant, NewKey, NewToken, Permission, Role};

use super::{Maker, ROOT_KEY};
use crate::common::actor;
use crate::facts::{Decision, RootKey, Token};

/// Makes the store. It is not closed.
pub async fn make() -> Maker {
    let root_key = RootKey::Local { generation: 1, key: ROOT_KEY.to_owned() };
    let mut maker = Maker::new(root_key, |config| config.root_key(ROOT_KEY).unwrap()).await;
    maker.session.create_key(NewKey::aes("users")).await.unwrap();
    tokens(&mut maker).await;
    grants(&maker).await;
    delegated(&maker).await;
    decisions(&mut maker);
    maker
}

/// Tokens that are valid, revoked, expired, and removed 30 days after their end.
async fn tokens(maker: &mut Maker) {
    let (session, place) = (maker.session.clone(), &maker.place);
    let mut made = Vec::new();
    let mut create = async |principal: &str, role, days: Option<i64>| {
        let expires_at = days.map(|days| place.now().plus_days(u32::try_from(days).unwrap()));
        let token = NewToken::new(principal, role).label(format!("a token of {principal}")).expires_at(expires_at);
        let created = session.create_token(token).await.unwrap();
        made.push(Token { token: created.token.to_string(), principal: principal.into(), role, valid: true });
        created.credential.id
    };
    for day in 1..=3 {
        create("removed", Role::App, Some(day)).await;
    }
    place.pass_days(40);
    maker.kms.run_scheduler().await.unwrap();
    create("expired", Role::App, Some(1)).await;
    place.pass_days(2);
    create("shop", Role::App, None).await;
    create("auditor", Role::Auditor, Some(3_650)).await;
    let revoked = create("former-admin", Role::Admin, None).await;
    session.revoke_credential(revoked).await.unwrap();
    for token in &mut made {
        token.valid = maker.kms.authenticate(&token.token).await.is_ok();
        crate::common::output::secret(token.token.as_bytes());
    }
    assert_eq!(made.iter().filter(|token| token.valid).count(), 2);
    maker.facts.tokens = made;
}

async fn put(maker: &Maker, principal: &str, permissions: &[Permission], conditions: Conditions) -> GrantId {
    let grant = NewGrant::new(principal, Role::App).on_key("users");
    let grant = grant.allow(permissions.iter().copied()).conditions(conditions);
    maker.session.put_grant(grant).await.unwrap().id
}

/// Grants with every condition, on a key and on all keys, in force and withdrawn.
async fn grants(maker: &Maker) {
    let now = maker.place.now();
    let encrypt = [Permission::Encrypt];
    let context = || Context::from([("table", "users"), ("tenant", "acme")]);
    let always = Conditions::new;
    put(maker, "before", &encrypt, always().not_after(now.plus_days(3_650))).await;
    put(maker, "too-late", &encrypt, always().not_after(now.plus_seconds(1))).await;
    put(maker, "too-early", &encrypt, always().not_before(now.plus_days(3_650))).await;
    let networks = ["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
    put(maker, "inside", &encrypt, always().source_ip(networks)).await;
    put(maker, "equal", &encrypt, always().encryption_context_equals(context())).await;
    put(maker, "subset", &encrypt, always().encryption_context_subset(Context::from([("tenant", "acme")]))).await;
    put(maker, "replaced", &encrypt, always()).await;
    put(maker, "replaced", &[Permission::Decrypt], always()).await;
    let withdrawn = put(maker, "withdrawn", &encrypt, always()).await;
    maker.session.revoke_grant(withdrawn).await.unwrap();
    let all = NewGrant::new("everything", Role::App).on_all_keys().allow(Permission::ALL.iter().copied());
    maker.session.put_grant(all).await.unwrap();
}

/// Grants that apps passed on; one of them was withdrawn with everything that was passed on through it.
async fn delegated(maker: &Maker) {
    let passes_on = [Permission::Encrypt, Permission::Grant];
    for (first, second) in [("passes-on", "received"), ("passed-on", "cascaded")] {
        let grant = put(maker, first, &passes_on, Conditions::new()).await;
        let app = maker.kms.session(actor(first, Role::App));
        let passed = NewGrant::new(second, Role::App).on_key("users").allow([Permission::Encrypt]);
        // The app may not read the key, so it gives the id.
        let key = maker.session.get_key("users").await.unwrap().id;
        app.put_grant(passed.on_key(key)).await.unwrap();
        if second == "cascaded" {
            maker.session.revoke_grant_cascading(grant).await.unwrap();
        }
    }
}

/// What the grants decide.
fn decisions(maker: &mut Maker) {
    let acme = Context::from([("table", "users"), ("tenant", "acme")]);
    let decide = |principal: &str, source_ip: &str, context: &Context, allowed| Decision {
        principal: principal.into(),
        source_ip: source_ip.into(),
        key: "users".into(),
        context: context.clone(),
        allowed,
    };
    let (here, elsewhere, none) = ("10.1.2.3", "192.0.2.1", Context::new());
    let mut decisions = vec![
        decide("inside", elsewhere, &none, false),
        decide("inside", "2001:db8::1", &none, true),
        decide("equal", here, &acme, true),
        decide("subset", here, &acme, true),
        decide("subset", here, &none, false),
    ];
    for (principal, allowed) in [
        ("before", true),
        ("too-late", false),
        ("too-early", false),
        ("inside", true),
        ("equal", false),
        ("replaced", false),
        ("withdrawn", false),
        ("everything", true),
        ("passes-on", true),
        ("received", true),
        ("passed-on", false),
        ("cascaded", false),
        ("nobody", false),
    ] {
        decisions.push(decide(principal, here, &none, allowed));
    }
    maker.facts.decisions = decisions;
}

/// A store in which an attacker altered two grants. One of them was repaired and released, the other one is still in
/// quarantine. It is not closed.
pub async fn quarantined() -> Maker {
    let root_key = RootKey::Local { generation: 1, key: ROOT_KEY.to_owned() };
    let mut maker = Maker::new(root_key, |config| config.root_key(ROOT_KEY).unwrap()).await;
    maker.session.create_key(NewKey::aes("users")).await.unwrap();
    maker.encrypt("users", &Context::new()).await;
    let set = |principal: &str, operations: &str| {
        format!("UPDATE grants SET allowed_ops = '{operations}' WHERE principal = '{principal}'")
    };
    for principal in ["released", "altered"] {
        put(&maker, principal, &[Permission::Encrypt], Conditions::new()).await;
        maker.place.tamper(&set(principal, "decrypt,encrypt")).await;
        maker.reopen(|config| config.root_key(ROOT_KEY).unwrap()).await;
        assert_eq!(maker.session.list_quarantine().await.unwrap().len(), 1);
        let repair = set(principal, "encrypt");
        if principal == "released" {
            maker.place.tamper(&repair).await;
            assert_eq!(maker.session.release_quarantine().await.unwrap().len(), 1);
        } else {
            maker.facts.repair = Some(repair);
        }
    }
    maker
}
