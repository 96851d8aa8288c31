//! Converts failed calls to AWS KMS to error codes and messages.
//!
//! Messages contain only known codes and well-formed request ids from the response. Its text could quote the request,
//! which contains key material.

use std::error::Error as StdError;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::operation::RequestId;

use crate::types::error::{Error, ErrorCode};

/// The call that failed.
pub(super) struct Call<'a> {
    /// The name of the key in the request.
    pub key: &'a str,
    /// The IAM action that the call needs.
    pub right: &'static str,
    /// The timeout of one attempt.
    pub attempt: Duration,
    /// The timeout of the whole call.
    pub whole: Duration,
}

/// The meaning of an error code of AWS.
enum Cause {
    /// A later call may succeed without a change of key, policy or configuration.
    Unavailable(&'static str),
    /// Calls fail until the key, its policy or the configuration is changed.
    Refused(&'static str),
    /// The ciphertext was altered, or has another key or context.
    Altered,
}

/// The error for a request that would have been sent in plaintext to another machine.
#[derive(Debug)]
pub(super) struct UnsafeEndpoint(pub &'static str);

impl std::fmt::Display for UnsafeEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the endpoint {}", self.0)
    }
}

impl StdError for UnsafeEndpoint {}

/// The meaning of every code that AWS KMS documents for Encrypt and Decrypt, and of AWS's common errors.
fn cause_of(code: &str) -> Option<Cause> {
    use Cause::{Altered, Refused, Unavailable};
    Some(match code {
        "ThrottlingException"
        | "Throttling"
        | "TooManyRequestsException"
        | "RequestLimitExceeded"
        | "LimitExceededException" => Unavailable("AWS throttles the requests; retry later"),
        "KMSInternalException"
        | "InternalFailure"
        | "InternalError"
        | "ServiceUnavailable"
        | "ServiceUnavailableException" => Unavailable("AWS KMS reports an internal error; retry later"),
        "DependencyTimeoutException" | "RequestTimeout" | "RequestTimeoutException" => {
            Unavailable("AWS KMS timed out internally; retry later")
        }
        "KeyUnavailableException" => Unavailable("the key is not available at the moment; retry later"),
        "ExpiredTokenException" | "ExpiredToken" | "RequestExpired" => {
            Unavailable("the AWS credentials have expired; renew them")
        }
        "AccessDeniedException" | "AccessDenied" | "NotAuthorized" | "OptInRequired" => Refused(
            "access is denied; allow the action on this key in its key policy or in the IAM policy of this process",
        ),
        "DisabledException" => Refused("the key is disabled; enable it in AWS KMS"),
        "KMSInvalidStateException" => {
            Refused("the key's state does not allow its use; in AWS KMS, cancel its deletion or make it usable again")
        }
        "NotFoundException" => Refused(
            "there is no such key or alias in this account and region, or it was deleted; check name and region",
        ),
        "InvalidKeyUsageException" | "UnsupportedOperationException" => {
            Refused("the key is not a symmetric encryption key (SYMMETRIC_DEFAULT), which a root key must be")
        }
        "InvalidSignatureException" | "SignatureDoesNotMatch" | "IncompleteSignature" => {
            Refused("the signature of the request is not accepted; check the AWS secret key and this machine's clock")
        }
        "RequestTimeTooSkewed" => Refused("this machine's clock differs too much from that of AWS; correct it"),
        "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidAccessKeyId"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "AuthFailure" => Refused("AWS does not know the credentials; check them"),
        "InvalidArnException" | "ValidationException" | "ValidationError" => {
            Refused("AWS KMS does not accept the name of the key or the request; check the name and the endpoint")
        }
        "InvalidGrantTokenException" => Refused("AWS KMS does not accept the grant"),
        "IncorrectKeyException" | "InvalidCiphertextException" => Altered,
        _ => return None,
    })
}

/// The error of a failed call, with the key and the cause, but without secrets.
pub(super) fn error_of<E>(call: &Call<'_>, failure: &SdkError<E>) -> Error
where
    E: StdError + ProvideErrorMetadata + 'static,
{
    let (code, cause) = match failure {
        SdkError::ServiceError(answer) => {
            let request = failure.request_id().filter(|id| is_request_id(id));
            let request = request.map(|id| format!(", request {id}")).unwrap_or_default();
            let status = answer.raw().status().as_u16();
            match answer.err().code().and_then(|code| Some((code, cause_of(code)?))) {
                Some((name, Cause::Unavailable(why))) => {
                    (ErrorCode::RootKeyUnavailable, format!("{why} ({name}{request})"))
                }
                Some((name, Cause::Refused(why))) => {
                    (ErrorCode::RootKeyRefused, format!("{why} ({}, {name}{request})", call.right))
                }
                Some((name, Cause::Altered)) => {
                    let why = "the wrapped material was altered, or has another key or context";
                    (ErrorCode::IntegrityFailure, format!("{why} ({name}{request})"))
                }
                None if answer.err().code().is_some() && (400..500).contains(&status) && status != 429 => {
                    (ErrorCode::RootKeyRefused, format!("AWS KMS refused the request (status {status}{request})"))
                }
                // A response without a code of AWS comes from a proxy or another service.
                None => {
                    let why = "the response is not from AWS KMS; check the endpoint";
                    (ErrorCode::RootKeyUnavailable, format!("{why} (status {status}{request})"))
                }
            }
        }
        SdkError::TimeoutError(_) => {
            let (attempt, whole) = (call.attempt.as_secs_f32(), call.whole.as_secs_f32());
            let why = format!("AWS KMS did not respond in time ({attempt} s per attempt, {whole} s in all)");
            (ErrorCode::RootKeyUnavailable, why)
        }
        SdkError::ResponseError(_) => {
            (ErrorCode::RootKeyUnavailable, "the response of AWS KMS is truncated or malformed".to_owned())
        }
        SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) => not_sent(failure),
        _ => (ErrorCode::RootKeyUnavailable, "the call to AWS KMS failed".to_owned()),
    };
    Error::new(code, format!("AWS KMS key {}: {cause}", call.key))
}

/// The code and the cause of a request that could not be sent or got no response.
fn not_sent<E: StdError + 'static>(failure: &SdkError<E>) -> (ErrorCode, String) {
    if let Some(endpoint) = find::<UnsafeEndpoint, _>(failure) {
        return (ErrorCode::InvalidConfiguration, endpoint.to_string());
    }
    if let Some(credentials) = find::<CredentialsError, _>(failure) {
        // Its sources are not shown, because they quote files and programs with credentials.
        let why = match credentials {
            CredentialsError::CredentialsNotLoaded(_) => {
                "no AWS credentials were found (environment, profile, web identity, container, instance); provide some"
            }
            CredentialsError::ProviderTimedOut(_) => "the AWS credentials were not available in time",
            CredentialsError::InvalidConfiguration(_) => {
                "the configuration of the AWS credentials is invalid; check the profile"
            }
            _ => "the AWS credentials could not be obtained; check their provider",
        };
        return (ErrorCode::RootKeyUnavailable, why.to_owned());
    }
    if let SdkError::ConstructionFailure(_) = failure {
        return (ErrorCode::InvalidConfiguration, "the request is invalid; check region and endpoint".to_owned());
    }
    let cause = find::<std::io::Error, _>(failure).map(|error| format!(" ({})", error.kind())).unwrap_or_default();
    let is_timeout = matches!(failure, SdkError::DispatchFailure(dispatch) if dispatch.is_timeout());
    let why = if is_timeout { "connecting to AWS KMS timed out" } else { "AWS KMS cannot be reached" };
    (ErrorCode::RootKeyUnavailable, format!("{why}{cause}"))
}

/// The first error of this type in the chain of sources.
fn find<T: StdError + 'static, E: StdError + 'static>(failure: &SdkError<E>) -> Option<&T> {
    let mut source = failure.source();
    while let Some(error) = source {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        source = error.source();
    }
    None
}

/// Whether this has the form of a request id of AWS KMS, which is a UUID.
fn is_request_id(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|c| c.is_ascii_hexdigit() || c == b'-')
}
