/* Makes many calls in queued mode, some of which are refused, and checks that the resident memory does not grow:
 * loop CALLS STORE */
#include "check.h"

/* The resident memory in KiB. */
static long resident(void) {
    char line[256];
    long size = 0;
    FILE *status = fopen("/proc/self/status", "r");
    CHECK(status != NULL);
    while (fgets(line, sizeof line, status) != NULL) {
        if (strncmp(line, "VmRSS:", 6) == 0) {
            size = strtol(line + 6, NULL, 10);
        }
    }
    fclose(status);
    return size;
}

static void call_all(mkms_session *session, const mkms_context *context) {
    uint8_t place[512];
    size_t length = 0;
    mkms_buffer *opened = NULL;
    OK(mkms_encrypt_into(session, S("users"), B("secret"), context, place, sizeof place, &length, NULL, &error));
    OK(mkms_decrypt(session, place, length, context, &opened, NULL, &error));
    OK(mkms_buffer_free(&opened));
    place[length - 1] ^= 1;
    FAILS(MKMS_INVALID_ARGUMENT, mkms_encrypt(session, NULL, 0, B("x"), NULL, &opened, NULL, &error));
    FAILS(MKMS_BUFFER_TOO_SMALL, mkms_decrypt_into(session, place, length, context, place, 1, &length, NULL, &error));
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    long calls = strtol(argv[1], NULL, 10), warm = 0;
    mkms_kms *kms = open_store(argv[2], "queued");
    mkms_session *session = admin(kms);
    mkms_context *context = NULL;
    OK(mkms_context_new(&context, &error));
    OK(mkms_context_set(context, S("table"), S("users"), &error));
    create_key(session, "{\"name\":\"users\",\"type\":\"AES256_GCM\",\"purpose\":\"ENCRYPTION\"}");
    for (long call = 0; call < calls; call += 4) {
        call_all(session, context);
        if (call / 4 == calls / 40) {
            /* Caches and queues have reached their size. */
            warm = resident();
        }
    }
    long grown = resident() - warm;
    printf("%ld calls, %ld KiB resident, %ld KiB more than after a tenth of them\n", calls, resident(), grown);
    CHECK(grown < 16 * 1024);
    OK(mkms_context_free(&context));
    OK(mkms_session_free(&session));
    close_store(&kms);
    puts("ok");
    return 0;
}
