//! A store whose root key is in AWS KMS:
//!
//!     cargo run --release -p aws-root-key -- KEY [REGION]
//!
//! KEY is a key id, an ARN or an alias of a symmetric encryption key; the process needs `kms:Encrypt` and `kms:Decrypt`
//! on it. Credentials come from where the AWS SDK looks for them: environment, profile, web identity, instance
//! metadata.

#![allow(clippy::print_stdout, reason = "it shows what it does")]

use std::error::Error;
use std::path::Path;

use kms_lib::{Actor, AwsRootKey, Config, Context, ErrorCode, Kms, NewKey, Role};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let key = arguments.next().ok_or("name a key in AWS KMS: its id, its ARN or an alias")?;
    let mut root = AwsRootKey::new(key);
    if let Some(region) = arguments.next() {
        root = root.region(region);
    }
    if let Ok(endpoint) = std::env::var("KMS_AWS_ENDPOINT") {
        root = root.endpoint(endpoint);
    }
    let folder = std::env::temp_dir().join(format!("mini-kms-aws-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let done = tour(&folder.join("kms.db"), root).await;
    std::fs::remove_dir_all(&folder)?;
    done
}

/// Makes a store under this root key, and uses it.
pub async fn tour(file: &Path, root: AwsRootKey) -> Result<(), Box<dyn Error>> {
    // This line is all that differs from a local root key.
    let config = Config::new(format!("sqlite:{}", file.display())).aws_root_key(root);
    let kms = match Kms::open(config.clone()).await {
        Ok(kms) => kms,
        // Both errors name the key and the cause. The first may be temporary, the second needs an operator.
        Err(error) if error.code() == ErrorCode::RootKeyUnavailable => {
            return Err(format!("retry later: {error}").into());
        }
        Err(error) if error.code() == ErrorCode::RootKeyRefused => return Err(format!("check rights: {error}").into()),
        Err(error) => return Err(error.into()),
    };
    println!("opened      {}", file.display());

    // One Encrypt call: AWS KMS wraps the new key.
    let admin = kms.session(Actor::new("alice", Role::Admin)?);
    let users = admin.create_key(NewKey::aes("users")).await?;
    println!("created     {} ({})", users.name, users.key_type);

    // One Decrypt call for the first use, and none for the others until the cache lets go of the key.
    let context = Context::from([("table", "users"), ("row", "4711")]);
    let card = admin.encrypt("users", b"4111 1111 1111 1111", &context).await?;
    for _ in 0..1_000 {
        assert_eq!(admin.decrypt(&card.ciphertext, &context).await?.plaintext.as_slice(), b"4111 1111 1111 1111");
    }
    println!("decrypted   1,000 times");
    for calls in kms.telemetry().await?.root_keys {
        println!("calls       {} {}: {:?}", calls.provider, calls.operation.as_str(), calls.outcomes.get("ok"));
    }
    kms.close().await?;

    // Whoever has the file alone can open nothing in it.
    let local =
        Config::new(format!("sqlite:{}", file.display())).root_key("passphrase:correct horse battery staple")?;
    let refused = Kms::open(local).await.expect_err("another root key");
    println!("refused     {refused}");
    Ok(())
}
