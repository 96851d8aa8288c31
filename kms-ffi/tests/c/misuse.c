/* Wrong calls: each returns a status and an error object, and changes nothing. */
#include "check.h"

static void refuses_wrong_handles(mkms_kms *kms, mkms_session *session) {
    mkms_buffer *buffer = NULL;
    mkms_context *context = NULL;
    mkms_session *other = NULL;
    OK(mkms_context_new(&context, &error));
    FAILS(MKMS_INVALID_ARGUMENT, mkms_encrypt((mkms_session *)kms, S("users"), B("x"), NULL, &buffer, NULL, &error));
    FAILS(MKMS_INVALID_ARGUMENT, mkms_encrypt((mkms_session *)context, S("users"), B("x"), NULL, &buffer, NULL,
          &error));
    FAILS(MKMS_INVALID_ARGUMENT,
          mkms_encrypt(session, S("users"), B("x"), (mkms_context *)session, &buffer, NULL, &error));
    FAILS(MKMS_INVALID_ARGUMENT, mkms_close((mkms_kms *)session, &error));
    FAILS(MKMS_INVALID_ARGUMENT,
          mkms_session_new((mkms_kms *)session, S("bob"), MKMS_ROLE_APP, NULL, &other, &error));
    CHECK(mkms_kms_free((mkms_kms **)&session) == MKMS_INVALID_ARGUMENT);
    CHECK(session != NULL && buffer == NULL && other == NULL);
    OK(mkms_context_free(&context));
}

static void refuses_bad_text(mkms_kms *kms, mkms_session *session) {
    mkms_buffer *buffer = NULL;
    mkms_session *other = NULL;
    mkms_config *config = NULL;
    FAILS(MKMS_INVALID_ARGUMENT, mkms_encrypt(session, S("us\xffrs"), B("x"), NULL, &buffer, NULL, &error));
    FAILS(MKMS_INVALID_ARGUMENT, mkms_encrypt(session, S("us\xc3"), B("x"), NULL, &buffer, NULL, &error));
    FAILS(MKMS_INVALID_ARGUMENT, mkms_session_new(kms, S("\xed\xa0\x80"), MKMS_ROLE_APP, NULL, &other, &error));
    FAILS(MKMS_INVALID_ARGUMENT, mkms_session_new(kms, S("bob"), 9, NULL, &other, &error));
    FAILS(MKMS_INVALID_ARGUMENT, mkms_session_new(kms, S("scheduler"), MKMS_ROLE_APP, NULL, &other, &error));
    FAILS(MKMS_INVALID_ARGUMENT, mkms_config_new(S("sqlite:\xff"), &config, &error));
    FAILS(MKMS_INVALID_CONFIGURATION, mkms_config_from_toml(S("nonsense = 1"), &config, &error));
    FAILS(MKMS_INVALID_ARGUMENT, mkms_create_key(session, S("{\"name\":"), &buffer, &error));
    FAILS(MKMS_INVALID_ARGUMENT, mkms_create_key(session, S("{\"name\":\"a\",\"name\":\"b\"}"), &buffer, &error));
    FAILS(MKMS_INVALID_ARGUMENT, mkms_create_key(session, S("[]"), &buffer, &error));
}

static void refuses_bad_lengths(mkms_session *session) {
    mkms_buffer *buffer = NULL;
    uint8_t place[512];
    size_t length = 4711;
    FAILS(MKMS_INVALID_ARGUMENT, mkms_encrypt(session, "users", SIZE_MAX, B("x"), NULL, &buffer, NULL, &error));
    FAILS(MKMS_INVALID_ARGUMENT,
          mkms_encrypt(session, S("users"), (const uint8_t *)"x", SIZE_MAX, NULL, &buffer, NULL, &error));
    FAILS(MKMS_INVALID_ARGUMENT,
          mkms_encrypt_into(session, S("users"), B("x"), NULL, place, SIZE_MAX, &length, NULL, &error));
    FAILS(MKMS_INVALID_ARGUMENT, mkms_encrypt(session, S("users"), NULL, 3, NULL, &buffer, NULL, &error));
    mkms_encrypt_item item = {sizeof item, S("users"), B("x"), NULL};
    mkms_results *results = NULL;
    FAILS(MKMS_INVALID_ARGUMENT, mkms_encrypt_batch(session, &item, SIZE_MAX, &results, &error));
    FAILS(MKMS_INVALID_ARGUMENT, mkms_encrypt_batch(session, &item, 1001, &results, &error));
    item.size = 0;
    FAILS(MKMS_INVALID_ARGUMENT, mkms_encrypt_batch(session, &item, 1, &results, &error));
    item.size = SIZE_MAX;
    FAILS(MKMS_INVALID_ARGUMENT, mkms_encrypt_batch(session, &item, 1, &results, &error));
    CHECK(buffer == NULL && results == NULL && length == 4711);
    OK(mkms_ciphertext_max(SIZE_MAX, &length, &error));
    CHECK(length == SIZE_MAX);
}

