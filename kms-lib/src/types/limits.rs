//! The limits that the service enforces on its inputs. They are part of the contract: raising one changes behavior,
//! and lowering one breaks callers.

/// Longest name of a key, in characters.
pub const NAME_CHARS: usize = 128;
/// Longest principal, in bytes.
pub const PRINCIPAL_BYTES: usize = 256;
/// Longest free text (request ids, reasons), in bytes.
pub const TEXT_BYTES: usize = 256;
/// The maximum number of entries of an encryption context.
pub const CONTEXT_ENTRIES: usize = 64;
/// Largest encryption context: names and values together, in bytes.
pub const CONTEXT_BYTES: usize = 8 * 1024;
/// Largest context that is recorded as text, in bytes; of a larger one the record has the SHA-256.
pub const CONTEXT_RECORDED_BYTES: usize = 2 * 1024;
/// Largest additional data of a ciphertext of Mini KMS on Node, as JSON text in bytes (1 MiB).
pub const IMPORTED_AAD_BYTES: usize = 1024 * 1024;
/// Largest metadata of a key, as JSON text in bytes.
pub const METADATA_BYTES: usize = 16 * 1024;
/// Longest rotation or grace period, in days (100 years).
pub const PERIOD_DAYS: u32 = 36_500;
/// Largest plaintext of one AES-GCM message through the one-shot calls, in bytes (64 MiB).
pub const PLAINTEXT_BYTES: usize = 64 * 1024 * 1024;
/// Largest plaintext of RSA-2048 with OAEP-SHA256, in bytes (RFC 8017, 7.1.1: k - 2 hLen - 2).
pub const RSA_PLAINTEXT_BYTES: usize = 190;
/// Bytes of an AES-GCM nonce (NIST SP 800-38D, 8.2).
pub const AES_GCM_IV_BYTES: usize = 12;
/// Bytes of an AES-GCM authentication tag.
pub const AES_GCM_TAG_BYTES: usize = 16;
/// Bytes of an RSA-2048 ciphertext or signature.
pub const RSA_2048_BYTES: usize = 256;
/// Largest payload to sign or to verify, in bytes (64 MiB).
pub const PAYLOAD_BYTES: usize = 64 * 1024 * 1024;
/// The maximum number of versions that one call tries for signatures that name no version. Divided by the number of
/// these signatures, it is the number of newest usable versions that are tried for each.
pub const VERSIONS_TRIED: usize = 10_000;
/// The maximum number of items of a batch.
pub const BATCH_ITEMS: usize = 1_000;
/// Largest page of a list.
pub const PAGE_LIMIT: usize = 1_000;
/// Largest data key, in bytes.
pub const DATA_KEY_BYTES: usize = 1_024;
/// Default of the setting `limits.versions`: most versions with material that a key can have.
pub const VERSIONS: u32 = 100_000;
/// The maximum number of grants that apps can make to one principal on one scope, one per app. Grants by admins are not
/// counted.
pub const GRANTS_PER_SCOPE: usize = 64;
/// The maximum number of networks in a `sourceIp` condition.
pub const CONDITION_NETWORKS: usize = 64;
/// Number of messages encrypted under a version from which on metrics advise a rotation.
pub const ENCRYPTIONS_WARN: u64 = 1 << 31;
/// The maximum number of messages that are encrypted under a version (NIST SP 800-38D, 8.3: random 96-bit nonces).
pub const ENCRYPTIONS_MAX: u64 = 1 << 32;
/// Default wait before a key scheduled for deletion is destroyed, in days.
pub const DELETION_WAIT_DAYS: u32 = 30;
/// Shortest wait before a deletion unless configured, in days.
pub const DELETION_WAIT_MIN_DAYS: u32 = 7;
