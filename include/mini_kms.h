/*
 * Mini KMS: an embeddable key management service.
 *
 * Conventions, which hold for every function:
 *
 * - It returns an mkms_status, 0 (MKMS_OK) on success.
 * - Results are written to out-parameters, on success only. One exception: on MKMS_BUFFER_TOO_SMALL the length is set
 *   to the required size.
 * - If the last parameter, error, is not NULL, a failure writes an error object to *error, which the caller frees with
 *   mkms_error_free. The former value of *error is not read.
 * - "Errors:" lists the statuses that are to be expected from a function. It abbreviates three groups:
 *   - service errors: MKMS_CLOSED, MKMS_OVERLOADED, MKMS_CALLER_OVERLOADED, MKMS_STORE_..., MKMS_INTEGRITY_FAILURE,
 *     MKMS_OUTCOME_UNKNOWN, MKMS_CLOCK_SKEW, MKMS_ROOT_KEY_..., MKMS_USED_AFTER_FORK, MKMS_INTERNAL;
 *   - key state errors: MKMS_KEY_DISABLED, MKMS_KEY_REVOKED, MKMS_KEY_PENDING_DELETION, MKMS_KEY_DESTROYED;
 *   - version state errors: MKMS_VERSION_DISABLED, MKMS_VERSION_REVOKED, MKMS_VERSION_DESTROYED.
 * - Pointers must not be NULL unless the documentation of the function says so. A pointer to bytes may be NULL if its
 *   length is 0. Otherwise NULL causes MKMS_INVALID_ARGUMENT, and nothing is done.
 * - Text is UTF-8 with a length and need not end with a NUL.
 * - Handles are opaque and belong to the caller, who frees each with the function mkms_..._free of its type. That
 *   function sets the pointer to NULL; freeing NULL does nothing.
 * - Structs begin with their size, which the caller sets to sizeof the struct. Fields may be added at the end.
 * - Functions may be called from any thread, with the same handles, as long as no other thread frees or changes the
 *   memory of their arguments.
 * - In a process that was forked after a handle was created, calls with it return MKMS_USED_AFTER_FORK, and freeing it
 *   leaks it. Open the store again in the child.
 * - A panic (a fault in the library) is reported as MKMS_INTERNAL_PANIC.
 *
 * This file is generated; docs/c.md explains how to use it.
 */


#ifndef MINI_KMS_H
#define MINI_KMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * The major version of the interface. It changes with the library's soname.
 */
#define MKMS_VERSION_MAJOR 1

/**
 * The minor version: it grows when functions, fields or statuses are added.
 */
#define MKMS_VERSION_MINOR 0

/**
 * The patch version: it grows with bug fixes.
 */
#define MKMS_VERSION_PATCH 0

/**
 * Bytes that a call has returned. The buffer belongs to the caller, who frees it with `mkms_buffer_free`, which wipes
 * it.
 */
typedef struct mkms_buffer mkms_buffer;

/**
 * A configuration. It can open any number of services, and can be changed in between.
 */
typedef struct mkms_config mkms_config;

/**
 * An encryption context: names and values that a ciphertext is bound to (additional authenticated data). They are not
 * secret: by default, audit records show them. At most 64 entries and 8 KiB. A context can be used for any number of
 * calls, from any thread.
 */
typedef struct mkms_context mkms_context;

/**
 * A stream that is being decrypted piece by piece. Its calls take turns if several threads make them.
 */
typedef struct mkms_decryptor mkms_decryptor;

/**
 * A stream that is being encrypted piece by piece. Its calls take turns if several threads make them.
 */
typedef struct mkms_encryptor mkms_encryptor;

/**
 * An error object: the reason why a call failed. It belongs to the caller, who frees it with `mkms_error_free`.
 */
typedef struct mkms_error mkms_error;

/**
 * A service on one store. It can be used by any number of threads at once.
 */
typedef struct mkms_kms mkms_kms;

/**
 * The progress of a root key job. Another thread may read it while the job runs.
 */
typedef struct mkms_progress mkms_progress;

/**
 * The results of a batch, in the order of its items. They belong to the caller, who frees them with
 * `mkms_results_free`, which wipes them.
 */
typedef struct mkms_results mkms_results;

/**
 * The operations of one actor. A session can be used by any number of threads at once, and is cheap to create.
 */
typedef struct mkms_session mkms_session;

/**
 * The result of every function: `MKMS_OK` or one of the other constants. Numbers are grouped by kind (1xx arguments,
 * 2xx rights, 3xx keys and versions, 4xx cryptography, 5xx store, 6xx root key, 7xx process, 9xx internal) and are
 * never reused. A newer library may return a status that an older header does not have. `docs/errors.md` says what to
 * do.
 */
typedef int32_t mkms_status;

/**
 * The content of an error object. Set `size` to `sizeof(mkms_error_info)` before it is filled.
 *
 * The texts are UTF-8 and end with a NUL, which their lengths do not count. They belong to the error object and live
 * as long as it does.
 */
typedef struct mkms_error_info {
    /**
     * `sizeof(mkms_error_info)`.
     */
    size_t size;
    /**
     * The status that the call returned.
     */
    mkms_status status;
    /**
     * 1 if the same call may succeed when it is made again unchanged, otherwise 0.
     */
    int32_t retryable;
    /**
     * The name of the status, such as `KeyNotFound`; the same in every interface.
     */
    const char *name;
    /**
     * Length of `name`.
     */
    size_t name_len;
    /**
     * A message for people. It never contains a secret.
     */
    const char *message;
    /**
     * Length of `message`.
     */
    size_t message_len;
} mkms_error_info;

/**
 * The jobs of the scheduler. Flags are 1 or 0. Set `size` to `sizeof(mkms_scheduler)`.
 */
typedef struct mkms_scheduler {
    /**
     * `sizeof(mkms_scheduler)`.
     */
    size_t size;
    /**
     * When the scheduler runs: a cron expression with five fields, in UTC. NULL: every hour on the hour.
     */
    const char *cron;
    /**
     * Length of `cron`.
     */
    size_t cron_len;
    /**
     * Whether the scheduler runs automatically; `mkms_run_scheduler` works in either case.
     */
    uint8_t enabled;
    /**
     * Rotate keys whose rotation period has ended.
     */
    uint8_t rotate;
    /**
     * Erase the material of keys whose deletion is due.
     */
    uint8_t destroy;
    /**
     * Revoke versions past their grace window.
     */
    uint8_t revoke_expired;
    /**
     * Revoke versions past their grace window even if they were used after a rotation.
     */
    uint8_t revoke_expired_even_if_used;
    /**
     * Verify the log incrementally.
     */
    uint8_t verify;
} mkms_scheduler;

/**
 * A key in AWS KMS as a root key, as `docs/aws-kms.md` describes it. The AWS SDK finds the credentials. Set `size` to
 * `sizeof(mkms_aws_root_key)`.
 */
typedef struct mkms_aws_root_key {
    /**
     * `sizeof(mkms_aws_root_key)`.
     */
    size_t size;
    /**
     * The key: id, ARN or alias (`alias/NAME`).
     */
    const char *key_id;
    /**
     * Length of `key_id`.
     */
    size_t key_id_len;
    /**
     * The region; NULL for the region of the ARN, or else of the AWS SDK (`AWS_REGION`, profile, instance metadata).
     */
    const char *region;
    /**
     * Length of `region`.
     */
    size_t region_len;
    /**
     * The URL of an endpoint other than the region's public one; NULL for none. `http:` is accepted only for this
     * machine.
     */
    const char *endpoint;
    /**
     * Length of `endpoint`.
     */
    size_t endpoint_len;
    /**
     * The time limit for one attempt in milliseconds, at most 300,000; 0 for 5 seconds.
     */
    uint64_t attempt_timeout_ms;
    /**
     * The time limit for a call with all its attempts in milliseconds, at most 300,000; 0 for 15 seconds.
     */
    uint64_t timeout_ms;
} mkms_aws_root_key;

/**
 * The role of a caller: one of the constants `MKMS_ROLE_...`.
 */
typedef int32_t mkms_role;

/**
 * Properties of a request. Pointers may be NULL. Set `size` to `sizeof(mkms_session_options)`.
 */
typedef struct mkms_session_options {
    /**
     * `sizeof(mkms_session_options)`.
     */
    size_t size;
    /**
     * The address that the actor calls from, IPv4 or IPv6 as text. Conditions of grants use it, and audit records show
     * it.
     */
    const char *source_ip;
    /**
     * Length of `source_ip`.
     */
    size_t source_ip_len;
    /**
     * An id for the request, which audit records show: 1 to 256 printable bytes.
     */
    const char *request_id;
    /**
     * Length of `request_id`.
     */
    size_t request_id_len;
    /**
     * The idempotency key: a change that is repeated with the same key within 24 hours takes effect once.
     */
    const char *idempotency_key;
    /**
     * Length of `idempotency_key`.
     */
    size_t idempotency_key_len;
} mkms_session_options;

/**
 * The description of a completed operation. Set `size` to `sizeof(mkms_operation)` before it is filled.
 */
typedef struct mkms_operation {
    /**
     * `sizeof(mkms_operation)`.
     */
    size_t size;
    /**
     * The sequence number of the operation's audit record; 0 if it was accepted but is not written yet (with
     * `audit.ack = "queued"`).
     */
    uint64_t record;
    /**
     * The hash of the audit record.
     */
    uint8_t record_hash[32];
    /**
     * The version of the key.
     */
    uint32_t version;
    /**
     * The identifier of the key: a UUID in lower case, with a NUL at its end. Empty for the verification of a
     * signature.
     */
    char key_id[37];
} mkms_operation;

/**
 * A ciphertext to decrypt, with the properties that it must have. Set `size` to `sizeof(mkms_decrypt_item)`.
 */
