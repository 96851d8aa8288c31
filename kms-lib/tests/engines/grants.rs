//! Tests of the origin of grants: a grant records its grantor and the grants it came through, is revoked with them by a
//! cascade, and can only be changed from above.

use crate::common::{Place, actor, admin, check_usable, code};
use Permission::{Create, Decrypt, Encrypt, Grant};
use kms_lib::{
    Context, ErrorCode, GrantDescription, GrantFilter, GrantId, GrantScope, KeyId, Kms, NewGrant, NewKey, Paging,
    Permission, Role, Session,
};

async fn put(session: &Session, principal: &str, key: KeyId, permissions: &[Permission]) -> GrantDescription {
    try_put(session, principal, key, permissions).await.unwrap()
}

async fn try_put(
    session: &Session,
    principal: &str,
    key: KeyId,
    permissions: &[Permission],
) -> kms_lib::Result<GrantDescription> {
    session.put_grant(NewGrant::new(principal, Role::App).on_key(key).allow(permissions.iter().copied())).await
}

fn app(kms: &Kms, principal: &str) -> Session {
    kms.session(actor(principal, Role::App))
}

async fn may_encrypt(kms: &Kms, principal: &str, key: KeyId) -> bool {
    match app(kms, principal).encrypt(key, b"x", &Context::new()).await {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.code(), ErrorCode::AccessDenied);
            false
        }
    }
}

/// A compromised app cannot keep permissions alive: a cascading revocation ends everything it passed on, on every node
/// and after a restart, and no delegate can revoke the permissions of its grantor.
#[tokio::test(flavor = "multi_thread")]
async fn a_cascade_ends_what_was_passed_on() {
    let place = Place::new();
    let (kms, other) = (place.open().await, place.open().await);
    let session = admin(&kms);
    let key = session.create_key(NewKey::aes("k")).await.unwrap().id;
    let shops = put(&session, "shop", key, &[Encrypt, Grant]).await;
    assert_eq!((shops.granted_by.as_str(), shops.granted_through.as_slice()), ("alice", &[][..]));
    let bobs = put(&app(&kms, "shop"), "bob", key, &[Encrypt, Grant]).await;
    assert_eq!((bobs.granted_by.as_str(), bobs.granted_through.as_slice()), ("shop", &[shops.id][..]));
    put(&app(&other, "bob"), "carol", key, &[Encrypt]).await;
    for (who, id) in [("bob", shops.id), ("carol", bobs.id), ("bob", bobs.id)] {
        assert_eq!(code(app(&kms, who).revoke_grant(id).await), ErrorCode::AccessDenied);
        assert_eq!(code(app(&kms, who).revoke_grant_cascading(id).await), ErrorCode::AccessDenied);
    }
    // A delegate that makes a grant for its own grantor does not replace that one's grant.
    assert_eq!(code(try_put(&app(&kms, "bob"), "shop", key, &[Encrypt]).await), ErrorCode::AccessDenied);
    assert_eq!(code(try_put(&app(&kms, "bob"), "bob", key, &[Encrypt]).await), ErrorCode::AccessDenied);
    assert!(may_encrypt(&kms, "shop", key).await);

    session.revoke_grant(shops.id).await.unwrap();
    for (who, expected) in [("shop", false), ("bob", true), ("carol", true)] {
        assert_eq!(may_encrypt(&other, who, key).await, expected, "{who}");
    }
    session.revoke_grant_cascading(shops.id).await.unwrap();
    for kms in [&kms, &other] {
        for who in ["shop", "bob", "carol"] {
            assert!(!may_encrypt(kms, who, key).await, "{who}");
        }
        assert_eq!(admin(kms).list_grants(&GrantFilter::new(), &Paging::new(10)).await.unwrap().items, []);
    }
    assert_eq!(code(session.revoke_grant_cascading(shops.id).await), ErrorCode::GrantNotFound);
    // A new grant to the same app does not restore what it had passed on.
    put(&session, "shop", key, &[Encrypt, Grant]).await;
    assert!(may_encrypt(&kms, "shop", key).await && !may_encrypt(&kms, "bob", key).await);
    check_usable(&kms).await;
    kms.close().await.unwrap();
    other.close().await.unwrap();
    let kms = place.open().await;
    assert!(!may_encrypt(&kms, "carol", key).await);
    kms.close().await.unwrap();
}

