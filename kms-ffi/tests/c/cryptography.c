/* Calls every cryptographic function and checks its results. */
#include "check.h"

static const char plaintext[] = "4111 1111 1111 1111";

static mkms_context *context_of(const char *table) {
    mkms_context *context = NULL;
    OK(mkms_context_new(&context, &error));
    OK(mkms_context_set(context, S("table"), table, strlen(table), &error));
    return context;
}

static void encrypts(mkms_session *session) {
    mkms_context *users = context_of("users"), *others = context_of("others");
    mkms_buffer *ciphertext = NULL, *opened = NULL, *again = NULL;
    mkms_operation operation = {sizeof operation, 0, {0}, 0, {0}};
    const uint8_t *data = NULL;
    size_t length = 0;
    OK(mkms_encrypt(session, S("users"), B(plaintext), users, &ciphertext, &operation, &error));
    CHECK(operation.version == 1 && operation.record > 0 && strlen(operation.key_id) == 36);
    OK(mkms_buffer_get(ciphertext, &data, &length, &error));
    OK(mkms_decrypt(session, data, length, users, &opened, NULL, &error));
    CHECK(equals(opened, plaintext, sizeof plaintext - 1));
    OK(mkms_buffer_free(&opened));
    FAILS(MKMS_DECRYPTION_FAILED, mkms_decrypt(session, data, length, others, &opened, NULL, &error));
    CHECK(opened == NULL);
    FAILS(MKMS_INVALID_CIPHERTEXT, mkms_decrypt(session, data, 7, users, &opened, NULL, &error));

    mkms_reencrypt_item item = {sizeof item, data, length, users, NULL, 0, others};
    OK(mkms_reencrypt(session, &item, &again, NULL, &error));
    OK(mkms_buffer_get(again, &data, &length, &error));
    mkms_decrypt_item checked = {sizeof checked, data, length, others, S("users"), NULL, 0, NULL, 0, 1, 0, NULL, 0, 0};
    OK(mkms_decrypt_checked(session, &checked, &opened, &operation, &error));
    CHECK(equals(opened, plaintext, sizeof plaintext - 1));
    OK(mkms_buffer_free(&opened));
    checked.key = "invoices";
    checked.key_len = 8;
    FAILS(MKMS_INVALID_CIPHERTEXT, mkms_decrypt_checked(session, &checked, &opened, NULL, &error));
    OK(mkms_buffer_free(&again));
    OK(mkms_buffer_free(&ciphertext));
    OK(mkms_context_free(&users));
    OK(mkms_context_free(&others));
}

static void encrypts_into(mkms_session *session) {
    uint8_t place[512];
    size_t length = 0, most = 0;
    OK(mkms_ciphertext_max(sizeof plaintext - 1, &most, &error));
    CHECK(most <= sizeof place);
    memcpy(place, plaintext, sizeof plaintext - 1);
    /* The output buffer may be the input buffer. */
    OK(mkms_encrypt_into(session, S("users"), place, sizeof plaintext - 1, NULL, place, sizeof place, &length, NULL,
                         &error));
    CHECK(length > sizeof plaintext && length <= most);
    OK(mkms_decrypt_into(session, place, length, NULL, place, sizeof place, &length, NULL, &error));
    CHECK(length == sizeof plaintext - 1 && memcmp(place, plaintext, length) == 0);
}

static void signs(mkms_session *session) {
    mkms_buffer *signature = NULL;
    const uint8_t *data = NULL;
    uint8_t place[256];
    size_t length = 0;
    bool valid = false;
    OK(mkms_sign(session, S("invoices"), B("42 EUR"), MKMS_SIGN_RSA_PSS_SHA256, &signature, NULL, &error));
    OK(mkms_buffer_get(signature, &data, &length, &error));
    OK(mkms_verify(session, S("invoices"), 0, B("42 EUR"), data, length, MKMS_SIGN_RSA_PSS_SHA256, &valid, NULL,
                   &error));
    CHECK(valid);
    OK(mkms_verify(session, S("invoices"), 1, B("43 EUR"), data, length, MKMS_SIGN_RSA_PSS_SHA256, &valid, NULL,
                   &error));
    CHECK(!valid);
    OK(mkms_buffer_free(&signature));
    OK(mkms_sign_into(session, S("invoices"), B("1"), MKMS_SIGN_RSA_PKCS1_SHA256, place, sizeof place, &length, NULL,
                      &error));
    CHECK(length == sizeof place);
    OK(mkms_sign_with_version(session, S("invoices"), 1, B("1"), MKMS_SIGN_RSA_PKCS1_SHA256, &signature, NULL, &error));
    CHECK(equals(signature, place, sizeof place));
    OK(mkms_buffer_free(&signature));
    FAILS(MKMS_WRONG_KEY_TYPE, mkms_sign(session, S("users"), B("1"), MKMS_SIGN_RSA_PSS_SHA256, &signature, NULL,
          &error));
    FAILS(MKMS_INVALID_ARGUMENT, mkms_sign(session, S("invoices"), B("1"), 77, &signature, NULL, &error));
}