typedef struct mkms_decrypt_item {
    /**
     * `sizeof(mkms_decrypt_item)`.
     */
    size_t size;
    /**
     * The ciphertext.
     */
    const uint8_t *ciphertext;
    /**
     * Length of `ciphertext`.
     */
    size_t ciphertext_len;
    /**
     * The context it was encrypted with; NULL for the empty one.
     */
    const struct mkms_context *context;
    /**
     * The key it must have been encrypted with, by name or id; NULL for any.
     */
    const char *key;
    /**
     * Length of `key`.
     */
    size_t key_len;
    /**
     * The nonce that it must contain; NULL for any.
     */
    const uint8_t *iv;
    /**
     * Length of `iv`.
     */
    size_t iv_len;
    /**
     * The authentication tag that it must contain; NULL for any.
     */
    const uint8_t *auth_tag;
    /**
     * Length of `auth_tag`.
     */
    size_t auth_tag_len;
    /**
     * The version it must have been encrypted with; 0 for any.
     */
    uint32_t version;
    /**
     * If not 0, the ciphertext is not in the format of this service but raw RSA-OAEP with SHA-256, made with the
     * public key of this version of `key`. Such a ciphertext has no context, `iv` or `auth_tag`.
     */
    uint32_t oaep_version;
    /**
     * The additional data of a ciphertext of Mini KMS on Node as JSON text; NULL for none.
     */
    const char *imported_aad;
    /**
     * Length of `imported_aad`.
     */
    size_t imported_aad_len;
    /**
     * 1 if the ciphertext is one of Mini KMS on Node, made with an imported version of `key`, with `iv` and `auth_tag`
     * for AES. Such a ciphertext has no context. Otherwise 0.
     */
    uint32_t imported;
} mkms_decrypt_item;

/**
 * A signature algorithm: one of the constants `MKMS_SIGN_...`.
 */
typedef int32_t mkms_signing_algorithm;

/**
 * A ciphertext to re-encrypt. Set `size` to `sizeof(mkms_reencrypt_item)`.
 */
typedef struct mkms_reencrypt_item {
    /**
     * `sizeof(mkms_reencrypt_item)`.
     */
    size_t size;
    /**
     * The ciphertext.
     */
    const uint8_t *ciphertext;
    /**
     * Length of `ciphertext`.
     */
    size_t ciphertext_len;
    /**
     * The context it was encrypted with; NULL for the empty one.
     */
    const struct mkms_context *context;
    /**
     * The key to encrypt it under, by name or id; NULL for the key of the ciphertext.
     */
    const char *destination;
    /**
     * Length of `destination`.
     */
    size_t destination_len;
    /**
     * The new context; NULL for the context of the ciphertext.
     */
    const struct mkms_context *destination_context;
} mkms_reencrypt_item;

/**
 * A plaintext of a batch. Set `size` to `sizeof(mkms_encrypt_item)`.
 */
typedef struct mkms_encrypt_item {
    /**
     * `sizeof(mkms_encrypt_item)`.
     */
    size_t size;
    /**
     * The key, by name or id.
     */
    const char *key;
    /**
     * Length of `key`.
     */
    size_t key_len;
    /**
     * The plaintext.
     */
    const uint8_t *plaintext;
    /**
     * Length of `plaintext`.
     */
    size_t plaintext_len;
    /**
     * The context that the ciphertext is bound to; NULL for the empty one.
     */
    const struct mkms_context *context;
} mkms_encrypt_item;

/**
 * A payload of a batch to sign. Set `size` to `sizeof(mkms_sign_item)`.
 */
typedef struct mkms_sign_item {
    /**
     * `sizeof(mkms_sign_item)`.
     */
    size_t size;
    /**
     * The key, by name or id.
     */
    const char *key;
    /**
     * Length of `key`.
     */
    size_t key_len;
    /**
     * The payload.
     */
    const uint8_t *payload;
    /**
     * Length of `payload`.
     */
    size_t payload_len;
    /**
     * The signature algorithm: one of the constants `MKMS_SIGN_...`.
     */
    mkms_signing_algorithm algorithm;
    /**
     * The version, which must be the current one; 0 for the current one.
     */
    uint32_t version;
} mkms_sign_item;

/**
 * A signature of a batch to verify. Set `size` to `sizeof(mkms_verify_item)`.
 */
typedef struct mkms_verify_item {
    /**
     * `sizeof(mkms_verify_item)`.
     */
    size_t size;
    /**
     * The key, by name or id.
     */
    const char *key;
    /**
     * Length of `key`.
     */
    size_t key_len;
    /**
     * The payload.
     */
    const uint8_t *payload;
    /**
     * Length of `payload`.
     */
    size_t payload_len;
    /**
     * The signature.
     */
    const uint8_t *signature;
    /**
     * Length of `signature`.
     */
    size_t signature_len;
    /**
     * The signature algorithm: one of the constants `MKMS_SIGN_...`.
     */
    mkms_signing_algorithm algorithm;
    /**
     * The version; 0 for any usable one.
     */
    uint32_t version;
} mkms_verify_item;

/**
 * The result of one item of a batch. Set `size` to `sizeof(mkms_result)` before it is filled. Pointers belong to the
 * results and live as long as they do.
 */
typedef struct mkms_result {
    /**
     * `sizeof(mkms_result)`.
     */
    size_t size;
    /**
     * `MKMS_OK`, or the status of the failed item. If the item failed, all fields below `message` are 0.
     */
    mkms_status status;
    /**
     * 1 if the same item may succeed when it is sent again unchanged, otherwise 0.
     */
    int32_t retryable;
    /**
     * The name of the status, with a NUL at its end; NULL if the item succeeded.
     */
    const char *name;
    /**
     * The error message, with a NUL at its end; NULL if the item succeeded.
     */
    const char *message;
    /**
     * The ciphertext, plaintext or signature; NULL for a verification.
     */
    const uint8_t *data;
    /**
     * Length of `data`.
     */
    size_t data_len;
    /**
     * 1 if the signature is valid, otherwise 0.
     */
    int32_t valid;
    /**
     * The version of the key.
     */
    uint32_t version;
    /**
     * The sequence number of the audit record of the batch for this key; 0 if it is not written yet.
     */
    uint64_t record;
    /**
     * The identifier of the key, with a NUL at its end. Empty for a verification.
     */
    char key_id[37];
} mkms_result;

/**
 * Reads input: fills up to `capacity` bytes of `buffer`, and sets `*read` to their number; 0 at the end. Returns 0, or
 * another number if reading failed, which the error message contains. No exception may leave the callback.
 */
typedef int32_t (*mkms_read)(void *user, uint8_t *buffer, size_t capacity, size_t *read);

/**
 * Writes all `length` bytes of `data`. Returns 0, or another number if writing failed, which the error message
 * contains. No exception may leave the callback.
 */
typedef int32_t (*mkms_write)(void *user, const uint8_t *data, size_t length);

/**
 * The description of an encrypted or decrypted stream. Set `size` to `sizeof(mkms_stream_summary)` before it is
 * filled.
 */
typedef struct mkms_stream_summary {
    /**
     * `sizeof(mkms_stream_summary)`.
     */
    size_t size;
    /**
     * The number of plaintext bytes.
     */
    uint64_t plaintext_bytes;
    /**
     * The sequence number of the audit record of the stream's data key; 0 if it is not written yet.
     */
    uint64_t record;
    /**
     * The version of the key.
     */
    uint32_t version;
    /**
     * The identifier of the key, with a NUL at its end.
     */
    char key_id[37];
} mkms_stream_summary;

/**
 * The options of a root key job. Flags are 1 or 0. Set `size` to `sizeof(mkms_root_key_job)`.
 */
typedef struct mkms_root_key_job {
    /**
     * `sizeof(mkms_root_key_job)`.
     */
    size_t size;
    /**
     * Receives the progress of the job; may be NULL. It must not be freed before the job has ended.
     */
    const struct mkms_progress *progress;
    /**
     * The maximum number of wrappings per second; 0 for no limit.
     */
    uint32_t rate;
    /**
     * Dry run: do everything except writing.
     */
    uint8_t dry_run;
    /**
     * Skip wrappings that were verified since they were written.
     */
    uint8_t only_new;
} mkms_root_key_job;

/**
 * A stage of an import.
 */
typedef int32_t mkms_import_stage;

/**
 * Receives the progress of an import: `done` of `total` rows of a stage were processed; `total` is 0 until it is
 * known. No exception may leave the callback.
 */
typedef void (*mkms_import_progress)(void *user, mkms_import_stage stage, uint64_t done, uint64_t total);

/**
 * The call succeeded.
 */
#define MKMS_OK 0

/**
 * An argument is malformed, out of range or too large.
 */
#define MKMS_INVALID_ARGUMENT 101

/**
 * The name of a key is empty, too long, contains unprintable characters or has the form of a UUID.
 */
#define MKMS_INVALID_NAME 102

/**
 * The configuration is wrong or incomplete.
 */
#define MKMS_INVALID_CONFIGURATION 103

/**
 * The idempotency key was used for another request.
 */
#define MKMS_IDEMPOTENCY_CONFLICT 104

/**
 * The buffer of the caller is too small. Nothing was done, and the length was set to the required size.
 */
#define MKMS_BUFFER_TOO_SMALL 190

/**
 * The caller is not authenticated: the token is malformed, unknown, revoked or expired.
 */
#define MKMS_NOT_AUTHENTICATED 201

/**
 * No grant or role of the caller allows the operation.
 */
#define MKMS_ACCESS_DENIED 202

/**
 * There is no such grant.
 */
#define MKMS_GRANT_NOT_FOUND 203

/**
 * There is no such credential.
 */
#define MKMS_CREDENTIAL_NOT_FOUND 204

/**
 * A key with this name exists or existed. Names are never reused.
 */
#define MKMS_NAME_TAKEN 301

/**
 * There is no such key.
 */
#define MKMS_KEY_NOT_FOUND 302

/**
 * The key has no such version.
 */
#define MKMS_VERSION_NOT_FOUND 303

/**
 * The key is disabled.
 */
#define MKMS_KEY_DISABLED 304

/**
 * The key is revoked. Revocation is final.
 */
#define MKMS_KEY_REVOKED 305

/**
 * The key is scheduled for deletion.
 */
#define MKMS_KEY_PENDING_DELETION 306

/**
 * The key's material has been erased.
 */
#define MKMS_KEY_DESTROYED 307

/**
 * The version is disabled, or its grace window has ended.
 */
#define MKMS_VERSION_DISABLED 308

/**
 * The version is revoked. Revocation is final.
 */
#define MKMS_VERSION_REVOKED 309

/**
 * The version's material has been erased.
 */
#define MKMS_VERSION_DESTROYED 310

/**
 * A version that is not the current one was asked to encrypt, to sign or to be enabled.
 */
#define MKMS_VERSION_NOT_CURRENT 311

/**
 * The state of the key or version does not allow this transition.
 */
#define MKMS_WRONG_STATE 312

