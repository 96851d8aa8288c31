//! A bucket with object lock, in S3 or on a compatible server. Requests are signed with `aws-sigv4`; credentials come
//! from the AWS SDK's default chain.

use std::time::{Duration, SystemTime};

use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kms_lib::audit::checkpoint;
use kms_lib::{Result, Timestamp};
use reqwest::{Client, Method, Response, StatusCode};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use super::endpoint::{body, client};
use super::{NOTE_BYTES, Problem};
use crate::settings::{AnchorSettings, invalid};
use crate::tls::client::{explain, parse_url};

/// Maximum size of a list of objects, in bytes.
const LIST: usize = 8 * 1024 * 1024;

pub(super) struct Bucket {
    client: Client,
    settings: AnchorSettings,
    bucket: String,
    account: OnceCell<Account>,
    /// The name of the object read last. Names sort by the size of the log.
    read_to: Option<String>,
}

/// The credentials and the base URL for requests.
struct Account {
    credentials: SharedCredentialsProvider,
    region: String,
    base: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    #[serde(default)]
    is_truncated: bool,
    #[serde(default)]
    contents: Vec<Object>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Object {
    key: String,
}

impl Bucket {
    pub(super) fn new(settings: &AnchorSettings) -> Result<Self> {
        if let Some(endpoint) = &settings.endpoint {
            parse_url(endpoint).map_err(|problem| invalid(format!("http.anchors.endpoint: {problem}")))?;
        }
        let bucket = settings.bucket.clone().unwrap_or_default();
        let settings = settings.clone();
        Ok(Self { client: client(&settings)?, settings, bucket, account: OnceCell::new(), read_to: None })
    }

    pub(super) fn name(&self) -> String {
        format!("the bucket {}", self.bucket)
    }

    /// Writes the anchor as a new object, which is never overwritten.
    pub(super) async fn append(&self, node: &str, note: &str) -> std::result::Result<(), Problem> {
        let claimed = checkpoint::claimed(note).ok_or("the checkpoint is malformed")?;
        let key = format!("{}{:020}-{node}.note", self.folder(&claimed.origin), claimed.size);
        let mut headers = vec![
            ("content-type", "text/plain; charset=utf-8".to_owned()),
            ("x-amz-sdk-checksum-algorithm", "SHA256".to_owned()),
            ("x-amz-checksum-sha256", STANDARD.encode(Sha256::digest(note))),
            ("if-none-match", "*".to_owned()),
        ];
        if self.settings.retain_days > 0 {
            let end = Timestamp::now().plus_days(self.settings.retain_days);
            headers.push(("x-amz-object-lock-mode", "COMPLIANCE".to_owned()));
            headers.push(("x-amz-object-lock-retain-until-date", end.to_string()));
        }
        let response = self.send(Method::PUT, &key, "", &headers, note.as_bytes()).await?;
        match response.status() {
            StatusCode::OK => Ok(()),
            // An earlier attempt succeeded but its response was lost.
            StatusCode::PRECONDITION_FAILED => Ok(()),
            _ => Err(refusal(response).await),
        }
    }

    /// The anchors after the one read last. The first call returns those of at least `since` records, or all if it is
    /// 0.
    pub(super) async fn read(&mut self, origin: &str, since: u64) -> std::result::Result<Vec<String>, Problem> {
        let mut notes = Vec::new();
        let folder = self.folder(origin);
        if since > 0 && self.read_to.is_none() {
            self.read_to = Some(format!("{folder}{since:020}"));
        }
        loop {
            let query = list_query(&folder, self.read_to.as_deref());
            let response = self.send(Method::GET, "", &query, &[], b"").await?;
            if response.status() != StatusCode::OK {
                return Err(refusal(response).await);
            }
            let text =
                String::from_utf8(body(response, LIST).await?).map_err(|_| "the list of objects is not UTF-8")?;
            let listed: Listed = quick_xml::de::from_str(&text).map_err(|e| format!("the list of objects: {e}"))?;
            for object in &listed.contents {
                let response = self.send(Method::GET, &object.key, "", &[], b"").await?;
                if response.status() != StatusCode::OK {
                    return Err(refusal(response).await);
                }
                notes.push(String::from_utf8_lossy(&body(response, NOTE_BYTES).await?).into_owned());
            }
            match listed.contents.into_iter().next_back() {
                Some(last) => self.read_to = Some(last.key),
                None => return Ok(notes),
            }
            if !listed.is_truncated {
                return Ok(notes);
            }
        }
    }

    /// The prefix of the names of the objects of a log.
    fn folder(&self, origin: &str) -> String {
        format!("{}{}/", self.settings.prefix, origin.rsplit('/').next().unwrap_or_default())
    }

    async fn account(&self) -> std::result::Result<&Account, Problem> {
        self.account.get_or_try_init(|| self.find_account()).await
    }

    async fn find_account(&self) -> std::result::Result<Account, Problem> {
        let mut loader = aws_config::defaults(aws_config::BehaviorVersion::latest());
        if let Some(region) = &self.settings.region {
            loader = loader.region(aws_config::Region::new(region.clone()));
        }
        let found = loader.load().await;
        let region =
            found.region().ok_or("no region is configured; set http.anchors.region or AWS_REGION")?.to_string();
        let credentials = found.credentials_provider().ok_or("no AWS credentials are configured")?;
        let base = match &self.settings.endpoint {
            Some(endpoint) => format!("{}/{}", endpoint.trim_end_matches('/'), self.bucket),
            None => format!("https://{}.s3.{region}.amazonaws.com", self.bucket),
        };
        Ok(Account { credentials, region, base })
    }

    async fn send(
        &self,
        method: Method,
        key: &str,
        query: &str,
        headers: &[(&str, String)],
        body: &[u8],
    ) -> std::result::Result<Response, Problem> {
        let account = self.account().await?;
        let credentials = account.credentials.provide_credentials().await;
        let identity = credentials.map_err(|e| format!("cannot get AWS credentials: {e}"))?.into();
        let mut url = format!("{}/{key}", account.base);
        if !query.is_empty() {
            url = format!("{url}?{query}");
        }
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&account.region)
            .name("s3")
            .time(SystemTime::now())
            .settings(settings)
            .build()
            .map_err(|e| e.to_string())?
            .into();
        let signed_headers = headers.iter().map(|(name, value)| (*name, value.as_str()));
        let unsigned = SignableRequest::new(method.as_str(), &url, signed_headers, SignableBody::Bytes(body));
        let signed = unsigned.and_then(|request| sign(request, &params)).map_err(|e| e.to_string())?;
        let (instructions, _) = signed.into_parts();
        let (signature, _) = instructions.into_parts();
        let mut request = self.client.request(method, &url).body(body.to_vec());
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        for header in &signature {
            request = request.header(header.name(), header.value());
        }
        request.timeout(Duration::from_secs(self.settings.timeout_seconds)).send().await.map_err(explain)
    }
}

fn list_query(folder: &str, after: Option<&str>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("list-type", "2").append_pair("prefix", folder);
    if let Some(last) = after {
        query.append_pair("start-after", last);
    }
    query.finish()
}

/// Describes an error response by its status and S3 error code.
async fn refusal(response: Response) -> Problem {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Refusal {
        code: String,
    }
    let status = response.status();
    let text = body(response, NOTE_BYTES).await.unwrap_or_default();
    let code = quick_xml::de::from_str::<Refusal>(&String::from_utf8_lossy(&text)).map(|refusal| refusal.code);
    format!("it returned {status} {}", code.unwrap_or_default())
}
