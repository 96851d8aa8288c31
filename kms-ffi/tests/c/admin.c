/* Calls every function that takes or returns JSON. */
#define _POSIX_C_SOURCE 200809L /* setenv */
#include "check.h"

static const char *store;

#define ANSWERS(part, call)                                         \
    do {                                                            \
        mkms_buffer *answer = NULL;                                 \
        mkms_error *error = NULL;                                   \
        check_ok((call), &error, __FILE__, __LINE__);               \
        if (!contains(answer, (part))) {                            \
            const uint8_t *data = NULL;                             \
            size_t length = 0;                                      \
            mkms_buffer_get(answer, &data, &length, NULL);          \
            fprintf(stderr, "%.*s\n", (int)length, (const char *)data); \
        }                                                           \
        CHECK(contains(answer, (part)));                            \
        OK(mkms_buffer_free(&answer));                              \
    } while (0)

/* Copies the text of a member of the JSON in a buffer. */
static void field(const mkms_buffer *buffer, const char *name, char *out, size_t room) {
    const uint8_t *data = NULL;
    size_t length = 0, size = strlen(name);
    OK(mkms_buffer_get(buffer, &data, &length, &error));
    for (size_t at = 0; at + size + 4 < length; at++) {
        if (data[at] == '"' && memcmp(data + at + 1, name, size) == 0 &&
            memcmp(data + at + 1 + size, "\":\"", 3) == 0) {
            const uint8_t *from = data + at + size + 4;
            const uint8_t *to = memchr(from, '"', length - (size_t)(from - data));
            CHECK(to != NULL && (size_t)(to - from) < room);
            memcpy(out, from, (size_t)(to - from));
            out[to - from] = 0;
            return;
        }
    }
    CHECK(0 && "field not found");
}

static void manages_keys(mkms_session *session) {
    ANSWERS("\"owner\":\"alice\"",
            mkms_create_key(session,
                            S("{\"name\":\"users\",\"type\":\"AES256_GCM\",\"purpose\":\"ENCRYPTION\","
                              "\"rotationPeriodDays\":90,\"metadata\":{\"owner\":\"alice\"}}"),
                            &answer, &error));
    ANSWERS("\"state\":\"ENABLED\"",
            mkms_create_key(session, S("{\"name\":\"invoices\",\"type\":\"RSA_2048\",\"purpose\":\"SIGNING\"}"),
                            &answer, &error));
    ANSWERS("\"rotationPeriodDays\":90", mkms_get_key(session, S("users"), &answer, &error));
    ANSWERS("\"name\":\"invoices\"", mkms_list_keys(session, NULL, 0, &answer, &error));
    ANSWERS("\"nextCursor\":", mkms_list_keys(session, S("{\"limit\":1}"), &answer, &error));
    ANSWERS("{\"items\":[]}", mkms_list_keys(session, S("{\"state\":\"REVOKED\"}"), &answer, &error));
    ANSWERS("\"currentVersion\":2", mkms_rotate_key(session, S("users"), NULL, 0, &answer, &error));
    ANSWERS("\"version\":2", mkms_list_versions(session, S("users"), NULL, 0, &answer, &error));
    ANSWERS("\"version\":1", mkms_get_version(session, S("users"), 1, &answer, &error));
    ANSWERS("\"notAfter\":\"2099-",
            mkms_set_window(session, S("users"), 1, S("{\"notAfter\":\"2099-01-01T00:00:00Z\"}"), &answer, &error));
    ANSWERS("BEGIN PUBLIC KEY", mkms_public_key(session, S("invoices"), 1, &answer, &error));
    ANSWERS("\"state\":\"DISABLED\"", mkms_disable_key(session, S("users"), &answer, &error));
    ANSWERS("\"state\":\"ENABLED\"", mkms_enable_key(session, S("users"), &answer, &error));
    ANSWERS("\"state\":\"DISABLED\"", mkms_disable_version(session, S("users"), 2, &answer, &error));
    ANSWERS("\"state\":\"ENABLED\"", mkms_enable_version(session, S("users"), 2, &answer, &error));
    ANSWERS("\"state\":\"REVOKED\"", mkms_revoke_version(session, S("users"), 1, &answer, &error));
    ANSWERS("\"state\":\"DESTROYED\"", mkms_trim_key(session, S("users"), &answer, &error));
    ANSWERS("\"gracePeriodDays\":7",
            mkms_update_key(session, S("users"), S("{\"gracePeriodDays\":7,\"rotationPeriodDays\":null}"), &answer,
                            &error));
    ANSWERS("\"state\":\"PENDING_DELETION\"",
            mkms_schedule_deletion(session, S("users"), S("{\"waitingDays\":10}"), &answer, &error));
    ANSWERS("\"state\":", mkms_cancel_deletion(session, S("users"), &answer, &error));
    ANSWERS("\"state\":\"REVOKED\"", mkms_revoke_key(session, S("invoices"), &answer, &error));
    mkms_buffer *answer = NULL;
    FAILS(MKMS_CONFLICT, mkms_rotate_key(session, S("users"), S("{\"expectedCurrentVersion\":1}"), &answer, &error));
    FAILS(MKMS_KEY_NOT_FOUND, mkms_get_key(session, S("nobody"), &answer, &error));
    FAILS(MKMS_INVALID_ARGUMENT, mkms_update_key(session, S("users"), S("{\"nonsense\":1}"), &answer, &error));
    FAILS(MKMS_NAME_TAKEN,
          mkms_create_key(session, S("{\"name\":\"users\",\"type\":\"AES256_GCM\",\"purpose\":\"ENCRYPTION\"}"),
                          &answer, &error));
    CHECK(answer == NULL);
}