/**
 * The key's purpose does not include the operation.
 */
#define MKMS_WRONG_PURPOSE 313

/**
 * The key's type cannot do the operation.
 */
#define MKMS_WRONG_KEY_TYPE 314

/**
 * The version has encrypted as many messages as its algorithm allows.
 */
#define MKMS_KEY_EXHAUSTED 315

/**
 * Another change came first, and the request no longer fits.
 */
#define MKMS_CONFLICT 316

/**
 * A limit is reached, such as the number of versions of a key.
 */
#define MKMS_LIMIT_EXCEEDED 317

/**
 * The key belongs to an import that is not finalized: until then it can be changed only at its source.
 */
#define MKMS_IMPORT_OPEN 318

/**
 * A later run of the same import has begun. This run writes nothing more; what it wrote is kept.
 */
#define MKMS_IMPORT_SUPERSEDED 319

/**
 * The ciphertext is truncated, has an unknown format, or belongs to another key than the one in the request.
 */
#define MKMS_INVALID_CIPHERTEXT 401

/**
 * The ciphertext does not authenticate: it was altered, or the context differs.
 */
#define MKMS_DECRYPTION_FAILED 402

/**
 * The plaintext is too long for the key's algorithm.
 */
#define MKMS_PLAINTEXT_TOO_LONG 403

/**
 * The cryptography provider failed.
 */
#define MKMS_CRYPTO_FAILURE 404

/**
 * The store cannot be reached, opened or written.
 */
#define MKMS_STORE_UNAVAILABLE 501

/**
 * Other callers or nodes wrote first until this node stopped retrying. Nothing was done.
 */
#define MKMS_STORE_CONTENDED 502

/**
 * The store's disk or quota is full.
 */
#define MKMS_STORE_FULL 503

/**
 * The store cannot be written: the file is read-only, or the process lacks write permission.
 */
#define MKMS_STORE_READ_ONLY 504

/**
 * The file is not a database, or its content is inconsistent.
 */
#define MKMS_STORE_CORRUPT 505

/**
 * The store was written by a newer version of this software.
 */
#define MKMS_SCHEMA_TOO_NEW 506

/**
 * Another process uses the store, and this one cannot share it.
 */
#define MKMS_STORE_IN_USE 507

/**
 * The store is older than its last known state: a backup or snapshot was restored and not acknowledged.
 */
#define MKMS_RESTORE_DETECTED 508

/**
 * A row, record or signature does not match its seal, the signing key or the log.
 */
#define MKMS_INTEGRITY_FAILURE 509

/**
 * The store failed during a commit, and it is not known whether the commit took place.
 */
#define MKMS_OUTCOME_UNKNOWN 510

/**
 * This machine's clock differs too much from the store's.
 */
#define MKMS_CLOCK_SKEW 511

/**
 * No root key was given, or it is malformed.
 */
#define MKMS_INVALID_ROOT_KEY 601

/**
 * The root key is not one that this store is wrapped under.
 */
#define MKMS_WRONG_ROOT_KEY 602

/**
 * The service that holds the root key cannot be reached, or throttles calls.
 */
#define MKMS_ROOT_KEY_UNAVAILABLE 603

/**
 * The service that holds the root key refuses to use it: access denied, key disabled or deleted.
 */
#define MKMS_ROOT_KEY_REFUSED 604

/**
 * The service has too much in flight. Nothing was done.
 */
#define MKMS_OVERLOADED 701

/**
 * This caller has too much in flight. Nothing was done.
 */
#define MKMS_CALLER_OVERLOADED 702

/**
 * The service is closed or closing.
 */
#define MKMS_CLOSED 703

/**
 * A handle was used in a process that was forked after the handle was made.
 */
#define MKMS_USED_AFTER_FORK 704

/**
 * A blocking call was made from within an asynchronous runtime.
 */
#define MKMS_BLOCKING_IN_ASYNC 705

/**
 * The caller's own input or output failed: a stream, a backup, a file.
 */
#define MKMS_INPUT_OUTPUT 706

/**
 * A fault in this software.
 */
#define MKMS_INTERNAL 901

/**
 * A panic: a fault in this software. Details are on standard error. Please report it.
 */
#define MKMS_INTERNAL_PANIC 990

/**
 * An app: may do what its grants allow.
 */
#define MKMS_ROLE_APP 1

/**
 * An auditor: may read keys, grants, metrics and the log, and verify the log.
 */
#define MKMS_ROLE_AUDITOR 2

/**
 * An admin: may do everything.
 */
#define MKMS_ROLE_ADMIN 3

/**
 * RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017, 8.2).
 */
#define MKMS_SIGN_RSA_PKCS1_SHA256 1

/**
 * RSASSA-PSS with SHA-256, MGF1-SHA256 and a salt of 32 bytes (RFC 8017, 8.1).
 */
#define MKMS_SIGN_RSA_PSS_SHA256 2

/**
 * Importing keys with their versions.
 */
#define MKMS_IMPORT_KEYS 1

/**
 * Importing the grants of the source.
 */
#define MKMS_IMPORT_GRANTS 2

/**
 * Importing the rows of the log.
 */
#define MKMS_IMPORT_LOG 3

/**
 * Rotating keys, and finalizing the import.
 */
#define MKMS_IMPORT_FINISH 4

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Returns the version of the library's interface, which may be newer than that of the header, and the version of the
 * software as text with a NUL at its end. The text lives as long as the library is loaded.
 *
 * `major`, `minor`, `patch` and `text` may be NULL.
 *
 * Errors: none.
 */
mkms_status mkms_version(uint32_t *major,
                         uint32_t *minor,
                         uint32_t *patch,
                         const char **text,
                         struct mkms_error **error);

/**
 * Reads the content of an error object.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`.
 */
mkms_status mkms_error_get(const struct mkms_error *object, struct mkms_error_info *info, struct mkms_error **error);

/**
 * Frees an error object and sets `*object` to NULL. NULL and a pointer to NULL are ignored.
 */
mkms_status mkms_error_free(struct mkms_error **object);

/**
 * Returns the bytes of a buffer, which live as long as the buffer. Text is UTF-8 and does not end with a NUL. The
 * pointer of an empty buffer is not NULL, but must not be read.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`.
 */
mkms_status mkms_buffer_get(const struct mkms_buffer *buffer,
                            const uint8_t **data,
                            size_t *data_len,
                            struct mkms_error **error);

/**
 * Wipes and frees a buffer, and sets `*buffer` to NULL. NULL and a pointer to NULL are ignored.
 */
mkms_status mkms_buffer_free(struct mkms_buffer **buffer);

/**
 * Creates an empty context, which the caller frees with `mkms_context_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`.
 */
mkms_status mkms_context_new(struct mkms_context **context, struct mkms_error **error);

/**
 * Sets an entry, and replaces an entry of the same name. The limits are checked when the context is used.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`.
 */
mkms_status mkms_context_set(struct mkms_context *context,
                             const char *name,
                             size_t name_len,
                             const char *value,
                             size_t value_len,
                             struct mkms_error **error);

/**
 * Frees a context and sets `*context` to NULL. NULL and a pointer to NULL are ignored.
 */
mkms_status mkms_context_free(struct mkms_context **context);

/**
 * Creates a configuration with the defaults and a store: `sqlite:PATH`, `mysql://...` or `postgres://...`. It needs a
 * root key before a service can be opened with it. The caller frees it with `mkms_config_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`. The URL is checked when a service is opened.
 */
mkms_status mkms_config_new(const char *store_url,
                            size_t store_url_len,
                            struct mkms_config **config,
                            struct mkms_error **error);

/**
 * Creates a configuration from TOML text. Unknown settings are refused. The caller frees it with `mkms_config_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_INVALID_CONFIGURATION`, `MKMS_INVALID_ROOT_KEY`.
 */
mkms_status mkms_config_from_toml(const char *toml,
                                  size_t toml_len,
                                  struct mkms_config **config,
                                  struct mkms_error **error);

/**
 * Creates a configuration from the environment (`KMS_...`) and an optional TOML file; the environment takes
 * precedence. The caller frees it with `mkms_config_free`.
 *
 * `path` may be NULL: then only the environment is read.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_INVALID_CONFIGURATION`, `MKMS_INVALID_ROOT_KEY`.
 */
mkms_status mkms_config_load(const char *path, size_t path_len, struct mkms_config **config, struct mkms_error **error);

/**
 * Frees a configuration, wipes its root key, and sets `*config` to NULL. NULL and a pointer to NULL are ignored.
 */
mkms_status mkms_config_free(struct mkms_config **config);

/**
 * Sets the URL of the store.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`.
 */
mkms_status mkms_config_store_url(struct mkms_config *config,
                                  const char *url,
                                  size_t url_len,
                                  struct mkms_error **error);

/**
 * Sets the file with the password for the store's URL, of mode 0600. It is read when a service is opened.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`.
 */
mkms_status mkms_config_store_password_file(struct mkms_config *config,
                                            const char *path,
                                            size_t path_len,
                                            struct mkms_error **error);

/**
 * Sets the grace period in days for keys that have none of their own: how long former versions decrypt and verify.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`.
 */
mkms_status mkms_config_grace_days(struct mkms_config *config, uint32_t days, struct mkms_error **error);

/**
 * Sets when results are returned: `durable` (once their record is on disk) or `queued` (earlier; see
 * docs/operations.md).
 *
 * Errors: `MKMS_INVALID_ARGUMENT`.
 */
mkms_status mkms_config_audit_ack(struct mkms_config *config,
                                  const char *ack,
                                  size_t ack_len,
                                  struct mkms_error **error);

/**
 * Sets the cryptography provider: `aws-lc` or `rust-crypto`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_INVALID_CONFIGURATION`.
 */
mkms_status mkms_config_crypto_provider(struct mkms_config *config,
                                        const char *provider,
                                        size_t provider_len,
                                        struct mkms_error **error);

/**
 * Sets the jobs of the scheduler. Without this call it runs every hour on the hour, and does everything except
 * revoking.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`. The expression is checked when a service is opened.
 */
mkms_status mkms_config_scheduler(struct mkms_config *config,
                                  const struct mkms_scheduler *scheduler,
                                  struct mkms_error **error);

/**
 * Sets the maximum number of unwrapped keys in memory, and how long each is kept.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`. The range is checked when a service is opened.
 */
mkms_status mkms_config_cache(struct mkms_config *config,
                              uint64_t size,
                              uint64_t ttl_seconds,
                              struct mkms_error **error);