/// Grants of several grantors exist side by side, and an upsert replaces only the caller's own.
#[tokio::test(flavor = "multi_thread")]
async fn rights_are_the_union_over_grantors() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let key = session.create_key(NewKey::aes("k")).await.unwrap().id;
    for delegate in ["shop", "desk"] {
        put(&session, delegate, key, &[Encrypt, Decrypt, Grant]).await;
    }
    let of = |grants: Vec<GrantDescription>| -> Vec<(String, Vec<Permission>)> {
        let mut all: Vec<_> = grants.into_iter().map(|grant| (grant.granted_by, grant.allowed_ops)).collect();
        all.sort();
        all
    };
    put(&session, "bob", key, &[Decrypt]).await;
    put(&app(&kms, "shop"), "bob", key, &[Encrypt]).await;
    put(&app(&kms, "desk"), "bob", key, &[Decrypt]).await;
    let first = put(&app(&kms, "desk"), "bob", key, &[Encrypt, Decrypt]).await;
    let boss = kms.session(actor("boss", Role::Admin));
    put(&boss, "bob", key, &[Encrypt]).await;
    let listed = session.list_grants(&GrantFilter::new().principal("bob"), &Paging::new(10)).await.unwrap().items;
    let expected = [("boss", vec![Encrypt]), ("desk", vec![Encrypt, Decrypt]), ("shop", vec![Encrypt])];
    assert_eq!(of(listed), expected.map(|(who, permissions)| (who.to_owned(), permissions)));
    // One grant is revoked; the others remain.
    app(&kms, "desk").revoke_grant(first.id).await.unwrap();
    assert!(may_encrypt(&kms, "bob", key).await);
    assert_eq!(
        session.list_grants(&GrantFilter::new().principal("bob"), &Paging::new(10)).await.unwrap().items.len(),
        2
    );
    kms.close().await.unwrap();
}

/// The creator of a key gets its permissions from the service; an admin's grant replaces them.
#[tokio::test(flavor = "multi_thread")]
async fn an_admin_narrows_what_a_creator_got() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.put_grant(NewGrant::new("maker", Role::App).on_all_keys().allow([Create])).await.unwrap();
    let key = app(&kms, "maker").create_key(NewKey::aes("k")).await.unwrap().id;
    let grants = session.list_grants(&GrantFilter::new().principal("maker"), &Paging::new(10)).await.unwrap().items;
    assert_eq!(grants.iter().filter(|grant| grant.granted_by == "system").count(), 1);
    put(&session, "maker", key, &[Decrypt]).await;
    assert!(!may_encrypt(&kms, "maker", key).await);
    assert_eq!(code(app(&kms, "maker").revoke_grant(GrantId::random()).await), ErrorCode::AccessDenied);
    kms.close().await.unwrap();
}

/// A new grant to a delegate does not restore what it passed on through the former one.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_grant_does_not_revive_what_a_cascade_ended() {
    let place = Place::new();
    let (kms, other) = (place.open().await, place.open().await);
    let session = admin(&kms);
    let key = session.create_key(NewKey::aes("k")).await.unwrap().id;
    let shops = put(&session, "shop", key, &[Encrypt, Grant]).await;
    let former = put(&app(&kms, "shop"), "bob", key, &[Encrypt, Grant]).await;
    put(&app(&kms, "bob"), "carol", key, &[Encrypt]).await;
    session.revoke_grant_cascading(shops.id).await.unwrap();
    put(&session, "shop", key, &[Encrypt, Grant]).await;
    let shop = app(&other, "shop").with_idempotency_key("bob again").unwrap();
    let new = put(&shop, "bob", key, &[Encrypt]).await;
    assert_ne!(new.id, former.id);
    assert_eq!(put(&shop, "bob", key, &[Encrypt]).await, new);
    for kms in [&kms, &other] {
        assert!(may_encrypt(kms, "bob", key).await && !may_encrypt(kms, "carol", key).await);
        assert_eq!(
            admin(kms).list_grants(&GrantFilter::new().principal("bob"), &Paging::new(10)).await.unwrap().items,
            std::slice::from_ref(&new)
        );
    }
    check_usable(&kms).await;
    kms.close().await.unwrap();
    other.close().await.unwrap();
    let kms = place.open().await;
    assert!(may_encrypt(&kms, "bob", key).await && !may_encrypt(&kms, "carol", key).await);
    kms.close().await.unwrap();
}

