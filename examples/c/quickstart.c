/* The life of two keys: quickstart STORE-URL, such as quickstart sqlite:/tmp/kms.db. */
#include "example.h"

/* Calls a function that answers with JSON, and forgets the answer. */
#define DO(call)                        \
    do {                                \
        mkms_buffer *answer = NULL;     \
        mkms_error *error = NULL;       \
        check((call), &error);         \
        mkms_buffer_free(&answer);      \
    } while (0)

static const char card_number[] = "4111 1111 1111 1111";

int main(int argc, char **argv) {
    mkms_error *error = NULL;
    mkms_kms *kms = open_store(argc > 1 ? argv[1] : "sqlite:kms.db");

    /* The program says which principal acts. */
    mkms_session *admin = NULL, *shop = NULL;
    check(mkms_session_new(kms, TEXT("alice"), MKMS_ROLE_ADMIN, NULL, &admin, &error), &error);
    check(mkms_session_new(kms, TEXT("shop"), MKMS_ROLE_APP, NULL, &shop, &error), &error);

    DO(mkms_create_key(admin, TEXT("{\"name\":\"users\",\"type\":\"AES256_GCM\",\"purpose\":\"ENCRYPTION\","
                                   "\"rotationPeriodDays\":90}"), &answer, &error));
    DO(mkms_create_key(admin, TEXT("{\"name\":\"invoices\",\"type\":\"RSA_2048\",\"purpose\":\"SIGNING\"}"),
                       &answer, &error));
    DO(mkms_put_grant(admin, TEXT("{\"principal\":\"shop\",\"role\":\"app\",\"keyId\":\"users\","
                                 "\"allowedOps\":[\"encrypt\"]}"),
                      &answer, &error));

    /* The ciphertext is bound to its place. */
    mkms_context *row = NULL;
    check(mkms_context_new(&row, &error), &error);
    check(mkms_context_set(row, TEXT("table"), TEXT("users"), &error), &error);
    check(mkms_context_set(row, TEXT("row"), TEXT("4711"), &error), &error);

    uint8_t card[512];
    size_t card_len = 0;
    check(mkms_encrypt_into(shop, TEXT("users"), (const uint8_t *)card_number, sizeof card_number - 1, row, card,
                            sizeof card, &card_len, NULL, &error), &error);

    /* The shop may encrypt, but not decrypt. */
    mkms_buffer *opened = NULL;
    if (mkms_decrypt(shop, card, card_len, row, &opened, NULL, NULL) != MKMS_ACCESS_DENIED) {
        return 1;
    }
    /* Rotation keeps what was encrypted readable; revocation does not. */
    DO(mkms_rotate_key(admin, TEXT("users"), NULL, 0, &answer, &error));
    check(mkms_decrypt(admin, card, card_len, row, &opened, NULL, &error), &error);
    const uint8_t *data = NULL;
    size_t length = 0;
    check(mkms_buffer_get(opened, &data, &length, &error), &error);
    printf("decrypted: %.*s\n", (int)length, (const char *)data);
    mkms_buffer_free(&opened);
    DO(mkms_revoke_version(admin, TEXT("users"), 1, &answer, &error));
    if (mkms_decrypt(admin, card, card_len, row, &opened, NULL, NULL) != MKMS_VERSION_REVOKED) {
        return 1;
    }

    uint8_t signature[256];
    size_t signature_len = 0;
    bool valid = false;
    static const uint8_t invoice[] = "total: 42.00 EUR";
    check(mkms_sign_into(admin, TEXT("invoices"), invoice, sizeof invoice - 1, MKMS_SIGN_RSA_PSS_SHA256, signature,
                         sizeof signature, &signature_len, NULL, &error), &error);
    check(mkms_verify(admin, TEXT("invoices"), 0, invoice, sizeof invoice - 1, signature, signature_len,
                      MKMS_SIGN_RSA_PSS_SHA256, &valid, NULL, &error), &error);
    printf("signature: %s\n", valid ? "valid" : "invalid");

    /* All of it is in the log, the refusals too. */
    DO(mkms_verify_audit(admin, NULL, 0, &answer, &error));

    mkms_context_free(&row);
    mkms_session_free(&shop);
    mkms_session_free(&admin);
    check(mkms_close(kms, &error), &error);
    mkms_kms_free(&kms);
    return valid ? 0 : 1;
}
