/* A panic in the library is reported as a status. */
#include "check.h"

/* Exported only with a feature for tests, so the header does not declare it. */
mkms_status mkms_test_panic(mkms_error **error);

int main(void) {
    FAILS(MKMS_INTERNAL_PANIC, mkms_test_panic(&error));
    CHECK(mkms_test_panic(NULL) == MKMS_INTERNAL_PANIC);
    puts("ok");
    return 0;
}