async fn of_admin(session: &Session, principal: &str, key: KeyId) -> GrantId {
    let grants =
        session.list_grants(&GrantFilter::new().principal(principal), &Paging::new(1_000)).await.unwrap().items;
    let found = grants.into_iter().find(|grant| grant.key_id == GrantScope::Key(key) && grant.granted_by == "alice");
    found.unwrap().id
}

/// Two delegates with the same grantor may make grants to each other: each passes on only what does not come from the
/// other.
#[tokio::test(flavor = "multi_thread")]
async fn delegates_pass_on_what_does_not_come_from_each_other() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    // The choice among several grants depends on their random ids.
    for n in 0..8 {
        let key = session.create_key(NewKey::aes(format!("k{n}"))).await.unwrap().id;
        for delegate in ["bob", "dave"] {
            put(&session, delegate, key, &[Encrypt, Grant]).await;
        }
        put(&app(&kms, "bob"), "dave", key, &[Encrypt, Grant]).await;
        for (from, to) in [("dave", "bob"), ("bob", "dave"), ("dave", "bob")] {
            let made = put(&app(&kms, from), to, key, &[Encrypt, Grant]).await;
            assert_eq!(made.granted_through, [of_admin(&session, from, key).await]);
        }
        // Without a grant of its own, a delegate cannot pass on what came from the other one.
        session.revoke_grant(of_admin(&session, "dave", key).await).await.unwrap();
        assert_eq!(code(try_put(&app(&kms, "dave"), "bob", key, &[Encrypt]).await), ErrorCode::AccessDenied);
    }
    kms.close().await.unwrap();
}

/// A decision evaluates the grants of all grantors, so the number of grants by apps is limited; admins are exempt.
#[tokio::test(flavor = "multi_thread")]
async fn grants_of_apps_on_one_scope_are_limited() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let key = session.create_key(NewKey::aes("k")).await.unwrap().id;
    let most = kms_lib::limits::GRANTS_PER_SCOPE;
    let mut origins = Vec::new();
    for n in 0..=most {
        let delegate = format!("delegate-{n}");
        origins.push(put(&session, &delegate, key, &[Encrypt, Grant]).await.id);
        let made = try_put(&app(&kms, &delegate), "bob", key, &[Encrypt]).await;
        if n < most {
            made.unwrap();
        } else {
            assert_eq!(code(made), ErrorCode::LimitExceeded);
        }
    }
    // An app may replace its own grant, other principals have limits of their own, and an admin may always make grants.
    put(&app(&kms, "delegate-0"), "bob", key, &[Encrypt]).await;
    put(&app(&kms, "delegate-0"), "carol", key, &[Encrypt]).await;
    put(&session, "bob", key, &[Decrypt]).await;
    assert!(may_encrypt(&kms, "bob", key).await);
    // Grants that were revoked by a cascade make room for others.
    session.revoke_grant_cascading(origins[1]).await.unwrap();
    put(&app(&kms, &format!("delegate-{most}")), "bob", key, &[Encrypt]).await;
    let listed = session.list_grants(&GrantFilter::new().principal("bob"), &Paging::new(1_000)).await.unwrap().items;
    assert_eq!(listed.len(), most + 1);
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

