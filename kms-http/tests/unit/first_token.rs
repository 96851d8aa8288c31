#![allow(clippy::unwrap_used)]

use kms_lib::Config;

use super::*;

/// The name and the content of every file in a folder.
fn files(folder: &Path) -> Vec<(String, String)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(path).unwrap()))
        .collect()
}

#[tokio::test]
async fn only_the_node_that_creates_the_first_token_writes_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::new(format!("sqlite:{}", folder.path().join("kms.db").display())).root_key_bytes([7; 32]);
    let kms = Kms::open(config).await.unwrap();
    let (own, shared) = (folder.path().join("other"), folder.path().join("state"));

    // A token file of an earlier store at the same place.
    make_parent(&shared.join("token")).unwrap();
    write_new(&shared.join("token"), b"old").unwrap();
    assert!(write_first_token(&kms, "admin", &shared.join("token")).await.unwrap());
    let made = files(&shared);
    let token = &made[0].1;
    assert_eq!(made.len(), 1, "{made:?}");
    assert_eq!(kms.authenticate(token).await.unwrap().principal(), "admin");

    // Nodes that start later write no token, neither to the same file nor to their own.
    assert!(!write_first_token(&kms, "admin", &shared.join("token")).await.unwrap());
    assert_eq!(files(&shared), made);
    assert!(!write_first_token(&kms, "admin", &own.join("token")).await.unwrap());
    assert_eq!(files(&own), []);
    kms.close().await.unwrap();
}