static void makes_data_keys(mkms_session *session) {
    mkms_buffer *plain = NULL, *wrapped = NULL, *opened = NULL;
    uint8_t key[32], ciphertext[512];
    const uint8_t *data = NULL;
    size_t length = 0;
    OK(mkms_generate_data_key(session, S("users"), 32, NULL, &plain, &wrapped, NULL, &error));
    OK(mkms_buffer_get(wrapped, &data, &length, &error));
    OK(mkms_decrypt(session, data, length, NULL, &opened, NULL, &error));
    OK(mkms_buffer_get(plain, &data, &length, &error));
    CHECK(length == 32 && equals(opened, data, length));
    OK(mkms_buffer_free(&plain));
    OK(mkms_buffer_free(&wrapped));
    OK(mkms_buffer_free(&opened));
    OK(mkms_generate_data_key(session, S("users"), 32, NULL, NULL, &wrapped, NULL, &error));
    OK(mkms_buffer_free(&wrapped));
    OK(mkms_generate_data_key_into(session, S("users"), key, sizeof key, NULL, ciphertext, sizeof ciphertext, &length,
                                   NULL, &error));
    OK(mkms_decrypt(session, ciphertext, length, NULL, &opened, NULL, &error));
    CHECK(equals(opened, key, sizeof key));
    OK(mkms_buffer_free(&opened));
}

static void works_in_batches(mkms_session *session) {
    mkms_encrypt_item items[3] = {
        {sizeof items[0], S("users"), B("one"), NULL},
        {sizeof items[0], S("nobody"), B("two"), NULL},
        {sizeof items[0], S("users"), B("three"), NULL},
    };
    mkms_results *sealed = NULL, *opened = NULL;
    mkms_result result;
    memset(&result, 0, sizeof result);
    result.size = sizeof result;
    size_t count = 0;
    OK(mkms_encrypt_batch(session, items, 3, &sealed, &error));
    OK(mkms_results_count(sealed, &count, &error));
    CHECK(count == 3);
    OK(mkms_results_get(sealed, 1, &result, &error));
    CHECK(result.status == MKMS_KEY_NOT_FOUND && strcmp(result.name, "KeyNotFound") == 0 && result.data == NULL);
    OK(mkms_results_get(sealed, 2, &result, &error));
    CHECK(result.status == MKMS_OK && result.version == 1 && result.name == NULL && strlen(result.key_id) == 36);
    mkms_decrypt_item item = {sizeof item, result.data, result.data_len, NULL, NULL, 0, NULL, 0, NULL, 0, 0, 0, NULL,
                              0, 0};
    OK(mkms_decrypt_batch(session, &item, 1, &opened, &error));
    OK(mkms_results_get(opened, 0, &result, &error));
    CHECK(result.data_len == 5 && memcmp(result.data, "three", 5) == 0);
    FAILS(MKMS_INVALID_ARGUMENT, mkms_results_get(opened, 1, &result, &error));
    mkms_reencrypt_item reencrypt = {sizeof reencrypt, item.ciphertext, item.ciphertext_len, NULL, NULL, 0, NULL};
    OK(mkms_results_free(&opened));
    OK(mkms_reencrypt_batch(session, &reencrypt, 1, &opened, &error));
    OK(mkms_results_get(opened, 0, &result, &error));
    CHECK(result.status == MKMS_OK && result.data_len == item.ciphertext_len);
    OK(mkms_results_free(&opened));
    OK(mkms_results_free(&sealed));

    mkms_sign_item sign = {sizeof sign, S("invoices"), B("a"), MKMS_SIGN_RSA_PSS_SHA256, 0};
    OK(mkms_sign_batch(session, &sign, 1, &sealed, &error));
    OK(mkms_results_get(sealed, 0, &result, &error));
    mkms_verify_item verify = {sizeof verify, S("invoices"), B("a"), result.data, result.data_len,
                               MKMS_SIGN_RSA_PSS_SHA256, 0};
    OK(mkms_verify_batch(session, &verify, 1, &opened, &error));
    OK(mkms_results_get(opened, 0, &result, &error));
    CHECK(result.status == MKMS_OK && result.valid == 1 && result.data == NULL);
    OK(mkms_results_free(&opened));
    OK(mkms_results_free(&sealed));
}

struct pipe_state {
    uint8_t *input, *output;
    size_t input_len, at, output_len, capacity;
    int fails;
};

static int32_t read_some(void *user, uint8_t *buffer, size_t capacity, size_t *read) {
    struct pipe_state *state = user;
    size_t left = state->input_len - state->at;
    if (state->fails) {
        return 5;
    }
    *read = left < capacity ? left : capacity;
    memcpy(buffer, state->input + state->at, *read);
    state->at += *read;
    return 0;
}

static int32_t write_all(void *user, const uint8_t *data, size_t length) {
    struct pipe_state *state = user;
    if (state->output_len + length > state->capacity) {
        return 28;
    }
    memcpy(state->output + state->output_len, data, length);
    state->output_len += length;
    return 0;
}