static void manages_rights(mkms_kms *kms, mkms_session *session) {
    mkms_buffer *made = NULL;
    mkms_session *shop = NULL;
    char id[64], token[128];
    OK(mkms_put_grant(session,
                      S("{\"principal\":\"shop\",\"role\":\"app\",\"keyId\":\"users\",\"allowedOps\":[\"encrypt\"]}"),
                      &made, &error));
    field(made, "id", id, sizeof id);
    OK(mkms_buffer_free(&made));
    ANSWERS("\"principal\":\"shop\"", mkms_list_grants(session, S("{\"keyId\":\"users\"}"), &answer, &error));
    OK(mkms_revoke_grant(session, id, strlen(id), &error));
    OK(mkms_revoke_grant_cascading(session, id, strlen(id), &error));
    ANSWERS("{\"items\":[]}", mkms_list_grants(session, S("{\"principal\":\"shop\"}"), &answer, &error));

    OK(mkms_create_first_token(session, S("{\"principal\":\"root\"}"), &made, &error));
    OK(mkms_buffer_free(&made));
    FAILS(MKMS_CONFLICT, mkms_create_first_token(session, S("{\"principal\":\"root\"}"), &made, &error));
    OK(mkms_create_token(session, S("{\"principal\":\"shop\",\"role\":\"app\",\"label\":\"till\"}"), &made, &error));
    field(made, "token", token, sizeof token);
    field(made, "id", id, sizeof id);
    OK(mkms_buffer_free(&made));
    OK(mkms_session_authenticate(kms, token, strlen(token), NULL, &shop, &error));
    FAILS(MKMS_ACCESS_DENIED, mkms_get_key(shop, S("users"), &made, &error));
    ANSWERS("\"label\":\"till\"", mkms_list_credentials(session, NULL, 0, &answer, &error));
    OK(mkms_revoke_credential(session, id, strlen(id), &error));
    FAILS(MKMS_NOT_AUTHENTICATED, mkms_get_key(shop, S("users"), &made, &error));
    OK(mkms_session_free(&shop));
    FAILS(MKMS_NOT_AUTHENTICATED, mkms_session_authenticate(kms, S("kms_nonsense"), NULL, &shop, &error));
}