/**
 * Sets the default and the minimum number of days that a scheduled deletion waits.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`. The range is checked when a service is opened.
 */
mkms_status mkms_config_deletion_wait(struct mkms_config *config,
                                      uint32_t days,
                                      uint32_t minimum_days,
                                      struct mkms_error **error);

/**
 * Sets the limits for operations in flight: their number, and the bytes of their results.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`. The range is checked when a service is opened.
 */
mkms_status mkms_config_limits(struct mkms_config *config,
                               size_t operations,
                               size_t result_bytes,
                               struct mkms_error **error);

/**
 * Sets the high-water file, which keeps the last signed head outside the store. A store that is older than this head
 * is refused.
 *
 * `path` may be NULL: then there is no high-water file.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`.
 */
mkms_status mkms_config_high_water(struct mkms_config *config,
                                   const char *path,
                                   size_t path_len,
                                   struct mkms_error **error);

/**
 * Sets whether opening creates a missing store, which is the default.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`.
 */
mkms_status mkms_config_make_store(struct mkms_config *config, bool make, struct mkms_error **error);

/**
 * Sets whether opening accepts once that the store was rolled back to an older state. An audit record says which
 * records were lost.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`.
 */
mkms_status mkms_config_acknowledge_restore(struct mkms_config *config, bool acknowledge, struct mkms_error **error);

/**
 * Accepts that the time of the log's last record is in the future. `now` is the current time (RFC 3339) from a source
 * other than this machine's clock.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`.
 */
mkms_status mkms_config_acknowledge_clock(struct mkms_config *config,
                                          const char *now,
                                          size_t now_len,
                                          struct mkms_error **error);

/**
 * Sets the number of free bytes below which there is an alarm, and the size of the disk reserve for revocations in
 * bytes; 0 for none.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`. The range is checked when a service is opened.
 */
mkms_status mkms_config_disk_space(struct mkms_config *config,
                                   uint64_t alarm_bytes,
                                   uint64_t reserve_bytes,
                                   struct mkms_error **error);

/**
 * Sets whether the memory of the whole process is kept out of swap (`mlockall`), where that is permitted.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`.
 */
mkms_status mkms_config_lock_memory(struct mkms_config *config, bool lock, struct mkms_error **error);

/**
 * Sets the number of days within which incremental verifications read the whole log again; 0: each of them reads all
 * of it.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`.
 */
mkms_status mkms_config_reverify_days(struct mkms_config *config, uint32_t days, struct mkms_error **error);

/**
 * Sets the root key as text: `passphrase:...`, `base64:...`, `hex:...` or `file:PATH`, as `docs/configuration.md`
 * describes.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_INVALID_ROOT_KEY`.
 */
mkms_status mkms_config_root_key(struct mkms_config *config,
                                 const char *root_key,
                                 size_t root_key_len,
                                 struct mkms_error **error);

/**
 * Sets the root key as 32 bytes, which are copied.
 *
 * Errors: `MKMS_INVALID_ARGUMENT` if there are not exactly 32 bytes.
 */
mkms_status mkms_config_root_key_bytes(struct mkms_config *config,
                                       const uint8_t *root_key,
                                       size_t root_key_len,
                                       struct mkms_error **error);

/**
 * Adds another root key as text: the key of a generation that the store already has, or of one that will be added with
 * `mkms_add_root_key`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_INVALID_ROOT_KEY`.
 */
mkms_status mkms_config_add_root_key(struct mkms_config *config,
                                     const char *root_key,
                                     size_t root_key_len,
                                     struct mkms_error **error);

/**
 * Adds another root key as 32 bytes, which are copied.
 *
 * Errors: `MKMS_INVALID_ARGUMENT` if there are not exactly 32 bytes.
 */
mkms_status mkms_config_add_root_key_bytes(struct mkms_config *config,
                                           const uint8_t *root_key,
                                           size_t root_key_len,
                                           struct mkms_error **error);

/**
 * Sets a key in AWS KMS as the root key. The library must have been built with the feature `aws-kms`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`. The names and the use of the key are checked when a service is opened.
 */
mkms_status mkms_config_aws_root_key(struct mkms_config *config,
                                     const struct mkms_aws_root_key *root_key,
                                     struct mkms_error **error);

/**
 * Adds a key in AWS KMS as another root key, as `mkms_config_add_root_key` does for a local one.
 *
 * Errors: those of `mkms_config_aws_root_key`.
 */
mkms_status mkms_config_add_aws_root_key(struct mkms_config *config,
                                         const struct mkms_aws_root_key *root_key,
                                         struct mkms_error **error);

/**
 * Opens the store, and creates it if it is missing. The caller closes the service with `mkms_close` and frees it with
 * `mkms_kms_free`. A SQLite store must not be opened by another copy of SQLite in the same process: when that copy
 * closes the file, the process loses the locks of this library (POSIX).
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_INVALID_CONFIGURATION`, `MKMS_INVALID_ROOT_KEY`, `MKMS_WRONG_ROOT_KEY`,
 * `MKMS_STORE_CORRUPT`, `MKMS_SCHEMA_TOO_NEW`, `MKMS_STORE_READ_ONLY`, `MKMS_STORE_IN_USE`, `MKMS_STORE_UNAVAILABLE`,
 * `MKMS_INTEGRITY_FAILURE`, `MKMS_RESTORE_DETECTED`, `MKMS_CLOCK_SKEW`, `MKMS_USED_AFTER_FORK` if the parent of this
 * process had a SQLite store open when it forked.
 */
mkms_status mkms_open(const struct mkms_config *config, struct mkms_kms **kms, struct mkms_error **error);

/**
 * Opens a SQLite store without writing anything, also on a read-only medium. Listing, describing and verifying work;
 * operations that need an audit record fail with `MKMS_STORE_READ_ONLY`.
 *
 * Errors: those of `mkms_open`.
 */
mkms_status mkms_open_read_only(const struct mkms_config *config, struct mkms_kms **kms, struct mkms_error **error);

/**
 * Closes the service: refuses new calls, commits the operations in flight, and wipes key material. Later calls through
 * its sessions return `MKMS_CLOSED`. The service is closed even if this call fails. Closing twice changes nothing.
 *
 * Errors: with `audit.ack = "queued"`, the reason why records of returned results could not be written;
 * `MKMS_USED_AFTER_FORK`.
 */
mkms_status mkms_close(const struct mkms_kms *kms, struct mkms_error **error);

/**
 * Frees the handle of a service and sets `*kms` to NULL; it never fails after `mkms_close`. Remaining sessions keep
 * working until the service is closed, so close it first. In a forked child the handle is leaked. NULL and a pointer
 * to NULL are ignored.
 */
mkms_status mkms_kms_free(struct mkms_kms **kms);

/**
 * Creates a session of a principal in a role. The principal is not authenticated: the program vouches for it. The
 * caller frees the session with `mkms_session_free`.
 *
 * `options` may be NULL.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, also for reserved principals; `MKMS_USED_AFTER_FORK`.
 */
mkms_status mkms_session_new(const struct mkms_kms *kms,
                             const char *principal,
                             size_t principal_len,
                             mkms_role role,
                             const struct mkms_session_options *options,
                             struct mkms_session **session,
                             struct mkms_error **error);

/**
 * Creates a session of the operator: an admin who is identified only by access to the store and its root key. The
 * caller frees it with `mkms_session_free`.
 *
 * `options` may be NULL.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_USED_AFTER_FORK`.
 */
mkms_status mkms_session_new_operator(const struct mkms_kms *kms,
                                      const struct mkms_session_options *options,
                                      struct mkms_session **session,
                                      struct mkms_error **error);

/**
 * Creates a session of the principal that a token was issued to. The token is checked again before anything is
 * committed. The caller frees the session with `mkms_session_free`.
 *
 * `options` may be NULL.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_NOT_AUTHENTICATED`, `MKMS_CLOSED`, `MKMS_USED_AFTER_FORK`.
 */
mkms_status mkms_session_authenticate(const struct mkms_kms *kms,
                                      const char *token,
                                      size_t token_len,
                                      const struct mkms_session_options *options,
                                      struct mkms_session **session,
                                      struct mkms_error **error);

/**
 * Creates a session of the same actor with other options, such as those of one request. Options that are not given are
 * not inherited. The caller frees it with `mkms_session_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_USED_AFTER_FORK`.
 */
mkms_status mkms_session_with(const struct mkms_session *session,
                              const struct mkms_session_options *options,
                              struct mkms_session **derived,
                              struct mkms_error **error);

/**
 * Frees a session and sets `*session` to NULL. In a forked child it is leaked. NULL and a pointer to NULL are ignored.
 */
mkms_status mkms_session_free(struct mkms_session **session);

/**
 * Encrypts up to 64 MiB (RSA: 190 bytes) under the current version of a key, which `key` identifies by name or id. The
 * ciphertext is bound to `context`. The caller frees it with `mkms_buffer_free`.
 *
 * `context` and `operation` may be NULL.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_PURPOSE`, key state errors,
 * `MKMS_PLAINTEXT_TOO_LONG`, `MKMS_KEY_EXHAUSTED`; service errors.
 */
mkms_status mkms_encrypt(const struct mkms_session *session,
                         const char *key,
                         size_t key_len,
                         const uint8_t *plaintext,
                         size_t plaintext_len,
                         const struct mkms_context *context,
                         struct mkms_buffer **ciphertext,
                         struct mkms_operation *operation,
                         struct mkms_error **error);

/**
 * Like `mkms_encrypt`, but writes to a buffer of the caller, which may be that of the plaintext. The buffer must have
 * room for `mkms_ciphertext_max(plaintext_len)` bytes. If it is smaller, `*ciphertext_len` is set to that number, and
 * nothing is encrypted or recorded.
 *
 * `context` and `operation` may be NULL; `ciphertext` may be NULL if `ciphertext_capacity` is 0.
 *
 * Errors: those of `mkms_encrypt`, `MKMS_BUFFER_TOO_SMALL`.
 */
mkms_status mkms_encrypt_into(const struct mkms_session *session,
                              const char *key,
                              size_t key_len,
                              const uint8_t *plaintext,
                              size_t plaintext_len,
                              const struct mkms_context *context,
                              uint8_t *ciphertext,
                              size_t ciphertext_capacity,
                              size_t *ciphertext_len,
                              struct mkms_operation *operation,
                              struct mkms_error **error);

