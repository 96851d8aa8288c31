/* Encrypts or decrypts a file of any size in constant memory, and shows how far it is:
 *     encrypt_file STORE-URL encrypt|decrypt FROM TO */
#include "example.h"

struct copy {
    FILE *from, *to;
    unsigned long long done;
};

/* Fills the library's memory with input, and shows the progress. */
static int32_t read_file(void *user, uint8_t *buffer, size_t capacity, size_t *read) {
    struct copy *copy = user;
    *read = fread(buffer, 1, capacity, copy->from);
    copy->done += *read;
    fprintf(stderr, "\r%llu KiB", copy->done / 1024);
    return ferror(copy->from) ? 1 : 0;
}

static int32_t write_file(void *user, const uint8_t *data, size_t length) {
    struct copy *copy = user;
    return fwrite(data, 1, length, copy->to) == length ? 0 : 1;
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: encrypt_file STORE-URL encrypt|decrypt FROM TO\n");
        return 2;
    }
    mkms_error *error = NULL;
    mkms_session *session = NULL;
    mkms_buffer *key = NULL;
    mkms_kms *kms = open_store(argv[1]);
    check(mkms_session_new(kms, TEXT("alice"), MKMS_ROLE_ADMIN, NULL, &session, &error), &error);
    /* The first time, there is no such key. */
    mkms_status status = mkms_get_key(session, TEXT("files"), &key, &error);
    if (status == MKMS_KEY_NOT_FOUND) {
        mkms_error_free(&error);
        status = mkms_create_key(session, TEXT("{\"name\":\"files\",\"type\":\"AES256_GCM\","
                                               "\"purpose\":\"ENCRYPTION\"}"),
                                 &key, &error);
    }
    check(status, &error);
    mkms_buffer_free(&key);

    struct copy copy = {fopen(argv[3], "rb"), fopen(argv[4], "wb"), 0};
    if (copy.from == NULL || copy.to == NULL) {
        perror(copy.from == NULL ? argv[3] : argv[4]);
        return 1;
    }
    mkms_stream_summary summary = {.size = sizeof summary};
    if (strcmp(argv[2], "encrypt") == 0) {
        status = mkms_encrypt_stream(session, TEXT("files"), NULL, read_file, write_file, &copy, &summary, &error);
    } else {
        status = mkms_decrypt_stream(session, NULL, read_file, write_file, &copy, &summary, &error);
    }
    fprintf(stderr, "\n");
    fclose(copy.from);
    if (fclose(copy.to) != 0 && status == MKMS_OK) {
        perror(argv[4]);
        status = MKMS_INPUT_OUTPUT;
    }
    if (status != MKMS_OK) {
        /* The output is incomplete. */
        remove(argv[4]);
    }
    check(status, &error);
    printf("%llu bytes, version %u of key %s\n", (unsigned long long)summary.plaintext_bytes, (unsigned)summary.version,
           summary.key_id);
    mkms_session_free(&session);
    check(mkms_close(kms, &error), &error);
    mkms_kms_free(&kms);
    return 0;
}
