//! What a failed call to AWS KMS means: which error code it becomes, and what a person is told.
//!
//! Of what the other side answered, only codes that are known here and request ids of the usual form are shown. A
//! message from there could repeat parts of the request, which holds key material.

use std::error::Error as StdError;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::operation::RequestId;

use crate::types::error::{Error, ErrorCode};

/// A call, for its error.
pub(super) struct Call<'a> {
    /// The key as it was sent.
    pub key: &'a str,
    /// The right that the call needs.
    pub right: &'static str,
    /// The time for one try.
    pub attempt: Duration,
    /// The time for the whole call.
    pub whole: Duration,
}

/// What the code of AWS's error stands for.
enum Cause {
    /// Another try may succeed without a person doing anything about it here.
    Unavailable(&'static str),
    /// Nothing helps but a change of the key, its policy or the configuration.
    Refused(&'static str),
    /// The ciphertext is not one of this key with this context.
    Altered,
}

/// A request that was about to be sent in plaintext to another machine.
#[derive(Debug)]
pub(super) struct UnsafeEndpoint(pub &'static str);

impl std::fmt::Display for UnsafeEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the endpoint {}", self.0)
    }
}

impl StdError for UnsafeEndpoint {}

/// Every code that AWS KMS documents for Encrypt and Decrypt, and those of AWS's common errors.
fn cause_of(code: &str) -> Option<Cause> {
    use Cause::{Altered, Refused, Unavailable};
    Some(match code {
        "ThrottlingException"
        | "Throttling"
        | "TooManyRequestsException"
        | "RequestLimitExceeded"
        | "LimitExceededException" => Unavailable("AWS limits the rate of requests; retry later"),
        "KMSInternalException"
        | "InternalFailure"
        | "InternalError"
        | "ServiceUnavailable"
        | "ServiceUnavailableException" => Unavailable("AWS KMS reports an internal error; retry later"),
        "DependencyTimeoutException" | "RequestTimeout" | "RequestTimeoutException" => {
            Unavailable("AWS KMS ran out of time; retry later")
        }
        "KeyUnavailableException" => Unavailable("the key is not available at the moment; retry later"),
        "ExpiredTokenException" | "ExpiredToken" | "RequestExpired" => {
            Unavailable("the AWS credentials have expired; renew them")
        }
        "AccessDeniedException" | "AccessDenied" | "NotAuthorized" | "OptInRequired" => Refused(
            "access is denied; allow the right on this key in its key policy or in the IAM policy of this process",
        ),
        "DisabledException" => Refused("the key is disabled; enable it in AWS KMS"),
        "KMSInvalidStateException" => {
            Refused("the state of the key forbids its use; in AWS KMS, cancel its deletion or make it usable again")
        }
        "NotFoundException" => Refused(
            "there is no such key or alias in this account and region, or it was deleted; check name and region",
        ),
        "InvalidKeyUsageException" | "UnsupportedOperationException" => {
            Refused("the key is no symmetric encryption key; a root key must be one (SYMMETRIC_DEFAULT)")
        }
        "InvalidSignatureException" | "SignatureDoesNotMatch" | "IncompleteSignature" => {
            Refused("the signature of the request is not accepted; check the AWS secret key and this machine's clock")
        }
        "RequestTimeTooSkewed" => Refused("this machine's clock is too far from that of AWS; set it"),
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

/// The error of a failed call. It names the key and the cause, and holds no secret.
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
                    let why = "the wrapped material is not of this key, was altered, or belongs elsewhere";
                    (ErrorCode::IntegrityFailure, format!("{why} ({name}{request})"))
                }
                None if answer.err().code().is_some() && (400..500).contains(&status) && status != 429 => {
                    (ErrorCode::RootKeyRefused, format!("AWS KMS refuses the request (status {status}{request})"))
                }
                // Without a code of AWS's it is a proxy that answers, or another service.
                None => {
                    let why = "the answer is none of AWS KMS; check the endpoint";
                    (ErrorCode::RootKeyUnavailable, format!("{why} (status {status}{request})"))
                }
            }
        }
        SdkError::TimeoutError(_) => {
            let (attempt, whole) = (call.attempt.as_secs_f32(), call.whole.as_secs_f32());
            let why = format!("AWS KMS did not answer in time ({attempt} s a try, {whole} s in all)");
            (ErrorCode::RootKeyUnavailable, why)
        }
        SdkError::ResponseError(_) => {
            (ErrorCode::RootKeyUnavailable, "the answer of AWS KMS was cut or is malformed".to_owned())
        }
        SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) => not_sent(failure),
        _ => (ErrorCode::RootKeyUnavailable, "AWS KMS cannot be asked".to_owned()),
    };
    Error::new(code, format!("AWS KMS key {}: {cause}", call.key))
}

/// Why a request did not leave, or was not answered.
fn not_sent<E: StdError + 'static>(failure: &SdkError<E>) -> (ErrorCode, String) {
    if let Some(endpoint) = find::<UnsafeEndpoint, _>(failure) {
        return (ErrorCode::InvalidConfiguration, endpoint.to_string());
    }
    if let Some(credentials) = find::<CredentialsError, _>(failure) {
        // Its sources are not shown: they quote files and programs that hold credentials.
        let why = match credentials {
            CredentialsError::CredentialsNotLoaded(_) => {
                "no AWS credentials were found; give some by environment, profile, web identity, container or instance"
            }
            CredentialsError::ProviderTimedOut(_) => "the AWS credentials could not be had in time",
            CredentialsError::InvalidConfiguration(_) => {
                "the AWS credentials are configured wrongly; check the profile"
            }
            _ => "the AWS credentials could not be had; check what provides them",
        };
        return (ErrorCode::RootKeyUnavailable, why.to_owned());
    }
    if let SdkError::ConstructionFailure(_) = failure {
        return (ErrorCode::InvalidConfiguration, "the request cannot be made; check region and endpoint".to_owned());
    }
    let cause = find::<std::io::Error, _>(failure).map(|error| format!(" ({})", error.kind())).unwrap_or_default();
    let is_timeout = matches!(failure, SdkError::DispatchFailure(dispatch) if dispatch.is_timeout());
    let why = if is_timeout { "no connection to AWS KMS came about in time" } else { "AWS KMS cannot be reached" };
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

/// AWS KMS names requests by UUIDs.
fn is_request_id(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|c| c.is_ascii_hexdigit() || c == b'-')
}
