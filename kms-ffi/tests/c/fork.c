/* Forked children: calls with inherited handles fail with MKMS_USED_AFTER_FORK at once. A child can open a store if its
 * parent had none open. */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <pthread.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

static void use_inherited(mkms_kms *kms, mkms_session *session, mkms_encryptor *encryptor, const char *path) {
    mkms_buffer *buffer = NULL;
    mkms_session *other = NULL;
    mkms_config *config = NULL;
    mkms_kms *opened = NULL;
    char url[4096];
    alarm(20);
    FAILS(MKMS_USED_AFTER_FORK, mkms_encrypt(session, S("users"), B("x"), NULL, &buffer, NULL, &error));
    FAILS(MKMS_USED_AFTER_FORK, mkms_get_key(session, S("users"), &buffer, &error));
    FAILS(MKMS_USED_AFTER_FORK, mkms_session_new(kms, S("bob"), MKMS_ROLE_APP, NULL, &other, &error));
    FAILS(MKMS_USED_AFTER_FORK, mkms_encryptor_update(encryptor, B("x"), &buffer, &error));
    FAILS(MKMS_USED_AFTER_FORK, mkms_close(kms, &error));
    /* The parent had a store open, so SQLite in this process would trust locks that only the parent holds. */
    snprintf(url, sizeof url, "sqlite:%s.other", path);
    OK(mkms_config_new(url, strlen(url), &config, &error));
    OK(mkms_config_root_key_bytes(config, (const uint8_t *)"0123456789abcdef0123456789abcdef", 32, &error));
    FAILS(MKMS_USED_AFTER_FORK, mkms_open(config, &opened, &error));
    OK(mkms_config_free(&config));
    OK(mkms_encryptor_free(&encryptor));
    OK(mkms_session_free(&session));
    OK(mkms_kms_free(&kms));
    CHECK(kms == NULL && session == NULL && encryptor == NULL);
}

/* Creates a key. Parent and child must not create the same identifiers. */
static void work(const char *path, const char *key) {
    mkms_kms *kms = open_store(path, "durable");
    mkms_session *session = admin(kms);
    create_key(session, key);
    mkms_buffer *sealed = NULL;
    OK(mkms_encrypt(session, S("users"), B("secret"), NULL, &sealed, NULL, &error));
    OK(mkms_buffer_free(&sealed));
    OK(mkms_session_free(&session));
    close_store(&kms);
}

static void expect_success(pid_t child) {
    int status = 0;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fprintf(stderr, "the child ended with wait status %d\n", status);
        exit(1);
    }
}

static mkms_context *shared_context;
static mkms_config *shared_config;
static volatile int is_over;

static void *change_what_is_shared(void *unused) {
    (void)unused;
    while (!is_over) {
        OK(mkms_context_set(shared_context, S("row"), S("1"), &error));
        OK(mkms_config_grace_days(shared_config, 7, &error));
    }
    return NULL;
}

/* A call in a forked child must not hang, whatever the parent's threads were doing. */
static void succeeds_or_reports_the_fork(mkms_status status) {
    CHECK(status == MKMS_OK || status == MKMS_USED_AFTER_FORK);
}

/* Forks while another thread changes a context and a configuration: the child inherits locks that nobody releases. */
static void forks_amid_changes(void) {
    enum { FORKS = 30 };
    pthread_t thread;
    OK(mkms_context_new(&shared_context, &error));
    OK(mkms_config_new(S("sqlite:x.db"), &shared_config, &error));
    CHECK(pthread_create(&thread, NULL, change_what_is_shared, NULL) == 0);
    for (int number = 0; number < FORKS; number++) {
        pid_t child = fork();
        if (child == 0) {
            alarm(30);
            succeeds_or_reports_the_fork(mkms_context_set(shared_context, S("row"), S("2"), NULL));
            succeeds_or_reports_the_fork(mkms_config_grace_days(shared_config, 8, NULL));
            _exit(0);
        }
        expect_success(child);
    }
    is_over = 1;
    CHECK(pthread_join(thread, NULL) == 0);
    OK(mkms_context_free(&shared_context));
    OK(mkms_config_free(&shared_config));
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    mkms_kms *kms = open_store(argv[1], "durable");
    mkms_session *session = admin(kms);
    mkms_encryptor *encryptor = NULL;
    create_key(session, "{\"name\":\"users\",\"type\":\"AES256_GCM\",\"purpose\":\"ENCRYPTION\"}");
    OK(mkms_encryptor_new(session, S("users"), NULL, &encryptor, &error));
    pid_t child = fork();
    if (child == 0) {
        use_inherited(kms, session, encryptor, argv[1]);
        _exit(0);
    }
    expect_success(child);
    /* The parent's handles still work. */
    mkms_buffer *piece = NULL;
    OK(mkms_encryptor_update(encryptor, B("x"), &piece, &error));
    OK(mkms_buffer_free(&piece));
    OK(mkms_encryptor_free(&encryptor));
    OK(mkms_session_free(&session));
    close_store(&kms);
    /* If no store is open at the fork, both parent and child can open it. */
    child = fork();
    if (child == 0) {
        alarm(60);
        work(argv[1], "{\"name\":\"child\",\"type\":\"AES256_GCM\",\"purpose\":\"ENCRYPTION\"}");
        /* Not exit(): a leak checker would report the memory of the parent's threads. */
        fflush(NULL);
        _exit(0);
    }
    work(argv[1], "{\"name\":\"parent\",\"type\":\"AES256_GCM\",\"purpose\":\"ENCRYPTION\"}");
    expect_success(child);
    forks_amid_changes();
    puts("ok");
    return 0;
}