/* Lengths beyond any memory are refused before anything is read. */
static void refuses_impossible_lengths(mkms_session *session) {
    const uint8_t *byte = (const uint8_t *)"x";
    const size_t huge = SIZE_MAX / 2;
    mkms_buffer *buffer = NULL, *sealed = NULL;
    mkms_encryptor *encryptor = NULL;
    mkms_decryptor *decryptor = NULL;
    uint8_t place[512];
    size_t length = 4711;
    bool valid = true;
    FAILS(MKMS_PLAINTEXT_TOO_LONG, mkms_encrypt(session, S("users"), byte, huge, NULL, &buffer, NULL, &error));
    FAILS(MKMS_BUFFER_TOO_SMALL,
          mkms_encrypt_into(session, S("users"), byte, huge, NULL, place, sizeof place, &length, NULL, &error));
    CHECK(length > huge);
    FAILS(MKMS_INVALID_ARGUMENT,
          mkms_sign(session, S("invoices"), byte, huge, MKMS_SIGN_RSA_PSS_SHA256, &buffer, NULL, &error));
    FAILS(MKMS_INVALID_ARGUMENT, mkms_verify(session, S("invoices"), 0, byte, huge, byte, 1, MKMS_SIGN_RSA_PSS_SHA256,
                                             &valid, NULL, &error));
    FAILS(MKMS_INVALID_ARGUMENT,
          mkms_generate_data_key(session, S("users"), huge, NULL, &buffer, &sealed, NULL, &error));
    OK(mkms_encryptor_new(session, S("users"), NULL, &encryptor, &error));
    FAILS(MKMS_INVALID_ARGUMENT, mkms_encryptor_update(encryptor, byte, huge, &buffer, &error));
    /* The stream can continue. */
    OK(mkms_encryptor_update(encryptor, byte, 1, &buffer, &error));
    OK(mkms_buffer_free(&buffer));
    OK(mkms_encryptor_free(&encryptor));
    OK(mkms_decryptor_new(session, NULL, &decryptor, &error));
    FAILS(MKMS_INVALID_ARGUMENT, mkms_decryptor_update(decryptor, byte, huge, &buffer, &error));
    OK(mkms_decryptor_free(&decryptor));
    CHECK(buffer == NULL && sealed == NULL);
}

static void accepts_older_and_newer_structs(mkms_kms *kms, mkms_session *session) {
    struct newer {
        mkms_session_options options;
        uint64_t added;
    } newer;
    mkms_session *other = NULL;
    memset(&newer, 0, sizeof newer);
    newer.options.size = sizeof newer;
    OK(mkms_session_new(kms, S("bob"), MKMS_ROLE_APP, &newer.options, &other, &error));
    OK(mkms_session_free(&other));
    newer.added = 1;
    FAILS(MKMS_INVALID_ARGUMENT, mkms_session_new(kms, S("bob"), MKMS_ROLE_APP, &newer.options, &other, &error));
    /* An older caller's struct is not written beyond its size. */
    mkms_operation operation;
    mkms_buffer *buffer = NULL;
    memset(&operation, 0x55, sizeof operation);
    operation.size = offsetof(mkms_operation, version);
    OK(mkms_encrypt(session, S("users"), B("x"), NULL, &buffer, &operation, &error));
    CHECK(operation.record > 0 && operation.version == 0x55555555 && operation.key_id[0] == 0x55);
    OK(mkms_buffer_free(&buffer));
}