static void streams(mkms_session *session) {
    enum { SIZE = 200000, ROOM = 210000 };
    uint8_t *input = malloc(SIZE), *sealed = malloc(ROOM), *opened = malloc(ROOM);
    CHECK(input != NULL && sealed != NULL && opened != NULL);
    for (size_t at = 0; at < SIZE; at++) {
        input[at] = (uint8_t)(at * 31);
    }
    mkms_stream_summary summary = {sizeof summary, 0, 0, 0, {0}};
    struct pipe_state to = {input, sealed, SIZE, 0, 0, ROOM, 0};
    OK(mkms_encrypt_stream(session, S("users"), NULL, read_some, write_all, &to, &summary, &error));
    CHECK(summary.plaintext_bytes == SIZE && summary.version == 1);
    struct pipe_state from = {sealed, opened, to.output_len, 0, 0, ROOM, 0};
    OK(mkms_decrypt_stream(session, NULL, read_some, write_all, &from, NULL, &error));
    CHECK(from.output_len == SIZE && memcmp(input, opened, SIZE) == 0);
    struct pipe_state failing = {sealed, opened, to.output_len, 0, 0, ROOM, 1};
    FAILS(MKMS_INPUT_OUTPUT, mkms_decrypt_stream(session, NULL, read_some, write_all, &failing, NULL, &error));
    struct pipe_state full = {sealed, opened, to.output_len, 0, 0, 10, 0};
    FAILS(MKMS_INPUT_OUTPUT, mkms_decrypt_stream(session, NULL, read_some, write_all, &full, NULL, &error));
    struct pipe_state cut = {sealed, opened, to.output_len - 1, 0, 0, ROOM, 0};
    FAILS(MKMS_DECRYPTION_FAILED, mkms_decrypt_stream(session, NULL, read_some, write_all, &cut, NULL, &error));

    /* The incremental functions read a stream that the functions with callbacks wrote, and the other way round. */
    mkms_decryptor *decryptor = NULL;
    mkms_buffer *piece = NULL;
    const uint8_t *data = NULL;
    size_t length = 0, done = 0;
    OK(mkms_decryptor_new(session, NULL, &decryptor, &error));
    for (size_t at = 0; at < to.output_len;) {
        size_t step = at < 300 ? 1 : 30001;
        step = step < to.output_len - at ? step : to.output_len - at;
        OK(mkms_decryptor_update(decryptor, sealed + at, step, &piece, &error));
        OK(mkms_buffer_get(piece, &data, &length, &error));
        CHECK(done + length <= SIZE && memcmp(input + done, data, length) == 0);
        done += length;
        at += step;
        OK(mkms_buffer_free(&piece));
    }
    OK(mkms_decryptor_finish(decryptor, &piece, &summary, &error));
    OK(mkms_buffer_get(piece, &data, &length, &error));
    CHECK(done + length == SIZE && memcmp(input + done, data, length) == 0);
    OK(mkms_buffer_free(&piece));
    FAILS(MKMS_INVALID_ARGUMENT, mkms_decryptor_update(decryptor, sealed, 1, &piece, &error));
    OK(mkms_decryptor_free(&decryptor));
    OK(mkms_decryptor_new(session, NULL, &decryptor, &error));
    FAILS(MKMS_INVALID_CIPHERTEXT, mkms_decryptor_finish(decryptor, &piece, NULL, &error));
    OK(mkms_decryptor_free(&decryptor));

    mkms_encryptor *encryptor = NULL;
    OK(mkms_encryptor_new(session, S("users"), NULL, &encryptor, &error));
    OK(mkms_encryptor_update(encryptor, input, SIZE, &piece, &error));
    OK(mkms_buffer_get(piece, &data, &length, &error));
    memcpy(sealed, data, length);
    done = length;
    OK(mkms_buffer_free(&piece));
    OK(mkms_encryptor_finish(encryptor, &piece, NULL, &error));
    OK(mkms_buffer_get(piece, &data, &length, &error));
    memcpy(sealed + done, data, length);
    OK(mkms_buffer_free(&piece));
    FAILS(MKMS_INVALID_ARGUMENT, mkms_encryptor_update(encryptor, input, 1, &piece, &error));
    OK(mkms_encryptor_free(&encryptor));
    struct pipe_state last = {sealed, opened, done + length, 0, 0, ROOM, 0};
    OK(mkms_decrypt_stream(session, NULL, read_some, write_all, &last, NULL, &error));
    CHECK(last.output_len == SIZE && memcmp(input, opened, SIZE) == 0);
    free(input);
    free(sealed);
    free(opened);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    mkms_kms *kms = open_store(argv[1], "durable");
    mkms_session *session = admin(kms);
    create_key(session, "{\"name\":\"users\",\"type\":\"AES256_GCM\",\"purpose\":\"ENCRYPTION\"}");
    create_key(session, "{\"name\":\"invoices\",\"type\":\"RSA_2048\",\"purpose\":\"SIGNING\"}");
    encrypts(session);
    encrypts_into(session);
    signs(session);
    makes_data_keys(session);
    works_in_batches(session);
    streams(session);
    OK(mkms_session_free(&session));
    close_store(&kms);
    puts("ok");
    return 0;
}