static void reads_the_log(mkms_session *session) {
    mkms_buffer *none = NULL;
    ANSWERS("\"action\":\"KEY_CREATE\"",
            mkms_list_audit(session, S("{\"order\":\"asc\",\"action\":\"KEY_CREATE\"}"), &answer, &error));
    ANSWERS("\"nextCursor\":\"2\"", mkms_list_audit(session, S("{\"order\":\"asc\",\"limit\":2}"), &answer, &error));
    ANSWERS("\"items\":[]", mkms_list_imported_audit(session, NULL, 0, &answer, &error));
    ANSWERS("\"items\":[]", mkms_list_imported_audit(session, S("{\"source\":\"x\",\"limit\":2}"), &answer, &error));
    FAILS(MKMS_INVALID_ARGUMENT, mkms_list_imported_audit(session, S("{\"limit\":0}"), &none, &error));
    ANSWERS("\"ok\":true", mkms_verify_audit(session, NULL, 0, &answer, &error));
    ANSWERS("\"ok\":true", mkms_verify_audit(session, S("{\"incremental\":true}"), &answer, &error));
    ANSWERS("\n", mkms_checkpoint(session, &answer, &error));
    ANSWERS("+", mkms_audit_public_key(session, &answer, &error));
    ANSWERS("+", mkms_replace_signing_key(session, &answer, &error));
    ANSWERS("\"lastSeq\":", mkms_audit_public_keys(session, &answer, &error));
    ANSWERS("\"keys\":", mkms_metrics(session, &answer, &error));
    ANSWERS("[]", mkms_list_quarantine(session, &answer, &error));
    ANSWERS("[]", mkms_release_quarantine(session, &answer, &error));
}

static void backs_up(mkms_kms *kms, mkms_session *session) {
    char path[4200], url[4300];
    mkms_config *config = NULL;
    mkms_buffer *answer = NULL;
    uint8_t root_key[32];
    memset(root_key, 7, sizeof root_key);
    snprintf(path, sizeof path, "%s.backup", store);
    snprintf(url, sizeof url, "sqlite:%s.restored", store);
    ANSWERS("\"ok\":true", mkms_backup(session, path, strlen(path), &answer, &error));
    FAILS(MKMS_INVALID_ARGUMENT, mkms_backup(session, path, strlen(path), &answer, &error));
    ANSWERS("{", mkms_compare_backup(session, path, strlen(path), &answer, &error));
    OK(mkms_config_new(url, strlen(url), &config, &error));
    OK(mkms_config_root_key(config, S("passphrase:not the right one"), &error));
    FAILS(MKMS_WRONG_ROOT_KEY, mkms_verify_backup(config, path, strlen(path), &answer, &error));
    OK(mkms_config_root_key_bytes(config, root_key, sizeof root_key, &error));
    ANSWERS("\"ok\":true", mkms_verify_backup(config, path, strlen(path), &answer, &error));
    ANSWERS("\"ok\":true", mkms_restore(config, path, strlen(path), &answer, &error));
    OK(mkms_config_free(&config));
    ANSWERS("{\"rootKey\":\"ok\"}", mkms_ready(kms, &answer, &error));
    ANSWERS("\"records\":", mkms_telemetry(kms, &answer, &error));
    ANSWERS("\"rotated\":[]", mkms_run_scheduler(kms, &answer, &error));
}

/* Invalid requests to import are refused. */
static void imports(mkms_session *session) {
    mkms_buffer *answer = NULL;
    FAILS(MKMS_INVALID_CONFIGURATION,
          mkms_import_mini_kms(session, S("{\"from\":\"dump.sql\"}"), NULL, NULL, &answer, &error));
    FAILS(MKMS_INVALID_CONFIGURATION,
          mkms_import_mini_kms(session, S("{\"from\":\"x\",\"awsKeys\":[\"my key\"],\"allowIncomplete\":true}"), NULL,
                               NULL, &answer, &error));
    FAILS(MKMS_INVALID_ARGUMENT,
          mkms_import_mini_kms(session, S("{\"from\":\"x\",\"unknown\":1}"), NULL, NULL, &answer, &error));
    CHECK(answer == NULL);
}

/* Adds a second root key, wraps everything under it, verifies it, and retires the first one. */
static void changes_the_root_key(mkms_session *session) {
    mkms_progress *progress = NULL;
    uint64_t done = 0, failed = 1, total = 0;
    OK(mkms_progress_new(&progress, &error));
    mkms_root_key_job job = {sizeof job, progress, 0, 0, 0};
    ANSWERS("\"generation\":1", mkms_list_root_keys(session, &answer, &error));
    ANSWERS("\"failed\":0", mkms_verify_planned_root_key(session, S("passphrase:another battery staple"), NULL, &answer,
                                                          &error));
    ANSWERS("\"generation\":2", mkms_add_root_key(session, S("passphrase:another battery staple"), &answer, &error));
    ANSWERS("\"materials\":", mkms_plan_rewrap(session, &answer, &error));
    ANSWERS("\"failed\":0", mkms_rewrap(session, &job, &answer, &error));
    OK(mkms_progress_get(progress, &done, &failed, &total, &error));
    CHECK(total > 0 && done == total && failed == 0);
    ANSWERS("\"missing\":0", mkms_verify_root_key(session, 2, NULL, &answer, &error));
    ANSWERS("\"number\":2", mkms_replace_integrity_key(session, &answer, &error));
    ANSWERS("\"state\":\"RETIRED\"", mkms_retire_root_key(session, 1, S("{\"verifyNew\":true}"), &answer, &error));
    OK(mkms_progress_free(&progress));
}

