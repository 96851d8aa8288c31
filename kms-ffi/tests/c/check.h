/* Helpers of the test programs: checks that print where they failed, and a service with a new store. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mini_kms.h"

#define S(text) (text), (sizeof(text) - 1)
#define B(text) (const uint8_t *)(text), (sizeof(text) - 1)

#define CHECK(condition)                                                            \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                                \
        }                                                                           \
    } while (0)

static inline void check_ok(mkms_status status, mkms_error **error, const char *file, int line) {
    if (status == MKMS_OK) {
        return;
    }
    mkms_error_info info = {sizeof info, 0, 0, NULL, 0, NULL, 0};
    if (*error != NULL && mkms_error_get(*error, &info, NULL) == MKMS_OK) {
        fprintf(stderr, "%s:%d: %d %s: %s\n", file, line, (int)status, info.name, info.message);
    } else {
        fprintf(stderr, "%s:%d: status %d without an error object\n", file, line, (int)status);
    }
    exit(1);
}

/* Makes a call, and fails unless it returns MKMS_OK. The last argument of the call must be &error. */
#define OK(call)                                     \
    do {                                             \
        mkms_error *error = NULL;                    \
        check_ok((call), &error, __FILE__, __LINE__); \
        CHECK(error == NULL);                        \
    } while (0)

static inline void check_fails(mkms_status status, mkms_status wanted, mkms_error **error, const char *file, int line) {
    mkms_error_info info = {sizeof info, 0, 0, NULL, 0, NULL, 0};
    if (status != wanted) {
        fprintf(stderr, "%s:%d: status %d instead of %d\n", file, line, (int)status, (int)wanted);
        exit(1);
    }
    CHECK(*error != NULL);
    CHECK(mkms_error_get(*error, &info, NULL) == MKMS_OK);
    CHECK(info.status == wanted);
    CHECK(info.message_len > 0 && strlen(info.message) == info.message_len);
    CHECK(info.name_len > 0 && strlen(info.name) == info.name_len);
    CHECK(mkms_error_free(error) == MKMS_OK);
    CHECK(*error == NULL);
}

/* Makes a call, and fails unless it returns this status and an error object. */
#define FAILS(wanted, call)                                      \
    do {                                                         \
        mkms_error *error = NULL;                                \
        check_fails((call), (wanted), &error, __FILE__, __LINE__); \
    } while (0)

/* Opens the store in this file with a fixed root key. `ack` is "durable" or "queued". */
static inline mkms_kms *open_store(const char *path, const char *ack) {
    char url[4096];
    uint8_t root_key[32];
    mkms_config *config = NULL;
    mkms_kms *kms = NULL;
    snprintf(url, sizeof url, "sqlite:%s", path);
    memset(root_key, 7, sizeof root_key);
    OK(mkms_config_new(url, strlen(url), &config, &error));
    OK(mkms_config_root_key_bytes(config, root_key, sizeof root_key, &error));
    OK(mkms_config_audit_ack(config, ack, strlen(ack), &error));
    OK(mkms_open(config, &kms, &error));
    OK(mkms_config_free(&config));
    return kms;
}

static inline mkms_session *admin(mkms_kms *kms) {
    mkms_session *session = NULL;
    OK(mkms_session_new(kms, S("alice"), MKMS_ROLE_ADMIN, NULL, &session, &error));
    return session;
}

static inline void close_store(mkms_kms **kms) {
    OK(mkms_close(*kms, &error));
    OK(mkms_kms_free(kms));
    CHECK(*kms == NULL);
}

/* Creates a key from a request in JSON. */
static inline void create_key(mkms_session *session, const char *json) {
    mkms_buffer *key = NULL;
    OK(mkms_create_key(session, json, strlen(json), &key, &error));
    OK(mkms_buffer_free(&key));
}

/* Whether the text of a buffer contains another text. */
static inline int contains(const mkms_buffer *buffer, const char *part) {
    const uint8_t *data = NULL;
    size_t length = 0, size = strlen(part);
    OK(mkms_buffer_get(buffer, &data, &length, &error));
    for (size_t at = 0; at + size <= length; at++) {
        if (memcmp(data + at, part, size) == 0) {
            return 1;
        }
    }
    return 0;
}

/* Whether a buffer has exactly these bytes. */
static inline int equals(const mkms_buffer *buffer, const void *bytes, size_t size) {
    const uint8_t *data = NULL;
    size_t length = 0;
    OK(mkms_buffer_get(buffer, &data, &length, &error));
    return length == size && memcmp(data, bytes, size) == 0;
}

/* The number of records of the log, which is the second line of the checkpoint. */
static inline unsigned long records(mkms_session *session) {
    mkms_buffer *head = NULL;
    const uint8_t *data = NULL;
    size_t length = 0;
    OK(mkms_checkpoint(session, &head, &error));
    OK(mkms_buffer_get(head, &data, &length, &error));
    const char *line = memchr(data, '\n', length);
    CHECK(line != NULL);
    char number[32] = {0};
    for (size_t at = 0; at < sizeof number - 1 && line[at + 1] != '\n'; at++) {
        number[at] = line[at + 1];
    }
    OK(mkms_buffer_free(&head));
    return strtoul(number, NULL, 10);
}

#endif