/* A request for the needed size, or a buffer that is too small, has no effect: no record, nothing written. */
static void records_nothing_for_small_buffers(mkms_session *session) {
    uint8_t place[512], small[16];
    size_t length = 0, needed = 0;
    memset(small, 0x55, sizeof small);
    OK(mkms_encrypt_into(session, S("users"), B("secret"), NULL, place, sizeof place, &length, NULL, &error));
    unsigned long before = records(session);
    FAILS(MKMS_BUFFER_TOO_SMALL,
          mkms_encrypt_into(session, S("users"), B("secret"), NULL, NULL, 0, &needed, NULL, &error));
    CHECK(needed >= length);
    FAILS(MKMS_BUFFER_TOO_SMALL,
          mkms_encrypt_into(session, S("users"), B("secret"), NULL, place, needed - 1, &needed, NULL, &error));
    FAILS(MKMS_BUFFER_TOO_SMALL, mkms_decrypt_into(session, place, length, NULL, small, 5, &needed, NULL, &error));
    CHECK(needed == 6);
    FAILS(MKMS_BUFFER_TOO_SMALL, mkms_decrypt_into(session, place, length, NULL, NULL, 0, &needed, NULL, &error));
    FAILS(MKMS_BUFFER_TOO_SMALL,
          mkms_sign_into(session, S("invoices"), B("x"), MKMS_SIGN_RSA_PSS_SHA256, small, sizeof small, &needed, NULL,
                         &error));
    CHECK(needed == 256);
    FAILS(MKMS_BUFFER_TOO_SMALL, mkms_generate_data_key_into(session, S("users"), small, sizeof small, NULL, place, 20,
                                                             &needed, NULL, &error));
    for (size_t at = 0; at < sizeof small; at++) {
        CHECK(small[at] == 0x55);
    }
    CHECK(records(session) == before);
    OK(mkms_decrypt_into(session, place, length, NULL, small, 6, &needed, NULL, &error));
    CHECK(needed == 6 && memcmp(small, "secret", 6) == 0);
    CHECK(records(session) == before + 1);
}

static void frees_once(mkms_kms *kms) {
    mkms_session *session = admin(kms);
    OK(mkms_session_free(&session));
    CHECK(session == NULL);
    OK(mkms_session_free(&session));
    OK(mkms_session_free(NULL));
    mkms_error *none = NULL;
    OK(mkms_error_free(&none));
    /* Without a pointer for it, no error object is created. */
    CHECK(mkms_close(NULL, NULL) == MKMS_INVALID_ARGUMENT);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    mkms_kms *kms = open_store(argv[1], "durable");
    mkms_session *session = admin(kms);
    mkms_buffer *buffer = NULL;
    mkms_session *other = NULL;
    create_key(session, "{\"name\":\"users\",\"type\":\"AES256_GCM\",\"purpose\":\"ENCRYPTION\"}");
    create_key(session, "{\"name\":\"invoices\",\"type\":\"RSA_2048\",\"purpose\":\"SIGNING\"}");
    unsigned long before = records(session);
    refuses_wrong_handles(kms, session);
    refuses_bad_text(kms, session);
    refuses_bad_lengths(session);
    CHECK(records(session) == before);
    refuses_impossible_lengths(session);
    accepts_older_and_newer_structs(kms, session);
    records_nothing_for_small_buffers(session);
    frees_once(kms);
    OK(mkms_close(kms, &error));
    OK(mkms_close(kms, &error));
    FAILS(MKMS_CLOSED, mkms_encrypt(session, S("users"), B("x"), NULL, &buffer, NULL, &error));
    FAILS(MKMS_CLOSED, mkms_create_key(session,
          S("{\"name\":\"late\",\"type\":\"AES256_GCM\",\"purpose\":\"ENCRYPTION\"}"),
                                       &buffer, &error));
    OK(mkms_session_new(kms, S("bob"), MKMS_ROLE_APP, NULL, &other, &error));
    FAILS(MKMS_CLOSED, mkms_encrypt(other, S("users"), B("x"), NULL, &buffer, NULL, &error));
    OK(mkms_session_free(&other));
    OK(mkms_kms_free(&kms));
    /* A session outlives the handle of its service. */
    FAILS(MKMS_CLOSED, mkms_encrypt(session, S("users"), B("x"), NULL, &buffer, NULL, &error));
    OK(mkms_session_free(&session));
    puts("ok");
    return 0;
}
