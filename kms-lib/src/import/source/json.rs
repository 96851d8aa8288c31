//! The files of an older version of Mini KMS on Node, which kept its data as JSON: `keys.json`, `key_versions.json`,
//! `grants.json` and `audit_logs.json`, each an array. They are small, and are read completely.
//!
//! A folder has all four files, or the log alone: a missing file would look like deleted keys or grants.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::rows::{
    AuditRow, GRANT_BYTES, ID_CHARS, KEY_BYTES, NAME_CHARS, PEM_CHARS, PRINCIPAL_CHARS, Repeated, SourceCounts,
    SourceGrant, SourceKey, SourceVersion, Table, VERSION_BYTES, WORD_CHARS, length_of,
};
use crate::audit::legacy::LegacyRow;
use crate::types::error::{Error, ErrorCode, Result};

/// The maximum size of a file, in bytes.
const FILE_BYTES: u64 = 256 * 1024 * 1024;
/// The files of a folder.
const FILES: [&str; 4] = ["keys.json", "key_versions.json", "grants.json", "audit_logs.json"];

/// The contents of the files, sorted by id.
#[derive(Default)]
pub struct JsonFiles {
    /// Whether there are files of keys and grants.
    has_keys: bool,
    keys: Vec<SourceKey>,
    versions: BTreeMap<(String, i64), SourceVersion>,
    grants: Vec<SourceGrant>,
    records: Vec<AuditRow>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct JsonKey {
    id: String,
    name: String,
    #[serde(rename = "type")]
    key_type: String,
    purpose: String,
    state: String,
    rotation_period_days: Option<i64>,
    grace_period_days: Option<i64>,
    created_at: String,
    metadata: Option<Box<RawValue>>,
    current_version: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct JsonVersion {
    id: String,
    key_id: String,
    version: i64,
    state: String,
    created_at: String,
    not_before: Option<String>,
    not_after: Option<String>,
    wrapped_material: Box<RawValue>,
    public_key_pem: Option<String>,
    grace_period_days: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct JsonGrant {
    id: String,
    principal: String,
    role: String,
    key_id: String,
    allowed_ops: Box<RawValue>,
    conditions: Option<Box<RawValue>>,
    created_at: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct JsonRecord {
    id: String,
    timestamp: String,
    actor: String,
    role: String,
    action: String,
    request_id: String,
    details: Option<Box<RawValue>>,
    key_id: Option<String>,
    key_version: Option<i64>,
    prev_hash: String,
    hash: String,
    status: String,
}

impl JsonFiles {
    /// Reads a folder with the files, or a log alone: in a folder, or as a file.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            let records = read(path)?.ok_or_else(|| missing(path, "there is no such file or folder"))?;
            return Self::default().with_records(records, path);
        }
        let [keys, versions, grants, log] = FILES.map(|name| path.join(name));
        let (keys, versions, grants, records) = (read(&keys)?, read(&versions)?, read(&grants)?, read(&log)?);
        let is_log = keys.is_none() && versions.is_none() && grants.is_none();
        let present = [keys.is_some(), versions.is_some(), grants.is_some(), records.is_some()];
        if is_log && records.is_none() {
            return Err(missing(path, "the folder has none of keys.json, grants.json and audit_logs.json"));
        }
        if let Some((name, _)) = FILES.iter().zip(present).find(|(_, is_there)| !is_there && !is_log) {
            let why = format!(
                "the folder has no {name}, so its rows would count as deleted; if that version never had any, put a \
                 file {name} with [] there"
            );
            return Err(missing(path, &why));
        }
        Self { has_keys: !is_log, ..Self::default() }
            .with_keys(keys.unwrap_or_default(), versions.unwrap_or_default(), path)?
            .with_grants(grants.unwrap_or_default(), path)?
            .with_records(records.unwrap_or_default(), path)
    }

    fn with_keys(mut self, keys: Vec<JsonKey>, versions: Vec<JsonVersion>, path: &Path) -> Result<Self> {
        self.keys = keys.into_iter().map(SourceKey::from).collect();
        sort(&mut self.keys, |key| &key.id, path)?;
        for version in versions {
            let place = (version.key_id.clone(), version.version);
            if self.versions.insert(place, version.into()).is_some() {
                return Err(malformed(path, "a version occurs twice"));
            }
        }
        Ok(self)
    }

    fn with_grants(mut self, grants: Vec<JsonGrant>, path: &Path) -> Result<Self> {
        self.grants = grants.into_iter().map(SourceGrant::from).collect();
        sort(&mut self.grants, |grant| &grant.id, path)?;
        Ok(self)
    }

    fn with_records(mut self, records: Vec<JsonRecord>, path: &Path) -> Result<Self> {
        self.records = records.into_iter().map(AuditRow::from).collect();
        sort(&mut self.records, |record| &record.row.id, path)?;
        Ok(self)
    }

    pub fn has_keys(&self) -> bool {
        self.has_keys
    }
    pub fn counts(&self) -> Result<SourceCounts> {
        Ok(SourceCounts {
            keys: self.keys.len() as u64,
            versions: self.versions.len() as u64,
            grants: self.grants.len() as u64,
            records: self.records.len() as u64,
        })
    }
    /// None: the files were read completely.
    pub fn without_snapshot(&self) -> Result<Vec<(String, String)>> {
        Ok(Vec::new())
    }
    /// Ids that differ in upper and lower case only. Files with two equal ones are refused.
    pub fn repeated(&self, table: Table) -> Result<Repeated> {
        let ids: Vec<String> = match table {
            Table::Keys => self.keys.iter().map(|key| key.id.to_lowercase()).collect(),
            Table::Grants => self.grants.iter().map(|grant| grant.id.to_lowercase()).collect(),
            Table::Versions => Vec::new(),
        };
        let (mut seen, mut repeated) = (HashSet::new(), Repeated::default());
        for id in ids.iter().filter(|id| !seen.insert(id.as_str())) {
            repeated.add(table, id, 0)?;
        }
        Ok(repeated)
    }
    pub fn keys(&self, after: Option<&str>, limit: usize) -> Result<Vec<SourceKey>> {
        Ok(page(&self.keys, |key| &key.id, after, limit))
    }
    pub fn versions(&self, key: &str, after: i64, limit: usize) -> Result<Vec<SourceVersion>> {
        let first = (key.to_owned(), after.saturating_add(1));
        let of_key = self.versions.range(first..).take_while(|((of, _), _)| of == key);
        Ok(of_key.take(limit).map(|(_, version)| version.clone()).collect())
    }
    pub fn grants(&self, after: Option<&str>, limit: usize) -> Result<Vec<SourceGrant>> {
        Ok(page(&self.grants, |grant| &grant.id, after, limit))
    }
    pub fn audit_rows(&self, after: Option<&str>, limit: usize) -> Result<Vec<AuditRow>> {
        Ok(page(&self.records, |record| &record.row.id, after, limit))
    }
    pub fn audit_rows_by_id(&self, ids: &[String]) -> Result<Vec<AuditRow>> {
        let wanted: HashSet<&String> = ids.iter().collect();
        Ok(self.records.iter().filter(|record| wanted.contains(&record.row.id)).cloned().collect())
    }
}

/// The array in a file; none if there is no such file.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<Vec<T>>> {
    // Opening a FIFO would wait for its other end, and a device may never end.
    let file = match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => return Err(missing(path, "it is not a regular file")),
        found => found.and_then(|_| File::open(path)),
    };
    let file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(missing(path, &error.to_string()).with_source(error)),
    };
    let bytes = file.metadata().map_err(|error| missing(path, &error.to_string()))?.len();
    if bytes > FILE_BYTES {
        let text = format!("{} has {bytes} bytes; at most {FILE_BYTES} are read", path.display());
        return Err(Error::new(ErrorCode::LimitExceeded, text));
    }
    // The file may grow while it is read.
    let rows = serde_json::from_reader(BufReader::new(file.take(FILE_BYTES)));
    rows.map(Some).map_err(|error| malformed(path, &describe(&error)))
}