/**
 * Returns the maximum length of the ciphertext for a plaintext of this length, whatever the type of the key.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`.
 */
mkms_status mkms_ciphertext_max(size_t plaintext_len, size_t *ciphertext_len, struct mkms_error **error);

/**
 * Decrypts a ciphertext of `mkms_encrypt`; the context must be the same. The ciphertext names its key and version. The
 * caller frees the plaintext with `mkms_buffer_free`, which wipes it.
 *
 * `context` and `operation` may be NULL.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_INVALID_CIPHERTEXT`, `MKMS_DECRYPTION_FAILED`, `MKMS_ACCESS_DENIED`,
 * `MKMS_KEY_NOT_FOUND`, key state errors, version state errors, service errors.
 */
mkms_status mkms_decrypt(const struct mkms_session *session,
                         const uint8_t *ciphertext,
                         size_t ciphertext_len,
                         const struct mkms_context *context,
                         struct mkms_buffer **plaintext,
                         struct mkms_operation *operation,
                         struct mkms_error **error);

/**
 * Like `mkms_decrypt`, but writes to a buffer of the caller, which may be that of the ciphertext. The buffer must have
 * room for the plaintext (RSA: for 190 bytes). If it is smaller, `*plaintext_len` is set to the required size, and
 * nothing is decrypted or recorded.
 *
 * `context` and `operation` may be NULL; `plaintext` may be NULL if `plaintext_capacity` is 0.
 *
 * Errors: those of `mkms_decrypt`, `MKMS_BUFFER_TOO_SMALL`.
 */
mkms_status mkms_decrypt_into(const struct mkms_session *session,
                              const uint8_t *ciphertext,
                              size_t ciphertext_len,
                              const struct mkms_context *context,
                              uint8_t *plaintext,
                              size_t plaintext_capacity,
                              size_t *plaintext_len,
                              struct mkms_operation *operation,
                              struct mkms_error **error);

/**
 * Decrypts a ciphertext if it agrees with the key, version, nonce and tag in the item; otherwise it fails with
 * `MKMS_INVALID_CIPHERTEXT`. With `oaep_version` the ciphertext is not in the format of this service but raw RSA-OAEP
 * with SHA-256. The caller frees the plaintext with `mkms_buffer_free`, which wipes it.
 *
 * `operation` may be NULL.
 *
 * Errors: those of `mkms_decrypt`.
 */
mkms_status mkms_decrypt_checked(const struct mkms_session *session,
                                 const struct mkms_decrypt_item *item,
                                 struct mkms_buffer **plaintext,
                                 struct mkms_operation *operation,
                                 struct mkms_error **error);

/**
 * Signs up to 64 MiB with the current version of an RSA key. The caller frees the signature with `mkms_buffer_free`.
 *
 * `operation` may be NULL.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_PURPOSE`,
 * `MKMS_WRONG_KEY_TYPE`, key state errors, service errors.
 */
mkms_status mkms_sign(const struct mkms_session *session,
                      const char *key,
                      size_t key_len,
                      const uint8_t *payload,
                      size_t payload_len,
                      mkms_signing_algorithm algorithm,
                      struct mkms_buffer **signature,
                      struct mkms_operation *operation,
                      struct mkms_error **error);

/**
 * Like `mkms_sign`, but writes to a buffer of the caller, which must have room for 256 bytes. If it is smaller,
 * `*signature_len` is set to 256, and nothing is signed or recorded.
 *
 * `operation` may be NULL; `signature` may be NULL if `signature_capacity` is 0.
 *
 * Errors: those of `mkms_sign`, `MKMS_BUFFER_TOO_SMALL`.
 */
mkms_status mkms_sign_into(const struct mkms_session *session,
                           const char *key,
                           size_t key_len,
                           const uint8_t *payload,
                           size_t payload_len,
                           mkms_signing_algorithm algorithm,
                           uint8_t *signature,
                           size_t signature_capacity,
                           size_t *signature_len,
                           struct mkms_operation *operation,
                           struct mkms_error **error);

/**
 * Signs with this version of a key, which must be the current one. The caller frees the signature with
 * `mkms_buffer_free`.
 *
 * `operation` may be NULL.
 *
 * Errors: those of `mkms_sign`, `MKMS_VERSION_NOT_CURRENT`, `MKMS_VERSION_NOT_FOUND`.
 */
mkms_status mkms_sign_with_version(const struct mkms_session *session,
                                   const char *key,
                                   size_t key_len,
                                   uint32_t version,
                                   const uint8_t *payload,
                                   size_t payload_len,
                                   mkms_signing_algorithm algorithm,
                                   struct mkms_buffer **signature,
                                   struct mkms_operation *operation,
                                   struct mkms_error **error);

/**
 * Verifies a signature. An invalid signature is not an error: `*valid` is set to false. `version` 0 tries the usable
 * versions, newest first, at most 10,000; if a key has more, the call fails with `MKMS_INVALID_ARGUMENT`, and the
 * version must be given.
 *
 * `operation` may be NULL.
 *
 * Errors: those of `mkms_sign`.
 */
mkms_status mkms_verify(const struct mkms_session *session,
                        const char *key,
                        size_t key_len,
                        uint32_t version,
                        const uint8_t *payload,
                        size_t payload_len,
                        const uint8_t *signature,
                        size_t signature_len,
                        mkms_signing_algorithm algorithm,
                        bool *valid,
                        struct mkms_operation *operation,
                        struct mkms_error **error);

/**
 * Generates a data key of 1 to 1,024 bytes, and encrypts it under a key. Use the plaintext and wipe it; store the
 * ciphertext with the data. The caller frees both with `mkms_buffer_free`.
 *
 * `context` and `operation` may be NULL; `plaintext` may be NULL: then only the ciphertext is returned.
 *
 * Errors: those of `mkms_encrypt`.
 */
mkms_status mkms_generate_data_key(const struct mkms_session *session,
                                   const char *key,
                                   size_t key_len,
                                   size_t data_key_len,
                                   const struct mkms_context *context,
                                   struct mkms_buffer **plaintext,
                                   struct mkms_buffer **ciphertext,
                                   struct mkms_operation *operation,
                                   struct mkms_error **error);

/**
 * Like `mkms_generate_data_key`, but writes to buffers of the caller. They must have room for `data_key_len` bytes of
 * plaintext and `mkms_ciphertext_max(data_key_len)` bytes of ciphertext; otherwise nothing is done.
 *
 * `context` and `operation` may be NULL; `ciphertext` may be NULL if `ciphertext_capacity` is 0.
 *
 * Errors: those of `mkms_encrypt`, `MKMS_BUFFER_TOO_SMALL`.
 */
mkms_status mkms_generate_data_key_into(const struct mkms_session *session,
                                        const char *key,
                                        size_t key_len,
                                        uint8_t *plaintext,
                                        size_t data_key_len,
                                        const struct mkms_context *context,
                                        uint8_t *ciphertext,
                                        size_t ciphertext_capacity,
                                        size_t *ciphertext_len,
                                        struct mkms_operation *operation,
                                        struct mkms_error **error);

/**
 * Re-encrypts a ciphertext under the current version of its key or of another one. The plaintext is not returned.
 * Needs the permission `decrypt` on the source and `encrypt` on the destination. The caller frees the new ciphertext
 * with `mkms_buffer_free`.
 *
 * `operation` may be NULL.
 *
 * Errors: those of `mkms_decrypt` and `mkms_encrypt`.
 */
mkms_status mkms_reencrypt(const struct mkms_session *session,
                           const struct mkms_reencrypt_item *item,
                           struct mkms_buffer **ciphertext,
                           struct mkms_operation *operation,
                           struct mkms_error **error);

/**
 * Encrypts up to 1,000 plaintexts in one call and one commit. Items fail independently. The caller frees the results
 * with `mkms_results_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, also if one of the items cannot be read (then nothing is done); service errors. An
 * item's own errors are those of `mkms_encrypt`.
 */
mkms_status mkms_encrypt_batch(const struct mkms_session *session,
                               const struct mkms_encrypt_item *items,
                               size_t items_len,
                               struct mkms_results **results,
                               struct mkms_error **error);

/**
 * Decrypts up to 1,000 ciphertexts in one call and one commit. Items fail independently. The caller frees the results
 * with `mkms_results_free`.
 *
 * Errors: those of `mkms_encrypt_batch`. An item's own errors are those of `mkms_decrypt`.
 */
mkms_status mkms_decrypt_batch(const struct mkms_session *session,
                               const struct mkms_decrypt_item *items,
                               size_t items_len,
                               struct mkms_results **results,
                               struct mkms_error **error);

/**
 * Signs up to 1,000 payloads in one call and one commit. Items fail independently. The caller frees the results with
 * `mkms_results_free`.
 *
 * Errors: those of `mkms_encrypt_batch`. An item's own errors are those of `mkms_sign`.
 */
mkms_status mkms_sign_batch(const struct mkms_session *session,
                            const struct mkms_sign_item *items,
                            size_t items_len,
                            struct mkms_results **results,
                            struct mkms_error **error);

/**
 * Verifies up to 1,000 signatures in one call and one commit. Items fail independently. The caller frees the results
 * with `mkms_results_free`.
 *
 * Errors: those of `mkms_encrypt_batch`. An item's own errors are those of `mkms_verify`.
 */
mkms_status mkms_verify_batch(const struct mkms_session *session,
                              const struct mkms_verify_item *items,
                              size_t items_len,
                              struct mkms_results **results,
                              struct mkms_error **error);

/**
 * Re-encrypts up to 1,000 ciphertexts in one call and one commit. Items fail independently. The caller frees the
 * results with `mkms_results_free`.
 *
 * Errors: those of `mkms_encrypt_batch`. An item's own errors are those of `mkms_reencrypt`.
 */
mkms_status mkms_reencrypt_batch(const struct mkms_session *session,
                                 const struct mkms_reencrypt_item *items,
                                 size_t items_len,
                                 struct mkms_results **results,
                                 struct mkms_error **error);

/**
 * Returns the number of results, which equals the number of items.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`.
 */
mkms_status mkms_results_count(const struct mkms_results *results, size_t *count, struct mkms_error **error);

/**
 * Reads the result of an item; the first item has index 0.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`.
 */
mkms_status mkms_results_get(const struct mkms_results *results,
                             size_t index,
                             struct mkms_result *result,
                             struct mkms_error **error);

