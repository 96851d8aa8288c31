//! Tests of invalid input: the error has the right code, nothing is lost, and the store remains usable.

use crate::common::{Place, admin, check_usable, code};
use kms_lib::SignatureAlgorithm::RsaPkcs1Sha256;
use kms_lib::{
    AuditQuery, Config, Context, DecryptItem, EncryptItem, ErrorCode, GrantFilter, KeyFilter, KeyUpdate, Kms, NewGrant,
    NewKey, NewToken, Paging, Permission, Role,
};

#[tokio::test]
async fn names_types_and_periods() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let long = "n".repeat(129);
    let huge = "n".repeat(10_000);
    for name in [
        "",
        " ",
        " a",
        "a ",
        "a\nb",
        "a\0b",
        "a\u{202e}b",
        "a\u{200b}b",
        "\u{feff}",
        "a\u{7f}",
        long.as_str(),
        huge.as_str(),
        "00000000-0000-4000-8000-000000000000",
        "ABCDEF00-0000-4000-8000-000000000000",
    ] {
        assert_eq!(code(session.create_key(NewKey::aes(name)).await), ErrorCode::InvalidName, "{name:?}");
    }
    session.create_key(NewKey::aes("n".repeat(128))).await.unwrap();
    session.create_key(NewKey::aes("Schlüssel für 鍵 🔑")).await.unwrap();
    for json in [
        r#"{"name":"x","type":"DES","purpose":"ENCRYPTION"}"#,
        r#"{"name":"x","type":"AES256_GCM","purpose":"FUN"}"#,
        r#"{"name":"x","type":"AES256_GCM","purpose":"ENCRYPTION","rotationPeriodDays":-1}"#,
        r#"{"name":"x","type":"AES256_GCM","purpose":"ENCRYPTION","rotationPeriodDays":1e99}"#,
        r#"{"name":"x","type":"AES256_GCM","purpose":"ENCRYPTION","color":"red"}"#,
        r#"{"name":"x","type":"AES256_GCM"}"#,
    ] {
        assert!(serde_json::from_str::<NewKey>(json).is_err(), "{json}");
    }
    for days in [0, 36_501, u32::MAX] {
        let new = NewKey::aes("p").rotation_period_days(days);
        assert_eq!(code(session.create_key(new).await), ErrorCode::InvalidArgument);
    }
    let new = NewKey::aes("p").grace_period_days(36_501);
    assert_eq!(code(session.create_key(new).await), ErrorCode::InvalidArgument);
    let signing = NewKey::new("s", kms_lib::KeyType::Aes256Gcm, kms_lib::KeyPurpose::Signing);
    assert_eq!(code(session.create_key(signing).await), ErrorCode::WrongPurpose);
    assert_eq!(code(session.create_key(NewKey::aes("*")).await), ErrorCode::InvalidName);
    for metadata in [
        serde_json::json!("text"),
        serde_json::json!([1]),
        serde_json::json!({"a": "x".repeat(17_000)}),
        serde_json::json!({"a": 1u64 << 60}),
        serde_json::json!({"a\0": 1}),
        // Numbers that cannot be stored exactly are refused in any notation, not rounded.
        serde_json::json!({"a": [1e17]}),
        serde_json::from_str(r#"{"a":{"b":123456789012345678901234567890}}"#).unwrap(),
        serde_json::from_str(r#"{"a":-9007199254740992}"#).unwrap(),
        // Values that would be read back as something else, or not at all.
        serde_json::Value::Object([("$serde_json::private::RawValue".to_owned(), "[]".into())].into_iter().collect()),
        (0..40).fold(serde_json::json!({}), |inner, _| serde_json::json!({ "a": inner })),
    ] {
        let new = NewKey::aes("m").metadata(metadata);
        assert_eq!(code(session.create_key(new).await), ErrorCode::InvalidArgument);
    }
    session.create_key(NewKey::aes("k")).await.unwrap();
    assert_eq!(code(session.update_key("k", KeyUpdate::new()).await), ErrorCode::InvalidArgument);
    let update = KeyUpdate::new().rotation_period_days(0);
    assert_eq!(code(session.update_key("k", update).await), ErrorCode::InvalidArgument);
    for days in [0, 6, 36_501] {
        assert_eq!(code(session.schedule_deletion("k", Some(days)).await), ErrorCode::InvalidArgument);
    }
    assert_eq!(code(session.list_keys(&KeyFilter::new(), &Paging::new(0)).await), ErrorCode::InvalidArgument);
    assert_eq!(code(session.list_keys(&KeyFilter::new(), &Paging::new(1_001)).await), ErrorCode::InvalidArgument);
    let all = AuditQuery::new();
    assert_eq!(code(session.list_audit(&all, &Paging::new(1_001)).await), ErrorCode::InvalidArgument);
    for cursor in ["", "x", "-1", "99999999999999999999", "1 "] {
        let paging = Paging::new(10).after(cursor);
        assert_eq!(code(session.list_audit(&all, &paging).await), ErrorCode::InvalidArgument, "{cursor:?}");
        assert_eq!(code(session.list_versions("k", &paging).await), ErrorCode::InvalidArgument, "{cursor:?}");
        assert_eq!(code(session.list_grants(&GrantFilter::new(), &paging).await), ErrorCode::InvalidArgument);
        assert_eq!(code(session.list_credentials(&paging).await), ErrorCode::InvalidArgument, "{cursor:?}");
    }
    // Forged cursors: an empty page or a valid one, never an error that reveals internals.
    assert!(
        session.list_keys(&KeyFilter::new(), &Paging::new(10).after("zzzz\u{10ffff}")).await.unwrap().items.is_empty()
    );
    let last = Paging::default().after(u64::MAX.to_string());
    assert!(session.list_audit(&AuditQuery::new().oldest_first(), &last).await.unwrap().items.is_empty());
    assert!(session.list_audit(&AuditQuery::new(), &Paging::default().after("0")).await.unwrap().items.is_empty());
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

#[tokio::test]
async fn ciphertexts() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("a")).await.unwrap();
    session.create_key(NewKey::aes("b")).await.unwrap();
    session.create_key(NewKey::rsa_encryption("r")).await.unwrap();
    let context = Context::from([("a", "1")]);
    for key in ["a", "r"] {
        let good = session.encrypt(key, b"plaintext", &context).await.unwrap().ciphertext;
        for cut in 0..good.len() {
            let error = code(session.decrypt(&good[..cut], &context).await);
            let expected = [ErrorCode::InvalidCiphertext, ErrorCode::DecryptionFailed];
            assert!(expected.contains(&error), "cut to {cut}: {error}");
        }
        for at in 0..good.len() {
            let mut altered = good.clone();
            altered[at] ^= 0x40;
            let error = code(session.decrypt(&altered, &context).await);
            let expected = match at {
                0 | 1 => [ErrorCode::InvalidCiphertext; 2],
                // The altered key id or version number does not exist.
                2..18 => [ErrorCode::KeyNotFound; 2],
                18..22 => [ErrorCode::VersionNotFound, ErrorCode::InvalidCiphertext],
                _ => [ErrorCode::DecryptionFailed; 2],
            };
            assert!(expected.contains(&error), "{key} flipped at {at}: {error}");
        }
        let mut longer = good.clone();
        longer.push(0);
        assert!(session.decrypt(&longer, &context).await.is_err());
        let mut future = good.clone();
        future[0] = 9;
        let error = session.decrypt(&future, &context).await.unwrap_err();
        assert!(error.code() == ErrorCode::InvalidCiphertext && error.message().contains("newer"), "{error}");
        assert_eq!(code(session.decrypt(&good, &Context::new()).await), ErrorCode::DecryptionFailed);
        assert_eq!(code(session.decrypt_with("b", &good, &context).await), ErrorCode::InvalidCiphertext);
        session.decrypt_with(key, &good, &context).await.unwrap();
    }
    // A ciphertext of one key with the id of another, and of one version with the number of another.
    let mut of_a = session.encrypt("a", b"x", &context).await.unwrap().ciphertext;
    let of_b = session.encrypt("b", b"x", &context).await.unwrap().ciphertext;
    session.rotate_key("a", None).await.unwrap();
    let mut swapped = of_a.clone();
    swapped[2..18].copy_from_slice(&of_b[2..18]);
    assert_eq!(code(session.decrypt(&swapped, &context).await), ErrorCode::DecryptionFailed);
    of_a[21] = 2;
    assert_eq!(code(session.decrypt(&of_a, &context).await), ErrorCode::DecryptionFailed);
    assert_eq!(code(session.decrypt(&[], &context).await), ErrorCode::InvalidCiphertext);
    assert_eq!(code(session.decrypt(&[0xff; 100_000], &context).await), ErrorCode::InvalidCiphertext);
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

#[tokio::test]
async fn contexts_and_sizes() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("a")).await.unwrap();
    session.create_key(NewKey::rsa_encryption("r")).await.unwrap();
    session.create_key(NewKey::rsa_signing("s")).await.unwrap();
    let many: Context = (0..10_000).map(|i| (format!("n{i}"), "v")).collect();
    let long = Context::from([("n", "v".repeat(8 * 1024))]);
    let nul = Context::from([("n", "a\0b")]);
    for context in [&many, &long, &nul] {
        assert_eq!(code(session.encrypt("a", b"x", context).await), ErrorCode::InvalidArgument);
        assert_eq!(code(session.decrypt(b"x", context).await), ErrorCode::InvalidArgument);
        assert_eq!(code(session.generate_data_key("a", 32, context).await), ErrorCode::InvalidArgument);
    }
    // The largest allowed context; it is too long to be recorded itself.
    let most: Context = (0..64).map(|i| (format!("{i:04}"), "v".repeat(124))).collect();
    let sealed = session.encrypt("a", b"x", &most).await.unwrap();
    session.decrypt(&sealed.ciphertext, &most).await.unwrap();
    assert!(crate::common::last_record(&session).await.details.unwrap().contains("contextSha256"));

    let none = Context::new();
    let sealed = session.encrypt("r", &[1; 190], &none).await.unwrap();
    assert_eq!(session.decrypt(&sealed.ciphertext, &none).await.unwrap().plaintext.len(), 190);
    assert_eq!(code(session.encrypt("r", &[1; 191], &none).await), ErrorCode::PlaintextTooLong);
    let huge = vec![0; (64 << 20) + 1];
    assert_eq!(code(session.encrypt("a", &huge, &none).await), ErrorCode::PlaintextTooLong);
    assert_eq!(code(session.sign("s", &huge, RsaPkcs1Sha256).await), ErrorCode::InvalidArgument);
    let sealed = session.encrypt("a", &huge[1..], &none).await.unwrap();
    assert_eq!(session.decrypt(&sealed.ciphertext, &none).await.unwrap().plaintext.len(), 64 << 20);
    for key in ["a", "r"] {
        let sealed = session.encrypt(key, b"", &none).await.unwrap();
        assert!(session.decrypt(&sealed.ciphertext, &none).await.unwrap().plaintext.is_empty());
    }
    let signed = session.sign("s", b"", RsaPkcs1Sha256).await.unwrap();
    assert!(session.verify("s", b"", &signed.signature, RsaPkcs1Sha256, None).await.unwrap().valid);
    for signature in [&b""[..], b"x", &[0; 256], &[0xff; 10_000]] {
        assert!(!session.verify("s", b"", signature, RsaPkcs1Sha256, None).await.unwrap().valid);
    }
    let verified = session.verify("s", b"", &signed.signature, RsaPkcs1Sha256, Some(7)).await;
    assert_eq!(code(verified), ErrorCode::VersionNotFound);
    assert_eq!(code(session.sign_with_version("s", 7, b"", RsaPkcs1Sha256).await), ErrorCode::VersionNotCurrent);
    for bytes in [0, 1_025, usize::MAX] {
        assert_eq!(code(session.generate_data_key("a", bytes, &none).await), ErrorCode::InvalidArgument);
    }
    assert_eq!(code(session.decrypt_oaep("r", 1, &[0; 10]).await), ErrorCode::DecryptionFailed);
    assert_eq!(code(session.decrypt_oaep("a", 1, &[0; 256]).await), ErrorCode::WrongKeyType);

    // Batches with too few or too many items; one invalid item does not affect the others.
    let item = |key: &str, plaintext: &'static [u8]| EncryptItem::new(key, plaintext, Context::new());
    assert_eq!(code(session.encrypt_batch(&[]).await), ErrorCode::InvalidArgument);
    let too_many: Vec<EncryptItem<'_>> = (0..1_001).map(|_| item("a", b"x")).collect();
    assert_eq!(code(session.encrypt_batch(&too_many).await), ErrorCode::InvalidArgument);
    let bad_context = EncryptItem::new("a", b"x", many);
    let mixed = [item("a", b"1"), item("missing", b"2"), bad_context, item("s", b"3"), item("r", b"4")];
    let results = session.encrypt_batch(&mixed).await.unwrap();
    let codes: Vec<Option<ErrorCode>> =
        results.iter().map(|result| result.as_ref().err().map(kms_lib::Error::code)).collect();
    let expected =
        [None, Some(ErrorCode::KeyNotFound), Some(ErrorCode::InvalidArgument), Some(ErrorCode::WrongPurpose), None];
    assert_eq!(codes, expected);
    let first = results[0].as_ref().unwrap();
    let items =
        [DecryptItem::new(&first.ciphertext, Context::new()), DecryptItem::new(b"garbage", Context::new()).key("a")];
    let results = session.decrypt_batch(&items).await.unwrap();
    assert_eq!(results[0].as_ref().unwrap().plaintext.as_slice(), b"1");
    assert_eq!(results[1].as_ref().unwrap_err().code(), ErrorCode::InvalidCiphertext);
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

