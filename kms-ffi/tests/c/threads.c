/* Eight threads use one session. */
#include "check.h"

#include <pthread.h>

enum { THREADS = 8, ROUNDS = 50 };

struct work {
    mkms_session *session;
    const mkms_context *context;
};

static void *encrypt_and_decrypt(void *argument) {
    const struct work *work = argument;
    for (int round = 0; round < ROUNDS; round++) {
        uint8_t place[512];
        size_t length = 0;
        mkms_buffer *opened = NULL;
        OK(mkms_encrypt_into(work->session, S("users"), B("secret"), work->context, place, sizeof place, &length, NULL,
                             &error));
        OK(mkms_decrypt(work->session, place, length, work->context, &opened, NULL, &error));
        CHECK(equals(opened, "secret", 6));
        OK(mkms_buffer_free(&opened));
        FAILS(MKMS_INVALID_ARGUMENT, mkms_encrypt(work->session, NULL, 0, B("x"), NULL, &opened, NULL, &error));
    }
    return NULL;
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    mkms_kms *kms = open_store(argv[1], "durable");
    mkms_session *session = admin(kms);
    mkms_context *context = NULL;
    pthread_t threads[THREADS];
    OK(mkms_context_new(&context, &error));
    OK(mkms_context_set(context, S("table"), S("users"), &error));
    create_key(session, "{\"name\":\"users\",\"type\":\"AES256_GCM\",\"purpose\":\"ENCRYPTION\"}");
    unsigned long before = records(session);
    struct work work = {session, context};
    for (int thread = 0; thread < THREADS; thread++) {
        CHECK(pthread_create(&threads[thread], NULL, encrypt_and_decrypt, &work) == 0);
    }
    for (int thread = 0; thread < THREADS; thread++) {
        CHECK(pthread_join(threads[thread], NULL) == 0);
    }
    CHECK(records(session) == before + 2 * THREADS * ROUNDS);
    OK(mkms_context_free(&context));
    OK(mkms_session_free(&session));
    close_store(&kms);
    puts("ok");
    return 0;
}
