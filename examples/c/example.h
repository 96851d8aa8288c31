/* Helpers of the examples: ending with the error's message, and text with its length. */
#ifndef EXAMPLE_H
#define EXAMPLE_H

#include <mini_kms.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A text literal and its length. */
#define TEXT(literal) (literal), (sizeof(literal) - 1)

/* Ends the program with the message of the error unless the call succeeded. */
static inline void check(mkms_status status, mkms_error **error) {
    mkms_error_info info = {.size = sizeof info};
    if (status == MKMS_OK) {
        return;
    }
    if (*error != NULL && mkms_error_get(*error, &info, NULL) == MKMS_OK) {
        fprintf(stderr, "error %d, %s: %s\n", (int)status, info.name, info.message);
    } else {
        fprintf(stderr, "error %d\n", (int)status);
    }
    mkms_error_free(error);
    exit(1);
}

/* Opens the store that a URL names. The root key comes from the environment. */
static inline mkms_kms *open_store(const char *url) {
    mkms_config *config = NULL;
    mkms_kms *kms = NULL;
    mkms_error *error = NULL;
    const char *root_key = getenv("KMS_MASTER_KEY");
    if (root_key == NULL) {
        root_key = "passphrase:correct horse battery staple";
    }
    check(mkms_config_new(url, strlen(url), &config, &error), &error);
    check(mkms_config_root_key(config, root_key, strlen(root_key), &error), &error);
    check(mkms_open(config, &kms, &error), &error);
    mkms_config_free(&config);
    return kms;
}

#endif