static void sets_every_option(void) {
    mkms_config *config = NULL;
    mkms_kms *kms = NULL;
    mkms_scheduler scheduler = {sizeof scheduler, S("0 3 * * *"), 1, 1, 1, 0, 0, 1};
    char url[4200], mark[4200];
    snprintf(url, sizeof url, "sqlite:%s.set", store);
    snprintf(mark, sizeof mark, "%s.high-water", store);
    OK(mkms_config_from_toml(S("grace_days = 30"), &config, &error));
    OK(mkms_config_store_url(config, url, strlen(url), &error));
    OK(mkms_config_root_key(config, S("passphrase:correct horse battery staple"), &error));
    OK(mkms_config_add_root_key(config, S("passphrase:another battery staple"), &error));
    OK(mkms_config_grace_days(config, 7, &error));
    OK(mkms_config_audit_ack(config, S("durable"), &error));
    OK(mkms_config_crypto_provider(config, S("rust-crypto"), &error));
    OK(mkms_config_scheduler(config, &scheduler, &error));
    OK(mkms_config_cache(config, 100, 60, &error));
    OK(mkms_config_deletion_wait(config, 30, 7, &error));
    OK(mkms_config_limits(config, 100, 1024 * 1024, &error));
    OK(mkms_config_high_water(config, mark, strlen(mark), &error));
    OK(mkms_config_make_store(config, true, &error));
    OK(mkms_config_acknowledge_restore(config, false, &error));
    OK(mkms_config_disk_space(config, 0, 0, &error));
    OK(mkms_config_lock_memory(config, false, &error));
    OK(mkms_config_reverify_days(config, 7, &error));
    OK(mkms_open(config, &kms, &error));
    close_store(&kms);
    FAILS(MKMS_INVALID_ARGUMENT, mkms_config_audit_ack(config, S("sometimes"), &error));
    FAILS(MKMS_INVALID_CONFIGURATION, mkms_config_crypto_provider(config, S("rot13"), &error));
    FAILS(MKMS_INVALID_ROOT_KEY, mkms_config_root_key(config, S("short"), &error));
    FAILS(MKMS_INVALID_ARGUMENT, mkms_config_root_key_bytes(config, B("short"), &error));
    FAILS(MKMS_INVALID_ARGUMENT, mkms_config_acknowledge_clock(config, S("yesterday"), &error));
    OK(mkms_config_high_water(config, NULL, 0, &error));
    OK(mkms_config_cache(config, 0, 0, &error));
    FAILS(MKMS_INVALID_CONFIGURATION, mkms_open(config, &kms, &error));
    CHECK(kms == NULL);
    OK(mkms_config_free(&config));
}

/* A call that needs AWS KMS. No server listens at the configured endpoint, so it fails as unavailable. A library that
 * was built without AWS KMS says so. */
#define CANNOT_REACH_AWS(call)                                                                       \
    do {                                                                                             \
        mkms_error *error = NULL;                                                                    \
        mkms_error_info info = {sizeof info, 0, 0, NULL, 0, NULL, 0};                                \
        mkms_status status = (call);                                                                 \
        CHECK(error != NULL && mkms_error_get(error, &info, NULL) == MKMS_OK);                       \
        CHECK(status == MKMS_ROOT_KEY_UNAVAILABLE ||                                                 \
              (status == MKMS_INVALID_CONFIGURATION && strstr(info.message, "built without AWS KMS"))); \
        CHECK(mkms_error_free(&error) == MKMS_OK);                                                   \
    } while (0)

