//! Tests of the documents: every link has a target, and the files and modules that they name exist.
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// All Markdown files of the repository.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["", "docs", "examples", "kms-lib", "kms-http", "kms-ffi", "kms-py", "tests", "tests/golden"] {
        let Ok(entries) = fs::read_dir(root().join(folder)) else { continue };
        found.extend(entries.map(|e| e.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "md")));
    }
    found
}

/// The targets of the links in a text, as written.
fn links(text: &str) -> Vec<&str> {
    text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target).collect()
}

/// The anchors of the headings in a text, as code forges generate them.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    headings.map(|h| h.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let documents = documents();
    assert!(documents.len() >= 8, "{documents:?}");
    let mut broken = Vec::new();
    for document in &documents {
        let text = fs::read_to_string(document).unwrap();
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if path.is_empty() { document.clone() } else { document.parent().unwrap().join(path).to_path_buf() };
            let has_anchor = || anchors(&fs::read_to_string(&target).unwrap()).iter().any(|known| known == anchor);
            if !target.exists() || !(anchor.is_empty() || has_anchor()) {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "broken links: {broken:#?}");
}

/// The modules that ARCHITECTURE.md names exist, in the crate of the section or in any crate.
#[test]
fn the_files_that_the_architecture_names_exist() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let crates = ["kms-lib/src", "kms-lib/src/storage", "kms-lib", "kms-http/src", "kms-ffi/src", "kms-py/src", ""];
    let words = text.split(|c: char| c.is_whitespace() || "`(),:".contains(c));
    let files: Vec<&str> = words.filter(|word| word.ends_with(".rs") && word.contains('/')).collect();
    assert!(files.len() > 20, "only {} files were found", files.len());
    for file in files {
        assert!(crates.iter().any(|folder| root().join(folder).join(file).exists()), "{file} is not there");
    }
}

#[test]
fn the_files_that_contributors_are_sent_to_exist() {
    let text = fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    let (_, table) = text.split_once("## Where to change what").unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).skip(2).collect();
    assert!(rows.len() >= 20, "{rows:?}");
    for row in rows {
        let first = row.split('|').nth(2).unwrap().trim();
        let path = first.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')).unwrap_or_else(|| panic!("{row}"));
        assert!(root().join(path).exists(), "{path} is not there: {row}");
    }
}
