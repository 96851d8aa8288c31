//! The files of an older version of Mini KMS on Node, which kept its data as JSON: `keys.json`, `key_versions.json`,
//! `grants.json` and `audit_logs.json`, each an array. They are small, and read whole.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::rows::{AuditRow, SourceGrant, SourceKey, SourceVersion};
use crate::types::error::{Error, ErrorCode, Result};

/// What the files hold, sorted by id.
#[derive(Default)]
pub struct JsonFiles {
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
    /// Reads a folder with any of the files, or one file with the records of a log.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            let records = read(path)?.ok_or_else(|| missing(path, "there is no such file or folder"))?;
            return Self::default().with_records(records, path);
        }
        let (keys, versions) = (read(&path.join("keys.json"))?, read(&path.join("key_versions.json"))?);
        let (grants, records) = (read(&path.join("grants.json"))?, read(&path.join("audit_logs.json"))?);
        if keys.is_none() && grants.is_none() && records.is_none() {
            return Err(missing(path, "the folder has none of keys.json, grants.json and audit_logs.json"));
        }
        if keys.is_some() && versions.is_none() {
            return Err(missing(path, "the folder has keys.json and no key_versions.json"));
        }
        Self::default()
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
                return Err(malformed(path, "a version is there twice"));
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
        sort(&mut self.records, |record| &record.id, path)?;
        Ok(self)
    }

    pub fn key_count(&self) -> Result<u64> {
        Ok(self.keys.len() as u64)
    }
    pub fn audit_count(&self) -> Result<u64> {
        Ok(self.records.len() as u64)
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
        Ok(page(&self.records, |record| &record.id, after, limit))
    }
    pub fn audit_rows_by_id(&self, ids: &[String]) -> Result<Vec<AuditRow>> {
        let wanted: HashSet<&String> = ids.iter().collect();
        Ok(self.records.iter().filter(|record| wanted.contains(&record.id)).cloned().collect())
    }
}

/// The array in a file; none if there is no such file.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<Vec<T>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(missing(path, &error.to_string()).with_source(error)),
    };
    let rows = serde_json::from_reader(BufReader::new(file));
    rows.map(Some).map_err(|error| malformed(path, &error.to_string()))
}

fn sort<T>(rows: &mut [T], id: fn(&T) -> &str, path: &Path) -> Result<()> {
    rows.sort_by(|one, other| id(one).cmp(id(other)));
    match rows.windows(2).find(|pair| id(&pair[0]) == id(&pair[1])) {
        Some(pair) => Err(malformed(path, &format!("the id {:?} is there twice", id(&pair[0])))),
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

/// JSON text as it stands in a file; `null` counts as absent.
fn json_text(raw: Option<Box<RawValue>>) -> Option<String> {
    raw.map(|raw| raw.get().to_owned()).filter(|text| text != "null")
}

impl From<JsonKey> for SourceKey {
    fn from(key: JsonKey) -> Self {
        Self {
            id: key.id,
            name: key.name,
            key_type: key.key_type,
            purpose: key.purpose,
            state: key.state,
            rotation_period_days: key.rotation_period_days,
            grace_period_days: key.grace_period_days,
            created_at: key.created_at,
            metadata: json_text(key.metadata),
            current_version: key.current_version,
        }
    }
}

impl From<JsonVersion> for SourceVersion {
    fn from(version: JsonVersion) -> Self {
        Self {
            id: version.id,
            version: version.version,
            state: version.state,
            created_at: version.created_at,
            not_before: version.not_before,
            not_after: version.not_after,
            wrapped_material: version.wrapped_material.get().to_owned(),
            public_key_pem: version.public_key_pem,
            grace_period_days: version.grace_period_days,
        }
    }
}

impl From<JsonGrant> for SourceGrant {
    fn from(grant: JsonGrant) -> Self {
        Self {
            id: grant.id,
            principal: grant.principal,
            role: grant.role,
            key_id: grant.key_id,
            allowed_ops: grant.allowed_ops.get().to_owned(),
            conditions: json_text(grant.conditions),
            created_at: grant.created_at,
        }
    }
}

impl From<JsonRecord> for AuditRow {
    fn from(record: JsonRecord) -> Self {
        Self {
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
        }
    }
}