static void names_keys_in_aws(mkms_session *session) {
    mkms_config *config = NULL;
    mkms_kms *kms = NULL;
    mkms_buffer *answer = NULL;
    mkms_aws_root_key key = {sizeof key, S("alias/x"), S("eu-central-1"), S("http://127.0.0.1:1"), 1000, 3000};
    mkms_aws_root_key malformed = {sizeof malformed, S("my key"), NULL, 0, NULL, 0, 0, 0};
    mkms_aws_root_key unnamed = {sizeof unnamed, NULL, 0, NULL, 0, NULL, 0, 0, 0};
    char url[4200];
    snprintf(url, sizeof url, "sqlite:%s.aws", store);
    CHECK(setenv("AWS_ACCESS_KEY_ID", "test", 1) == 0 && setenv("AWS_SECRET_ACCESS_KEY", "test", 1) == 0);
    OK(mkms_config_new(url, strlen(url), &config, &error));
    OK(mkms_config_aws_root_key(config, &key, &error));
    CANNOT_REACH_AWS(mkms_open(config, &kms, &error));
    CANNOT_REACH_AWS(mkms_add_aws_root_key(session, &key, &answer, &error));
    CANNOT_REACH_AWS(mkms_verify_planned_aws_root_key(session, &key, NULL, &answer, &error));
    OK(mkms_config_add_aws_root_key(config, &malformed, &error));
    FAILS(MKMS_INVALID_CONFIGURATION, mkms_open(config, &kms, &error));
    FAILS(MKMS_INVALID_CONFIGURATION, mkms_add_aws_root_key(session, &malformed, &answer, &error));
    FAILS(MKMS_INVALID_ARGUMENT, mkms_config_aws_root_key(config, &unnamed, &error));
    CHECK(kms == NULL && answer == NULL);
    OK(mkms_config_free(&config));
}

static void opens_read_only(void) {
    mkms_config *config = NULL;
    mkms_kms *kms = NULL;
    mkms_buffer *no_answer = NULL;
    char url[4200];
    uint8_t root_key[32];
    memset(root_key, 7, sizeof root_key);
    snprintf(url, sizeof url, "sqlite:%s.restored", store);
    OK(mkms_config_new(url, strlen(url), &config, &error));
    OK(mkms_config_root_key_bytes(config, root_key, sizeof root_key, &error));
    OK(mkms_open_read_only(config, &kms, &error));
    mkms_session *session = admin(kms);
    ANSWERS("\"name\":\"users\"", mkms_get_key(session, S("users"), &answer, &error));
    FAILS(MKMS_STORE_READ_ONLY, mkms_rotate_key(session, S("users"), NULL, 0, &no_answer, &error));
    OK(mkms_session_free(&session));
    close_store(&kms);
    OK(mkms_config_free(&config));
}

static void identifies_requests(mkms_kms *kms, mkms_session *session) {
    mkms_session_options options = {sizeof options, S("192.0.2.7"), S("request-1"), S("once")};
    mkms_session *request = NULL, *operator = NULL;
    mkms_buffer *first = NULL, *second = NULL;
    OK(mkms_session_with(session, &options, &request, &error));
    OK(mkms_rotate_key(request, S("users"), NULL, 0, &first, &error));
    OK(mkms_rotate_key(request, S("users"), NULL, 0, &second, &error));
    const uint8_t *data = NULL;
    size_t length = 0;
    OK(mkms_buffer_get(first, &data, &length, &error));
    CHECK(equals(second, data, length));
    OK(mkms_buffer_free(&first));
    OK(mkms_buffer_free(&second));
    ANSWERS("192.0.2.7", mkms_list_audit(session, S("{\"requestId\":\"request-1\"}"), &answer, &error));
    OK(mkms_session_free(&request));
    options.source_ip = "nowhere";
    options.source_ip_len = 7;
    FAILS(MKMS_INVALID_ARGUMENT, mkms_session_with(session, &options, &request, &error));
    OK(mkms_session_new_operator(kms, NULL, &operator, &error));
    ANSWERS("\"name\":\"users\"", mkms_get_key(operator, S("users"), &answer, &error));
    OK(mkms_session_free(&operator));
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    store = argv[1];
    mkms_kms *kms = open_store(store, "durable");
    mkms_session *session = admin(kms);
    manages_keys(session);
    manages_rights(kms, session);
    identifies_requests(kms, session);
    reads_the_log(session);
    backs_up(kms, session);
    imports(session);
    changes_the_root_key(session);
    names_keys_in_aws(session);
    OK(mkms_session_free(&session));
    close_store(&kms);
    opens_read_only();
    sets_every_option();
    puts("ok");
    return 0;
}