/// Returns all pages of a list.
async fn pages<T, F: Future<Output = kms_lib::Result<kms_lib::Page<T>>>>(
    limit: usize,
    list: impl Fn(Paging) -> F,
) -> Vec<T> {
    let (mut paging, mut all) = (Paging::new(limit), Vec::new());
    loop {
        let page = list(paging.clone()).await.unwrap();
        assert!(page.items.len() <= limit);
        all.extend(page.items);
        match page.next_cursor {
            Some(cursor) => paging.cursor = Some(cursor),
            None => return all,
        }
    }
}

/// A list contains everything that matches its filter, in order, whatever the page size.
#[tokio::test(flavor = "multi_thread")]
async fn lists_are_complete_and_in_order() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let mut keys = Vec::new();
    for n in 0..12 {
        keys.push(session.create_key(NewKey::aes(format!("{}-{n}", ["a", "b"][n % 2]))).await.unwrap());
    }
    for (n, key) in keys.iter().enumerate() {
        let permissions: &[Permission] = if n % 3 == 0 { &[Encrypt] } else { &[Permission::Read] };
        put(&session, ["shop", "desk"][n / 6], key.id, permissions).await;
    }
    session.put_grant(NewGrant::new("shop", Role::App).on_all_keys().allow([Encrypt])).await.unwrap();
    session.put_grant(NewGrant::new("audit", Role::App).on_all_keys().allow([Permission::Read])).await.unwrap();
    let gone = put(&session, "shop", keys[8].id, &[Permission::Read]).await;
    session.revoke_grant(gone.id).await.unwrap();

    for (principal, prefix) in [("shop", ""), ("desk", ""), ("desk", "b"), ("audit", ""), ("audit", "a-1"), ("x", "")] {
        let is_listed = |n: usize| match principal {
            "audit" => true,
            "shop" => n / 6 == 0 && !n.is_multiple_of(3),
            "desk" => n / 6 == 1 && !n.is_multiple_of(3),
            _ => false,
        };
        let named = keys.iter().enumerate().filter(|(n, key)| is_listed(*n) && key.name.starts_with(prefix));
        let mut expected: Vec<String> = named.map(|(_, key)| key.name.clone()).collect();
        expected.sort();
        let reader = app(&kms, principal);
        for limit in [1, 2, 5, 100] {
            let filter = kms_lib::KeyFilter::new().name_prefix(prefix);
            let list = async |paging: Paging| reader.list_keys(&filter, &paging).await;
            let names: Vec<String> = pages(limit, list).await.into_iter().map(|key| key.name).collect();
            assert_eq!(names, expected, "{principal} {prefix} {limit}");
        }
    }

    let all = session.list_grants(&GrantFilter::new(), &Paging::new(1_000)).await.unwrap().items;
    assert!(all.len() == 14 && all.is_sorted_by_key(|grant| (grant.principal.clone(), grant.id)));
    let filters = [None, Some("shop"), Some("desk"), Some("nobody")]
        .map(|principal| principal.map_or(GrantFilter::new(), |principal| GrantFilter::new().principal(principal)));
    for filter in filters {
        let on_key = filter.clone().on_key(keys[3].id);
        for (filter, key) in
            [(filter.clone(), None), (on_key, Some(Some(keys[3].id))), (filter.on_all_keys(), Some(None))]
        {
            let is_listed = |grant: &&GrantDescription| {
                filter.principal.as_ref().is_none_or(|principal| *principal == grant.principal)
                    && key.is_none_or(|key| {
                        grant.key_id == GrantScope::AllKeys
                            || key.is_some_and(|key| grant.key_id == GrantScope::Key(key))
                    })
            };
            let expected: Vec<&GrantDescription> = all.iter().filter(is_listed).collect();
            for limit in [1, 3, 1_000] {
                let found = pages(limit, async |paging: Paging| session.list_grants(&filter, &paging).await).await;
                assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{filter:?} {limit}");
            }
        }
    }
    kms.close().await.unwrap();
}
