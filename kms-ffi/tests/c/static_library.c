/* Uses the static library together with the system's SQLite and another static Rust library. */
#include "check.h"

#ifdef WITH_SQLITE
#include <sqlite3.h>
#endif

uint32_t other_sum(uint32_t n);

int main(int argc, char **argv) {
    CHECK(argc == 2);
    mkms_kms *kms = open_store(argv[1], "durable");
    mkms_session *session = admin(kms);
    create_key(session, "{\"name\":\"users\",\"type\":\"AES256_GCM\",\"purpose\":\"ENCRYPTION\"}");
    mkms_buffer *sealed = NULL;
    OK(mkms_encrypt(session, S("users"), B("secret"), NULL, &sealed, NULL, &error));
    OK(mkms_buffer_free(&sealed));
#ifdef WITH_SQLITE
    /* Another database: the store itself must not be opened by another copy of SQLite in this process. */
    sqlite3 *database = NULL;
    CHECK(sqlite3_open(":memory:", &database) == SQLITE_OK);
    CHECK(sqlite3_exec(database, "CREATE TABLE t (x); INSERT INTO t VALUES (1)", NULL, NULL, NULL) == SQLITE_OK);
    CHECK(sqlite3_close(database) == SQLITE_OK);
#endif
    CHECK(other_sum(11) == 12);
    FAILS(MKMS_KEY_NOT_FOUND, mkms_encrypt(session, S("nobody"), B("x"), NULL, &sealed, NULL, &error));
    OK(mkms_session_free(&session));
    close_store(&kms);
    puts("ok");
    return 0;
}
