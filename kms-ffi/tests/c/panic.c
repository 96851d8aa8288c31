/* A panic in the library becomes a status. */
#include "check.h"

/* Behind a feature: not in the header. */
mkms_status mkms_test_panic(mkms_error **error);


int main(void) {
    FAILS(MKMS_INTERNAL_PANIC, mkms_test_panic(&error));
    CHECK(mkms_test_panic(NULL) == MKMS_INTERNAL_PANIC);
    puts("ok");
    return 0;
}