/**
 * Wipes and frees results, and sets `*results` to NULL. NULL and a pointer to NULL are ignored.
 */
mkms_status mkms_results_free(struct mkms_results **results);

/**
 * Encrypts all input of `read`, and passes the ciphertext to `write`, in constant memory. After an error, the output
 * is incomplete, and decrypting it fails. `user` is passed to the callbacks, which are called on this thread.
 *
 * `context`, `user` and `summary` may be NULL.
 *
 * Errors: those of `mkms_encrypt`, `MKMS_INPUT_OUTPUT` if a callback failed.
 */
mkms_status mkms_encrypt_stream(const struct mkms_session *session,
                                const char *key,
                                size_t key_len,
                                const struct mkms_context *context,
                                mkms_read read,
                                mkms_write write,
                                void *user,
                                struct mkms_stream_summary *summary,
                                struct mkms_error **error);

/**
 * Decrypts all input of `read`, and passes the plaintext to `write`, in constant memory. The output is authentic, but
 * it is complete only if the call returns `MKMS_OK`: do not act on it earlier. `user` is passed to the callbacks,
 * which are called on this thread.
 *
 * `context`, `user` and `summary` may be NULL.
 *
 * Errors: those of `mkms_decrypt`, `MKMS_INPUT_OUTPUT` if a callback failed.
 */
mkms_status mkms_decrypt_stream(const struct mkms_session *session,
                                const struct mkms_context *context,
                                mkms_read read,
                                mkms_write write,
                                void *user,
                                struct mkms_stream_summary *summary,
                                struct mkms_error **error);

/**
 * Begins to encrypt a stream under the current version of a key, bound to `context`. One audit record is written, for
 * the stream's data key. The caller frees the encryptor with `mkms_encryptor_free`.
 *
 * `context` may be NULL.
 *
 * Errors: those of `mkms_encrypt`.
 */
mkms_status mkms_encryptor_new(const struct mkms_session *session,
                               const char *key,
                               size_t key_len,
                               const struct mkms_context *context,
                               struct mkms_encryptor **encryptor,
                               struct mkms_error **error);

/**
 * Takes plaintext of any length, and returns the ciphertext that is ready, which is often empty. The caller frees it
 * with `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT` after the end and for a piece for which memory is insufficient,
 * `MKMS_PLAINTEXT_TOO_LONG`, `MKMS_USED_AFTER_FORK`.
 */
mkms_status mkms_encryptor_update(const struct mkms_encryptor *encryptor,
                                  const uint8_t *plaintext,
                                  size_t plaintext_len,
                                  struct mkms_buffer **ciphertext,
                                  struct mkms_error **error);

/**
 * Ends the stream and returns the rest of the ciphertext; without it, decryption fails. The caller frees it with
 * `mkms_buffer_free`.
 *
 * `summary` may be NULL.
 *
 * Errors: `MKMS_INVALID_ARGUMENT` after the end, `MKMS_USED_AFTER_FORK`.
 */
mkms_status mkms_encryptor_finish(const struct mkms_encryptor *encryptor,
                                  struct mkms_buffer **ciphertext,
                                  struct mkms_stream_summary *summary,
                                  struct mkms_error **error);

/**
 * Frees an encryptor and sets `*encryptor` to NULL. NULL and a pointer to NULL are ignored.
 */
mkms_status mkms_encryptor_free(struct mkms_encryptor **encryptor);

/**
 * Begins to decrypt a stream that is bound to `context`. The data key is decrypted, with one record, once the header
 * of the stream is complete. The caller frees the decryptor with `mkms_decryptor_free`.
 *
 * `context` may be NULL.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_USED_AFTER_FORK`.
 */
mkms_status mkms_decryptor_new(const struct mkms_session *session,
                               const struct mkms_context *context,
                               struct mkms_decryptor **decryptor,
                               struct mkms_error **error);

/**
 * Takes ciphertext of any length, and returns the plaintext that is ready, which is often empty. It is authentic, but
 * it is complete only when `mkms_decryptor_finish` returns `MKMS_OK`: do not act on it earlier. The caller frees it
 * with `mkms_buffer_free`, which wipes it.
 *
 * Errors: those of `mkms_decrypt`, `MKMS_INVALID_ARGUMENT` after the end or another error, and for a piece for which
 * memory is insufficient.
 */
mkms_status mkms_decryptor_update(const struct mkms_decryptor *decryptor,
                                  const uint8_t *ciphertext,
                                  size_t ciphertext_len,
                                  struct mkms_buffer **plaintext,
                                  struct mkms_error **error);

/**
 * Ends the stream and returns the rest of the plaintext. `MKMS_OK` means that the stream was complete. The caller
 * frees the plaintext with `mkms_buffer_free`, which wipes it.
 *
 * `summary` may be NULL.
 *
 * Errors: `MKMS_DECRYPTION_FAILED` if the stream was cut or altered, `MKMS_INVALID_CIPHERTEXT` if it ends within its
 * header, `MKMS_INVALID_ARGUMENT` after the end or another error, `MKMS_USED_AFTER_FORK`.
 */
mkms_status mkms_decryptor_finish(const struct mkms_decryptor *decryptor,
                                  struct mkms_buffer **plaintext,
                                  struct mkms_stream_summary *summary,
                                  struct mkms_error **error);

/**
 * Frees a decryptor and sets `*decryptor` to NULL. NULL and a pointer to NULL are ignored.
 */
mkms_status mkms_decryptor_free(struct mkms_decryptor **decryptor);

/**
 * Creates a key with its first version. `request` is a JSON object with `name`, `type` (`AES256_GCM`, `RSA_2048`),
 * `purpose` (`ENCRYPTION`, `SIGNING`), and optionally `rotationPeriodDays`, `gracePeriodDays`, `metadata`,
 * `auditContext`. The result is the key with its `versions`, as JSON, which the caller frees with `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_INVALID_NAME`, `MKMS_NAME_TAKEN`, `MKMS_WRONG_PURPOSE`, `MKMS_ACCESS_DENIED`,
 * service errors.
 */
mkms_status mkms_create_key(const struct mkms_session *session,
                            const char *request,
                            size_t request_len,
                            struct mkms_buffer **answer,
                            struct mkms_error **error);

/**
 * Returns the keys that the caller may read, by name, without their versions: a JSON object with `items` and, unless
 * it is the last page, `nextCursor`. `query` is a JSON object with `limit` (100), `cursor`, `state`, `type`,
 * `purpose`, `namePrefix`, all optional. The caller frees the result with `mkms_buffer_free`.
 *
 * `query` may be NULL.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_NOT_AUTHENTICATED`, service errors.
 */
mkms_status mkms_list_keys(const struct mkms_session *session,
                           const char *query,
                           size_t query_len,
                           struct mkms_buffer **answer,
                           struct mkms_error **error);

/**
 * Returns a key, identified by name or id, with its `versions` as JSON. The caller frees it with `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, service errors.
 */
mkms_status mkms_get_key(const struct mkms_session *session,
                         const char *key,
                         size_t key_len,
                         struct mkms_buffer **answer,
                         struct mkms_error **error);

/**
 * Rotates a key: creates a new current version. `request` is a JSON object with the optional field
 * `expectedCurrentVersion`: with it, the call fails with `MKMS_CONFLICT` if another rotation came first. The result is
 * the key as JSON, which the caller frees with `mkms_buffer_free`.
 *
 * `request` may be NULL.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, `MKMS_CONFLICT`, `MKMS_WRONG_STATE`,
 * key state errors, service errors.
 */
mkms_status mkms_rotate_key(const struct mkms_session *session,
                            const char *key,
                            size_t key_len,
                            const char *request,
                            size_t request_len,
                            struct mkms_buffer **answer,
                            struct mkms_error **error);

/**
 * Enables a disabled key. The result is the key as JSON, which the caller frees with `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_STATE`, key state errors,
 * version state errors, service errors.
 */
mkms_status mkms_enable_key(const struct mkms_session *session,
                            const char *key,
                            size_t key_len,
                            struct mkms_buffer **answer,
                            struct mkms_error **error);

/**
 * Disables a key: no cryptography and no rotation until it is enabled again. The result is the key as JSON, which the
 * caller frees with `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_STATE`, key state errors,
 * version state errors, service errors.
 */
mkms_status mkms_disable_key(const struct mkms_session *session,
                             const char *key,
                             size_t key_len,
                             struct mkms_buffer **answer,
                             struct mkms_error **error);

/**
 * Revokes a key with all its versions, permanently. Its ciphertexts can no longer be decrypted. The result is the key
 * as JSON, which the caller frees with `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_STATE`, key state errors,
 * version state errors, service errors.
 */
mkms_status mkms_revoke_key(const struct mkms_session *session,
                            const char *key,
                            size_t key_len,
                            struct mkms_buffer **answer,
                            struct mkms_error **error);

/**
 * Cancels a scheduled deletion. The result is the key as JSON, which the caller frees with `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_STATE`, key state errors,
 * version state errors, service errors.
 */
mkms_status mkms_cancel_deletion(const struct mkms_session *session,
                                 const char *key,
                                 size_t key_len,
                                 struct mkms_buffer **answer,
                                 struct mkms_error **error);

/**
 * Erases the material of former versions of a key that are revoked or past their grace window. They stay in the key's
 * history as `DESTROYED`, and no longer count towards the limit of versions. Many versions are erased in several
 * steps; if the call fails in between, repeat it to continue. The result is the key as JSON, which the caller frees
 * with `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_STATE`, key state errors,
 * version state errors, service errors.
 */
mkms_status mkms_trim_key(const struct mkms_session *session,
                          const char *key,
                          size_t key_len,
                          struct mkms_buffer **answer,
                          struct mkms_error **error);

/**
 * Edits a key. `request` is a JSON object with at least one of `rotationPeriodDays`, `gracePeriodDays`, `metadata`
 * (null removes), `auditContext`, and optionally `expectedRevision`. The result is the key as JSON, which the caller
 * frees with `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, `MKMS_CONFLICT`, key state errors,
 * service errors.
 */
mkms_status mkms_update_key(const struct mkms_session *session,
                            const char *key,
                            size_t key_len,
                            const char *request,
                            size_t request_len,
                            struct mkms_buffer **answer,
                            struct mkms_error **error);