/// Where and what kind the error is. Its own message quotes what stands there, and the file may have been named by
/// mistake and hold a secret.
fn describe(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        Category::Io => "it cannot be read",
        Category::Syntax => "it is not JSON",
        Category::Data => "this is not what such a file has",
        Category::Eof => "it ends too early",
    };
    format!("{what}, at line {} column {}", error.line(), error.column())
}

/// Sorts rows by their ids, which have the same limits as in a database.
fn sort<T>(rows: &mut [T], id: fn(&T) -> &str, path: &Path) -> Result<()> {
    if rows.iter().any(|row| id(row).chars().count() > ID_CHARS) {
        return Err(malformed(path, &format!("an id has more than {ID_CHARS} characters")));
    }
    rows.sort_by(|one, other| id(one).cmp(id(other)));
    match rows.windows(2).find(|pair| id(&pair[0]) == id(&pair[1])) {
        Some(pair) => Err(malformed(path, &format!("the id {:?} occurs twice", id(&pair[0])))),
        None => Ok(()),
    }
}

fn page<T: Clone>(rows: &[T], id: fn(&T) -> &str, after: Option<&str>, limit: usize) -> Vec<T> {
    let first = after.map_or(0, |after| rows.partition_point(|row| id(row) <= after));
    rows[first..].iter().take(limit).cloned().collect()
}

