/* Eight threads that share one session: threads STORE-URL. Their records are committed together. */
#include "example.h"

#include <pthread.h>

enum { THREADS = 8, MESSAGES = 100 };

static void *encrypt_messages(void *argument) {
    const mkms_session *session = argument;
    for (int message = 0; message < MESSAGES; message++) {
        uint8_t ciphertext[512];
        size_t length = 0;
        mkms_error *error = NULL;
        check(mkms_encrypt_into(session, TEXT("messages"), (const uint8_t *)&message, sizeof message, NULL, ciphertext,
                                sizeof ciphertext, &length, NULL, &error), &error);
    }
    return NULL;
}

int main(int argc, char **argv) {
    mkms_error *error = NULL;
    mkms_session *session = NULL;
    mkms_buffer *key = NULL;
    pthread_t threads[THREADS];
    mkms_kms *kms = open_store(argc > 1 ? argv[1] : "sqlite:kms.db");
    check(mkms_session_new(kms, TEXT("alice"), MKMS_ROLE_ADMIN, NULL, &session, &error), &error);
    check(mkms_create_key(session, TEXT("{\"name\":\"messages\",\"type\":\"AES256_GCM\",\"purpose\":\"ENCRYPTION\"}"),
                          &key,
                          &error), &error);
    mkms_buffer_free(&key);
    for (int thread = 0; thread < THREADS; thread++) {
        if (pthread_create(&threads[thread], NULL, encrypt_messages, session) != 0) {
            return 1;
        }
    }
    for (int thread = 0; thread < THREADS; thread++) {
        pthread_join(threads[thread], NULL);
    }
    printf("%d messages encrypted\n", THREADS * MESSAGES);
    mkms_session_free(&session);
    check(mkms_close(kms, &error), &error);
    mkms_kms_free(&kms);
    return 0;
}