#[tokio::test]
async fn root_keys() {
    let place = Place::new();
    crate::common::output::secret(b"correct horse battery sta");
    crate::common::output::secret(&[8; 32]);
    let open = |config: Config| async { Kms::open(config).await.map(|_| ()) };
    assert_eq!(code(open(Config::new(place.url())).await), ErrorCode::InvalidRootKey);
    for text in ["", "short", "base64:AAAA", "hex:zz", "file:/nowhere/at/all", "passphrase:short"] {
        assert_eq!(code(Config::new(place.url()).root_key(text).map(drop)), ErrorCode::InvalidRootKey);
    }
    assert!(!place.file().exists(), "a store was made without a root key");
    let kms = place.open().await;
    check_usable(&kms).await;
    kms.close().await.unwrap();
    let other = Config::new(place.url()).root_key_bytes([8; 32]);
    assert_eq!(code(open(other).await), ErrorCode::WrongRootKey);
    let passphrase = Config::new(place.url()).root_key("correct horse battery staple").unwrap();
    assert_eq!(code(open(passphrase.clone()).await), ErrorCode::WrongRootKey);

    let second = Place::new();
    let with = |text: &str| Config::new(second.url()).root_key(text).unwrap();
    let kms = Kms::open(with("correct horse battery staple")).await.unwrap();
    check_usable(&kms).await;
    kms.close().await.unwrap();
    assert_eq!(code(open(with("correct horse battery stable")).await), ErrorCode::WrongRootKey);
    assert_eq!(code(open(Config::new(second.url()).root_key_bytes([7; 32])).await), ErrorCode::WrongRootKey);
    let kms = Kms::open(with("passphrase:correct horse battery staple")).await.unwrap();
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

#[tokio::test]
async fn files() {
    let place = Place::new();
    let open = |config: Config| async { Kms::open(config).await.map(|_| ()) };
    let at = |path: std::path::PathBuf| Config::new(format!("sqlite:{}", path.display())).root_key_bytes([7; 32]);
    // A file that is not a database is refused and not changed.
    for content in [&b"this is not a database, but it is long enough to look like a file of one."[..], &[0xff; 8192]] {
        let path = place.folder.path().join("other");
        std::fs::write(&path, content).unwrap();
        assert_eq!(code(open(at(path.clone())).await), ErrorCode::StoreCorrupt);
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }
    assert_eq!(code(open(at(place.folder.path().to_owned())).await), ErrorCode::StoreUnavailable);
    let nowhere = place.folder.path().join("no").join("such").join("folder");
    assert_eq!(code(open(at(nowhere)).await), ErrorCode::StoreUnavailable);
    // An empty file counts as an empty store.
    std::fs::write(place.file(), b"").unwrap();
    let kms = place.open().await;
    check_usable(&kms).await;
    kms.close().await.unwrap();

    // A missing store is not created unless requested, and an existing one is opened.
    let other = Place::in_a_file();
    let error = open(other.config().make_store(false)).await.unwrap_err();
    assert!(error.code() == ErrorCode::StoreUnavailable && error.message().contains("there is no store"), "{error}");
    assert!(!other.file().exists());
    std::fs::write(other.file(), b"").unwrap();
    assert_eq!(code(open(other.config().make_store(false)).await), ErrorCode::StoreUnavailable);
    assert_eq!(other.file().metadata().unwrap().len(), 0);
    Kms::open(place.config().make_store(false)).await.unwrap().close().await.unwrap();

    // A store with a newer schema is not changed.
    let present = place.number("SELECT version FROM kms_schema").await;
    place.tamper("UPDATE kms_schema SET version = 999").await;
    assert_eq!(code(open(place.config()).await), ErrorCode::SchemaTooNew);
    place.tamper(&format!("UPDATE kms_schema SET version = {present}")).await;
    let kms = place.open().await;
    check_usable(&kms).await;
    kms.close().await.unwrap();

    // Another process has exclusive or shared use of the store.
    let kms = Kms::open(place.config().audit_ack(kms_lib::AuditAck::Queued)).await.unwrap();
    assert_eq!(code(open(place.config()).await), ErrorCode::StoreInUse);
    kms.close().await.unwrap();
    let kms = place.open().await;
    let queued = place.config().audit_ack(kms_lib::AuditAck::Queued);
    assert_eq!(code(open(queued).await), ErrorCode::StoreInUse);
    kms.close().await.unwrap();

    // The clock is earlier than the log's last record.
    place.pass_days(10);
    let kms = place.open().await;
    check_usable(&kms).await;
    place.pass_days(-10);
    assert_eq!(code(admin(&kms).create_key(NewKey::aes("past")).await), ErrorCode::ClockSkew);
    kms.close().await.unwrap();
    assert_eq!(code(open(place.config()).await), ErrorCode::ClockSkew);
    place.pass_days(10);
    let kms = place.open().await;
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

/// Names of keys and of principals follow the same rule, and principals are compared exactly.
#[tokio::test]
async fn principals_and_names_obey_one_rule() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let read = [Permission::Read];
    let grant = async |to: &str| {
        session.put_grant(NewGrant::new(to, Role::App).on_all_keys().allow(read)).await.map(|made| made.principal)
    };
    for hidden in [
        '\0',
        '\t',
        '\u{85}',
        '\u{ad}',
        '\u{34f}',
        '\u{61c}',
        '\u{115f}',
        '\u{1160}',
        '\u{180e}',
        '\u{200b}',
        '\u{200f}',
        '\u{2028}',
        '\u{2029}',
        '\u{202a}',
        '\u{202e}',
        '\u{2060}',
        '\u{2066}',
        '\u{206f}',
        '\u{3164}',
        '\u{fe0f}',
        '\u{feff}',
        '\u{ffa0}',
        '\u{fff9}',
        '\u{fffb}',
        '\u{e0001}',
        '\u{e0100}',
    ] {
        let text = format!("a{hidden}b");
        assert_eq!(code(session.create_key(NewKey::aes(&text)).await), ErrorCode::InvalidName, "{hidden:?}");
        assert_eq!(code(kms_lib::Actor::new(&text, Role::App)), ErrorCode::InvalidArgument, "{hidden:?}");
        assert_eq!(code(grant(&text).await), ErrorCode::InvalidArgument, "{hidden:?}");
        assert_eq!(
            code(session.list_grants(&GrantFilter::new().principal(&text), &Paging::new(10)).await),
            ErrorCode::InvalidArgument,
            "{hidden:?}"
        );
        assert_eq!(code(session.create_token(NewToken::new(&text, Role::App)).await), ErrorCode::InvalidArgument);
        assert_eq!(
            code(session.create_token(NewToken::new("t", Role::App).label(&text)).await),
            ErrorCode::InvalidArgument
        );
        assert_eq!(code(session.with_idempotency_key(&text)), ErrorCode::InvalidArgument);
        assert_eq!(code(crate::common::actor("a", Role::App).with_request_id(&text)), ErrorCode::InvalidArgument);
    }
    for taken in ["*", "scheduler", "system", "operator", "anonymous", "System", "OPERATOR", "", " a", "a "] {
        assert_eq!(code(kms_lib::Actor::new(taken, Role::Admin)), ErrorCode::InvalidArgument, "{taken:?}");
        assert_eq!(code(grant(taken).await), ErrorCode::InvalidArgument, "{taken:?}");
        assert_eq!(code(session.create_token(NewToken::new(taken, Role::Admin)).await), ErrorCode::InvalidArgument);
    }
    // Two spellings are two principals wherever a principal is named.
    for name in ["repo:a/b:ref:refs/heads/MAIN", "\u{212a}ate", "İbrahim", "Straße"] {
        assert_eq!(grant(name).await.unwrap(), name);
        assert_eq!(kms_lib::Actor::new(name, Role::App).unwrap().principal(), name);
        let folded = name.to_lowercase();
        assert_ne!(name, folded);
        kms.session(crate::common::actor(name, Role::App)).get_key("k").await.unwrap();
        let other = kms.session(crate::common::actor(&folded, Role::App));
        assert_eq!(code(other.get_key("k").await), ErrorCode::AccessDenied, "{name}");
        assert_eq!(
            session.list_grants(&GrantFilter::new().principal(name), &Paging::new(10)).await.unwrap().items.len(),
            1
        );
        assert!(
            session
                .list_grants(&GrantFilter::new().principal(&folded), &Paging::new(10))
                .await
                .unwrap()
                .items
                .is_empty()
        );
        let made = session.create_token(NewToken::new(name, Role::App)).await.unwrap();
        assert_eq!(kms.authenticate(&made.token).await.unwrap().principal(), name);
        let by = |actor: &str| AuditQuery::new().actor(actor);
        assert_eq!(session.list_audit(&by(&folded), &Paging::default()).await.unwrap().items.len(), 1);
        assert!(session.list_audit(&by(name), &Paging::default()).await.unwrap().items.is_empty());
    }
    assert_eq!(kms_lib::Actor::operator().principal(), "operator");
    kms.close().await.unwrap();
}
