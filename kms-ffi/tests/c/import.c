/* Imports the data of Mini KMS on Node, decrypts its ciphertexts and lists its log. KMS_TEST_IMPORT has the request. */
#include "check.h"

/* Ciphertexts of tests/legacy/clean.json: with additional data, whose names keep their order, and without. */
static const uint8_t NO_BYTES[1] = {0};
static const uint8_t WITH_IV[12] = {0x66, 0x1a, 0x52, 0x91, 0x0d, 0x77, 0xb7, 0x1a, 0xa8, 0x4c, 0xc6, 0x9e};
static const uint8_t WITH_TAG[16] = {0x99, 0xec, 0x19, 0x0a, 0x9f, 0xda, 0x0e, 0x7e,
                                     0xf9, 0x77, 0xf6, 0x60, 0x11, 0x1f, 0x71, 0xde};
static const uint8_t PLAIN[30] = {0x1a, 0x09, 0x1a, 0x7f, 0x54, 0x1a, 0x32, 0xe0, 0xfd, 0xa3,
                                  0x58, 0xb2, 0xd3, 0x38, 0x2f, 0x59, 0xd6, 0xcf, 0xbc, 0x8b,
                                  0xcf, 0x72, 0xe7, 0x8c, 0x4c, 0x3c, 0x7b, 0x44, 0x56, 0x88};
static const uint8_t PLAIN_IV[12] = {0xb9, 0x07, 0xb7, 0x16, 0xd7, 0x83, 0x8c, 0xcf, 0xfd, 0x0a, 0x7d, 0x81};
static const uint8_t PLAIN_TAG[16] = {0x6b, 0x7d, 0x62, 0xd0, 0x8a, 0x61, 0x72, 0x58,
                                      0x5f, 0x90, 0x18, 0xea, 0x1a, 0x2d, 0x79, 0x26};

/* The last arguments of the progress callback, and the number of its calls. */
typedef struct reported {
    mkms_import_stage stage;
    uint64_t done, total;
    int calls;
} reported;

static void report_progress(void *user, mkms_import_stage stage, uint64_t done, uint64_t total) {
    reported *last = user;
    CHECK(stage >= last->stage);
    last->stage = stage;
    last->done = done;
    last->total = total;
    last->calls++;
}

static void imports(mkms_session *session, const char *request, const char *expected) {
    mkms_buffer *report = NULL;
    reported last = {0, 0, 0, 0};
    OK(mkms_import_mini_kms(session, request, strlen(request), report_progress, &last, &report, &error));
    CHECK(last.calls > 0 && last.stage == MKMS_IMPORT_FINISH && last.done == last.total);
    CHECK(contains(report, expected) && contains(report, "\"total\":5"));
    CHECK(contains(report, "\"kind\":\"grantDenied\""));
    OK(mkms_buffer_free(&report));
}

static mkms_decrypt_item item_of(const uint8_t *iv, const uint8_t *auth_tag) {
    mkms_decrypt_item item;
    memset(&item, 0, sizeof item);
    item.size = sizeof item;
    item.key = "aes256_gcm-1-2";
    item.key_len = strlen(item.key);
    item.iv = iv;
    item.iv_len = 12;
    item.auth_tag = auth_tag;
    item.auth_tag_len = 16;
    item.version = 1;
    item.imported = 1;
    return item;
}

static void decrypts(mkms_session *session) {
    mkms_buffer *plaintext = NULL;
    mkms_decrypt_item with = item_of(WITH_IV, WITH_TAG), plain = item_of(PLAIN_IV, PLAIN_TAG);
    with.ciphertext = NO_BYTES;
    with.imported_aad = "{\"z\":\"1\",\"a\":\"2\",\"\xc3\xa9\":\"\xc3\xbc\"}";
    with.imported_aad_len = strlen(with.imported_aad);
    OK(mkms_decrypt_checked(session, &with, &plaintext, NULL, &error));
    CHECK(equals(plaintext, "", 0));
    OK(mkms_buffer_free(&plaintext));
    plain.ciphertext = PLAIN;
    plain.ciphertext_len = sizeof PLAIN;
    OK(mkms_decrypt_checked(session, &plain, &plaintext, NULL, &error));
    CHECK(contains(plaintext, "iaJ") && contains(plaintext, "XTNG"));
    OK(mkms_buffer_free(&plaintext));
    with.imported_aad = "{\"a\":\"2\",\"z\":\"1\"}";
    with.imported_aad_len = strlen(with.imported_aad);
    FAILS(MKMS_DECRYPTION_FAILED, mkms_decrypt_checked(session, &with, &plaintext, NULL, &error));
    CHECK(plaintext == NULL);
}

int main(int argc, char **argv) {
    const char *request = getenv("KMS_TEST_IMPORT");
    CHECK(argc == 2 && request != NULL);
    mkms_kms *kms = open_store(argv[1], "durable");
    mkms_session *session = admin(kms);
    mkms_buffer *answer = NULL;
    imports(session, request, "\"imported\":5");
    decrypts(session);
    FAILS(MKMS_IMPORT_OPEN, mkms_rotate_key(session, S("minted-1"), NULL, 0, &answer, &error));
    OK(mkms_list_imported_audit(session, S("{\"limit\":3}"), &answer, &error));
    CHECK(contains(answer, "\"position\":3") && contains(answer, "\"nextCursor\":"));
    OK(mkms_buffer_free(&answer));
    imports(session, request, "\"unchanged\":5");
    OK(mkms_import_mini_kms(session, request, strlen(request), NULL, NULL, &answer, &error));
    OK(mkms_buffer_free(&answer));
    OK(mkms_verify_audit(session, NULL, 0, &answer, &error));
    CHECK(contains(answer, "\"ok\":true") && contains(answer, "\"imported\":[{\"source\":\"mini-kms\",\"rows\":15"));
    OK(mkms_buffer_free(&answer));
    OK(mkms_session_free(&session));
    close_store(&kms);
    printf("ok\n");
    return 0;
}