/**
 * Schedules the erasure of a key's material. `request` is a JSON object with the optional field `waitingDays` (30).
 * The result is the key as JSON, which the caller frees with `mkms_buffer_free`.
 *
 * `request` may be NULL.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_STATE`, key state errors,
 * version state errors, service errors.
 */
mkms_status mkms_schedule_deletion(const struct mkms_session *session,
                                   const char *key,
                                   size_t key_len,
                                   const char *request,
                                   size_t request_len,
                                   struct mkms_buffer **answer,
                                   struct mkms_error **error);

/**
 * Returns the versions of a key, oldest first: a JSON object with `items` and, unless it is the last page,
 * `nextCursor`. `query` is a JSON object with `limit` (100) and `cursor`, both optional. The caller frees the result
 * with `mkms_buffer_free`.
 *
 * `query` may be NULL.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, service errors.
 */
mkms_status mkms_list_versions(const struct mkms_session *session,
                               const char *key,
                               size_t key_len,
                               const char *query,
                               size_t query_len,
                               struct mkms_buffer **answer,
                               struct mkms_error **error);

/**
 * Returns a version of a key as JSON. The caller frees it with `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_VERSION_NOT_FOUND`, `MKMS_ACCESS_DENIED`, service
 * errors.
 */
mkms_status mkms_get_version(const struct mkms_session *session,
                             const char *key,
                             size_t key_len,
                             uint32_t version,
                             struct mkms_buffer **answer,
                             struct mkms_error **error);

/**
 * Returns the public key of a version of an RSA key as PEM (SubjectPublicKeyInfo). The caller frees it with
 * `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_VERSION_NOT_FOUND`, `MKMS_WRONG_KEY_TYPE`,
 * `MKMS_ACCESS_DENIED`, service errors.
 */
mkms_status mkms_public_key(const struct mkms_session *session,
                            const char *key,
                            size_t key_len,
                            uint32_t version,
                            struct mkms_buffer **answer,
                            struct mkms_error **error);

/**
 * Enables the current version of a key after it was disabled. The result is the key as JSON, which the caller frees
 * with `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_STATE`, key state errors,
 * version state errors, service errors.
 */
mkms_status mkms_enable_version(const struct mkms_session *session,
                                const char *key,
                                size_t key_len,
                                uint32_t version,
                                struct mkms_buffer **answer,
                                struct mkms_error **error);

/**
 * Disables a version of a key: it no longer encrypts or signs. The result is the key as JSON, which the caller frees
 * with `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_STATE`, key state errors,
 * version state errors, service errors.
 */
mkms_status mkms_disable_version(const struct mkms_session *session,
                                 const char *key,
                                 size_t key_len,
                                 uint32_t version,
                                 struct mkms_buffer **answer,
                                 struct mkms_error **error);

/**
 * Revokes a version of a key, permanently, and ends its grace window now. The result is the key as JSON, which the
 * caller frees with `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_STATE`, key state errors,
 * version state errors, service errors.
 */
mkms_status mkms_revoke_version(const struct mkms_session *session,
                                const char *key,
                                size_t key_len,
                                uint32_t version,
                                struct mkms_buffer **answer,
                                struct mkms_error **error);

/**
 * Sets the end of the grace window of a former version, until which it decrypts and verifies. `request` is a JSON
 * object with `notAfter`: a time (RFC 3339), or null for no end. The result is the key as JSON, which the caller frees
 * with `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_STATE`, key state errors,
 * version state errors, service errors.
 */
mkms_status mkms_set_window(const struct mkms_session *session,
                            const char *key,
                            size_t key_len,
                            uint32_t version,
                            const char *request,
                            size_t request_len,
                            struct mkms_buffer **answer,
                            struct mkms_error **error);

/**
 * Creates a grant, or replaces the one that the principal has from the same grantor on the same keys. `request` is a
 * JSON object with `principal`, `role` (`admin`, `auditor`, `app`), `keyId` (a key's id or name, or `*`),
 * `allowedOps`, and optionally `conditions`. The result is the grant as JSON, which the caller frees with
 * `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, service errors.
 */
mkms_status mkms_put_grant(const struct mkms_session *session,
                           const char *request,
                           size_t request_len,
                           struct mkms_buffer **answer,
                           struct mkms_error **error);

/**
 * Withdraws a grant, identified by its id. Grants that were passed on through it stay in force.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_GRANT_NOT_FOUND`, `MKMS_ACCESS_DENIED`, service errors.
 */
mkms_status mkms_revoke_grant(const struct mkms_session *session,
                              const char *id,
                              size_t id_len,
                              struct mkms_error **error);

/**
 * Withdraws a grant, identified by its id, and all grants that were passed on through it.
 *
 * Errors: those of `mkms_revoke_grant`.
 */
mkms_status mkms_revoke_grant_cascading(const struct mkms_session *session,
                                        const char *id,
                                        size_t id_len,
                                        struct mkms_error **error);

/**
 * Returns the grants in force, by principal: a JSON object with `items` and, unless it is the last page, `nextCursor`.
 * `query` is a JSON object with `limit` (100), `cursor`, `principal`, `keyId`, all optional. The caller frees the
 * result with `mkms_buffer_free`.
 *
 * `query` may be NULL.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors.
 */
mkms_status mkms_list_grants(const struct mkms_session *session,
                             const char *query,
                             size_t query_len,
                             struct mkms_buffer **answer,
                             struct mkms_error **error);

/**
 * Creates a token. `request` is a JSON object with `principal`, and optionally `role` (`admin`, `auditor`, `app`;
 * default `app`), `label` and `expiresAt`. The result is a JSON object with `token`, which cannot be read again later,
 * and `credential`; the caller frees it with `mkms_buffer_free`, which wipes it.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors.
 */
mkms_status mkms_create_token(const struct mkms_session *session,
                              const char *request,
                              size_t request_len,
                              struct mkms_buffer **answer,
                              struct mkms_error **error);

/**
 * Creates the first token of a store, for an admin; `MKMS_CONFLICT` if the store has or ever had a credential.
 * `request` and the result are those of `mkms_create_token`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, `MKMS_CONFLICT`, service errors.
 */
mkms_status mkms_create_first_token(const struct mkms_session *session,
                                    const char *request,
                                    size_t request_len,
                                    struct mkms_buffer **answer,
                                    struct mkms_error **error);

/**
 * Withdraws a token, identified by its credential's id: from now on, no operation with this token succeeds.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_CREDENTIAL_NOT_FOUND`, `MKMS_ACCESS_DENIED`, service errors.
 */
mkms_status mkms_revoke_credential(const struct mkms_session *session,
                                   const char *id,
                                   size_t id_len,
                                   struct mkms_error **error);

/**
 * Returns the credentials that are not withdrawn, by id: a JSON object with `items` and, unless it is the last page,
 * `nextCursor`. `query` is a JSON object with `limit` (100) and `cursor`, both optional. The caller frees the result
 * with `mkms_buffer_free`.
 *
 * `query` may be NULL.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors.
 */
mkms_status mkms_list_credentials(const struct mkms_session *session,
                                  const char *query,
                                  size_t query_len,
                                  struct mkms_buffer **answer,
                                  struct mkms_error **error);

/**
 * Returns records of the log, newest first: a JSON object with `items` and, unless it is the last page, `nextCursor`.
 * `query` is a JSON object with `limit` (100), `cursor`, `order` (`asc`, `desc`), `action`, `actor`, `keyId`,
 * `status`, `requestId`, `since`, `until`, all optional. To export the log, read it with `order` `asc` page by page.
 * The caller frees the result with `mkms_buffer_free`.
 *
 * `query` may be NULL.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, service errors.
 */
mkms_status mkms_list_audit(const struct mkms_session *session,
                            const char *query,
                            size_t query_len,
                            struct mkms_buffer **answer,
                            struct mkms_error **error);

/**
 * Returns rows of the log that was imported from Mini KMS on Node, in the order of their links: a JSON object with
 * `items` and, unless it is the last page, `nextCursor`. `query` is a JSON object with `source` (the name of the
 * import; default `mini-kms`), `limit` (100) and `cursor`, all optional. The caller frees the result with
 * `mkms_buffer_free`.
 *
 * `query` may be NULL.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors.
 */
mkms_status mkms_list_imported_audit(const struct mkms_session *session,
                                     const char *query,
                                     size_t query_len,
                                     struct mkms_buffer **answer,
                                     struct mkms_error **error);

/**
 * Verifies the log, and compares the tables with it. `request` is a JSON object with `incremental` (read new records
 * and a part of the older ones) and `pinnedKey` (a public key of the log that the verifier trusts), both optional. The
 * result is a JSON object with `ok`, `size`, `from`, `faults` and more, which the caller frees with
 * `mkms_buffer_free`.
 *
 * `request` may be NULL.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors. These mean that the log could not be
 * verified.
 */
mkms_status mkms_verify_audit(const struct mkms_session *session,
                              const char *request,
                              size_t request_len,
                              struct mkms_buffer **answer,
                              struct mkms_error **error);

/**
 * Returns the signed head of the log (C2SP checkpoint) as text. The caller frees it with `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors.
 */
mkms_status mkms_checkpoint(const struct mkms_session *session, struct mkms_buffer **answer, struct mkms_error **error);

/**
 * Returns the public key of the log as text, in the form that verifiers pin (C2SP signed note). The caller frees it
 * with `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors.
 */
mkms_status mkms_audit_public_key(const struct mkms_session *session,
                                  struct mkms_buffer **answer,
                                  struct mkms_error **error);

/**
 * Returns all public keys of the log with the range of log sizes that each of them signs: a JSON array. The caller
 * frees it with `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors.
 */
mkms_status mkms_audit_public_keys(const struct mkms_session *session,
                                   struct mkms_buffer **answer,
                                   struct mkms_error **error);

/**
 * Replaces the signing key of the log, and returns the new public key as text. The caller frees it with
 * `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors.
 */
mkms_status mkms_replace_signing_key(const struct mkms_session *session,
                                     struct mkms_buffer **answer,
                                     struct mkms_error **error);

/**
 * Returns the numbers of keys, records and uses, and the alerts, as JSON. The caller frees it with `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors.
 */
mkms_status mkms_metrics(const struct mkms_session *session, struct mkms_buffer **answer, struct mkms_error **error);

/**
 * Returns the quarantined rows: a JSON array. The caller frees it with `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors.
 */
mkms_status mkms_list_quarantine(const struct mkms_session *session,
                                 struct mkms_buffer **answer,
                                 struct mkms_error **error);