fn missing(path: &Path, why: &str) -> Error {
    Error::new(ErrorCode::InvalidConfiguration, format!("the source {} cannot be read: {why}", path.display()))
}

fn malformed(path: &Path, why: &str) -> Error {
    let text = format!("the source {} does not hold the data of Mini KMS on Node: {why}", path.display());
    Error::new(ErrorCode::InvalidConfiguration, text)
}

/// The beginning of a text: no more of it is read from a database either.
fn cut(mut text: String, chars: usize) -> String {
    if let Some((at, _)) = text.char_indices().nth(chars) {
        text.truncate(at);
    }
    text
}

/// JSON text as it stands in a file; `null` counts as absent.
fn json_text(raw: Option<Box<RawValue>>) -> Option<String> {
    raw.map(|raw| raw.get().to_owned()).filter(|text| text != "null")
}

impl From<JsonKey> for SourceKey {
    fn from(key: JsonKey) -> Self {
        let metadata = json_text(key.metadata);
        Self {
            id: key.id,
            name: cut(key.name, NAME_CHARS),
            key_type: cut(key.key_type, WORD_CHARS),
            purpose: cut(key.purpose, WORD_CHARS),
            state: cut(key.state, WORD_CHARS),
            rotation_period_days: key.rotation_period_days,
            grace_period_days: key.grace_period_days,
            created_at: cut(key.created_at, WORD_CHARS),
            metadata_bytes: length(&metadata),
            metadata: metadata.filter(|text| text.len() as u64 <= KEY_BYTES),
            current_version: key.current_version,
        }
    }
}

impl From<JsonVersion> for SourceVersion {
    fn from(version: JsonVersion) -> Self {
        let material = version.wrapped_material.get();
        Self {
            id: cut(version.id, ID_CHARS + 1),
            version: version.version,
            state: cut(version.state, WORD_CHARS),
            created_at: cut(version.created_at, WORD_CHARS),
            not_before: version.not_before.map(|time| cut(time, WORD_CHARS)),
            not_after: version.not_after.map(|time| cut(time, WORD_CHARS)),
            wrapped_material: if material.len() as u64 <= VERSION_BYTES { material.to_owned() } else { String::new() },
            material_bytes: material.len() as u64,
            public_key_pem: version.public_key_pem.map(|pem| cut(pem, PEM_CHARS)),
            grace_period_days: version.grace_period_days,
        }
    }
}

impl From<JsonGrant> for SourceGrant {
    fn from(grant: JsonGrant) -> Self {
        let conditions = json_text(grant.conditions);
        let bytes = grant.allowed_ops.get().len() as u64 + length(&conditions);
        Self {
            id: grant.id,
            principal: cut(grant.principal, PRINCIPAL_CHARS),
            role: cut(grant.role, WORD_CHARS),
            key_id: cut(grant.key_id, ID_CHARS + 1),
            allowed_ops: if bytes <= GRANT_BYTES { grant.allowed_ops.get().to_owned() } else { String::new() },
            conditions: conditions.filter(|_| bytes <= GRANT_BYTES),
            bytes,
            created_at: cut(grant.created_at, WORD_CHARS),
        }
    }
}

impl From<JsonRecord> for AuditRow {
    fn from(record: JsonRecord) -> Self {
        let row = LegacyRow {
            id: record.id,
            timestamp: record.timestamp,
            actor: record.actor,
            role: record.role,
            action: record.action,
            request_id: record.request_id,
            details: json_text(record.details),
            key_id: record.key_id,
            key_version: record.key_version,
            prev_hash: record.prev_hash,
            hash: record.hash,
            status: record.status,
        };
        Self { bytes: length_of(&row), row }
    }
}

fn length(text: &Option<String>) -> u64 {
    text.as_ref().map_or(0, |text| text.len() as u64)
}