/**
 * Releases the quarantined rows that match the log again, and returns them as a JSON array. The caller frees it with
 * `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors.
 */
mkms_status mkms_release_quarantine(const struct mkms_session *session,
                                    struct mkms_buffer **answer,
                                    struct mkms_error **error);

/**
 * Checks whether operations can be expected to succeed, and fails with the reason if they cannot. The check takes the
 * lock of the store and needs the service's own keys. The result is a JSON object with `rootKey`: `ok`, or `degraded`
 * if the last call to the root key failed, so that only keys in the cache are certain to work. The caller frees it
 * with `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, service errors.
 */
mkms_status mkms_ready(const struct mkms_kms *kms, struct mkms_buffer **answer, struct mkms_error **error);

/**
 * Returns the counters since the service was opened, and its state, as JSON without names of keys or callers. The
 * caller frees it with `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, service errors.
 */
mkms_status mkms_telemetry(const struct mkms_kms *kms, struct mkms_buffer **answer, struct mkms_error **error);

/**
 * Runs the scheduler's jobs now, whether or not they are due. The result is a JSON object with `rotated`, `destroyed`,
 * `revoked`, `failed` and `verification`, which the caller frees with `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, service errors. The result lists keys that failed.
 */
mkms_status mkms_run_scheduler(const struct mkms_kms *kms, struct mkms_buffer **answer, struct mkms_error **error);

/**
 * Copies the store to a new file (mode 0600) while the service is in use, verifies the copy and records the backup.
 * The result is a JSON object with `verification` and `checkpoint`, which the caller frees with `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, also if the file exists; `MKMS_ACCESS_DENIED`, `MKMS_INPUT_OUTPUT`,
 * `MKMS_STORE_FULL`, service errors.
 */
mkms_status mkms_backup(const struct mkms_session *session,
                        const char *path,
                        size_t path_len,
                        struct mkms_buffer **answer,
                        struct mkms_error **error);

/**
 * Lists the changes that restoring a backup would undo, and the data that would be lost. The result is a JSON object,
 * which the caller frees with `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_ROOT_KEY`, `MKMS_INTEGRITY_FAILURE`, service
 * errors.
 */
mkms_status mkms_compare_backup(const struct mkms_session *session,
                                const char *path,
                                size_t path_len,
                                struct mkms_buffer **answer,
                                struct mkms_error **error);

/**
 * Verifies a backup without restoring it, with the root key of `config`. The result is that of `mkms_backup`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_WRONG_ROOT_KEY`, `MKMS_INTEGRITY_FAILURE`, `MKMS_STORE_CORRUPT`.
 */
mkms_status mkms_verify_backup(const struct mkms_config *config,
                               const char *path,
                               size_t path_len,
                               struct mkms_buffer **answer,
                               struct mkms_error **error);

/**
 * Verifies a backup, and restores it to the store that `config` names, which must not exist yet. The result is that of
 * `mkms_backup`.
 *
 * Errors: those of `mkms_verify_backup`, `MKMS_INPUT_OUTPUT`, `MKMS_STORE_FULL`.
 */
mkms_status mkms_restore(const struct mkms_config *config,
                         const char *path,
                         size_t path_len,
                         struct mkms_buffer **answer,
                         struct mkms_error **error);

/**
 * Creates a progress object for a root key job. The caller frees it with `mkms_progress_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`.
 */
mkms_status mkms_progress_new(struct mkms_progress **progress, struct mkms_error **error);

/**
 * Returns how many items (versions and keys of the service) a job has processed, how many of them failed, and the
 * total (0 until it is known).
 *
 * Errors: `MKMS_INVALID_ARGUMENT`.
 */
mkms_status mkms_progress_get(const struct mkms_progress *progress,
                              uint64_t *done,
                              uint64_t *failed,
                              uint64_t *total,
                              struct mkms_error **error);

/**
 * Frees a progress object and sets `*progress` to NULL. NULL and a pointer to NULL are ignored.
 */
mkms_status mkms_progress_free(struct mkms_progress **progress);

/**
 * Returns the generations of the root key, oldest first: a JSON array, which the caller frees with `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors.
 */
mkms_status mkms_list_root_keys(const struct mkms_session *session,
                                struct mkms_buffer **answer,
                                struct mkms_error **error);

/**
 * Adds a generation of the root key. `root_key` is text as for `mkms_config_root_key`. The result is the generation as
 * JSON, which the caller frees with `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_INVALID_ROOT_KEY`, `MKMS_ACCESS_DENIED`, `MKMS_CONFLICT`, service errors.
 */
mkms_status mkms_add_root_key(const struct mkms_session *session,
                              const char *root_key,
                              size_t root_key_len,
                              struct mkms_buffer **answer,
                              struct mkms_error **error);

/**
 * Adds a key in AWS KMS as a generation of the root key. The result is that of `mkms_add_root_key`.
 *
 * Errors: those of `mkms_add_root_key`, `MKMS_INVALID_CONFIGURATION`, `MKMS_ROOT_KEY_UNAVAILABLE`.
 */
mkms_status mkms_add_aws_root_key(const struct mkms_session *session,
                                  const struct mkms_aws_root_key *root_key,
                                  struct mkms_buffer **answer,
                                  struct mkms_error **error);

/**
 * Returns the cost of rewrapping: a JSON object with `materials` (versions and keys of the service that lack a
 * wrapping) and `calls` (to each root key), which the caller frees with `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors.
 */
mkms_status mkms_plan_rewrap(const struct mkms_session *session,
                             struct mkms_buffer **answer,
                             struct mkms_error **error);

/**
 * Wraps all key material under every generation that is in use. It can be repeated after an interruption. The result
 * is a JSON object with `total`, `done`, `missing`, `failed` and `failures`, which the caller frees with
 * `mkms_buffer_free`.
 *
 * `job` may be NULL.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors. The result lists the failures of single keys.
 */
mkms_status mkms_rewrap(const struct mkms_session *session,
                        const struct mkms_root_key_job *job,
                        struct mkms_buffer **answer,
                        struct mkms_error **error);

/**
 * Verifies all wrappings of one generation of the root key by unwrapping them. The result is that of `mkms_rewrap`.
 *
 * `job` may be NULL.
 *
 * Errors: those of `mkms_rewrap`.
 */
mkms_status mkms_verify_root_key(const struct mkms_session *session,
                                 uint32_t generation,
                                 const struct mkms_root_key_job *job,
                                 struct mkms_buffer **answer,
                                 struct mkms_error **error);

/**
 * Tries out rewrapping under a root key that is not added yet, and writes nothing. The result is that of
 * `mkms_rewrap`.
 *
 * `job` may be NULL.
 *
 * Errors: those of `mkms_rewrap`, `MKMS_INVALID_ROOT_KEY`.
 */
mkms_status mkms_verify_planned_root_key(const struct mkms_session *session,
                                         const char *root_key,
                                         size_t root_key_len,
                                         const struct mkms_root_key_job *job,
                                         struct mkms_buffer **answer,
                                         struct mkms_error **error);

/**
 * Tries out rewrapping under a key in AWS KMS that is not added yet, and writes nothing. The result is that of
 * `mkms_rewrap`.
 *
 * `job` may be NULL.
 *
 * Errors: those of `mkms_rewrap`, `MKMS_INVALID_CONFIGURATION`, `MKMS_ROOT_KEY_UNAVAILABLE`.
 */
mkms_status mkms_verify_planned_aws_root_key(const struct mkms_session *session,
                                             const struct mkms_aws_root_key *root_key,
                                             const struct mkms_root_key_job *job,
                                             struct mkms_buffer **answer,
                                             struct mkms_error **error);

/**
 * Retires a generation of the root key: erases all wrappings under it. `request` is a JSON object with `compromised`
 * (the key may have leaked) and `verifyNew` (first verify wrappings that are not verified yet), both optional. The
 * result is a JSON object with `rootKey`, `erased`, `erasurePending`, `rotate` and `backups`, which the caller frees
 * with `mkms_buffer_free`.
 *
 * `request` may be NULL.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_STATE`, service errors.
 */
mkms_status mkms_retire_root_key(const struct mkms_session *session,
                                 uint32_t generation,
                                 const char *request,
                                 size_t request_len,
                                 struct mkms_buffer **answer,
                                 struct mkms_error **error);

/**
 * Replaces the integrity key and reseals every row, or completes an interrupted replacement. All wrappings count as
 * unverified afterwards. The result is a JSON object with `number`, `resealed` and `left`, which the caller frees with
 * `mkms_buffer_free`.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, `MKMS_INTEGRITY_FAILURE`, `MKMS_CONFLICT`, service errors.
 */
mkms_status mkms_replace_integrity_key(const struct mkms_session *session,
                                       struct mkms_buffer **answer,
                                       struct mkms_error **error);

/**
 * Imports the data of Mini KMS on Node, or updates data that was imported before. The source is only read. If a run
 * was interrupted, the next run continues it.
 *
 * `request` is a JSON object with `from` (the URL of its database, or the folder with an older version's files), and
 * optionally `password` of the user in the URL, `masterSecret` (the original's `KMS_MASTER_KEY`) or
 * `masterSecretFile`, `awsKeys` (the keys in AWS KMS that the import may use), `awsRegion` and `awsEndpoint`, `name`
 * of the source (`mini-kms`), `dryRun`, `rotate`, `finalize`, `allowIncomplete` (finalize although something could not
 * be imported) and `foldPrincipals`. The result is the report as JSON, which the caller frees with `mkms_buffer_free`.
 *
 * `progress` and `user` may be NULL. `progress` is called on this thread, about every 100 milliseconds and once more
 * at the end, if anything changed since the last call.
 *
 * Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_INVALID_CONFIGURATION`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_ROOT_KEY` if the
 * master secret is wrong, `MKMS_WRONG_STATE` if the import is finalized, `MKMS_CONFLICT` if another source was
 * imported under the name, `MKMS_IMPORT_SUPERSEDED` if another run began meanwhile, `MKMS_SCHEMA_TOO_NEW`, service
 * errors. The report lists what was not imported.
 */
mkms_status mkms_import_mini_kms(const struct mkms_session *session,
                                 const char *request,
                                 size_t request_len,
                                 mkms_import_progress progress,
                                 void *user,
                                 struct mkms_buffer **answer,
                                 struct mkms_error **error);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* MINI_KMS_H */
