// The life of two keys: quickstart STORE-URL, such as quickstart sqlite:/tmp/kms.db.

#include <cstdlib>
#include <iostream>
#include <mini_kms.hpp>

int main(int argc, char **argv) try {
    const char *root_key = std::getenv("KMS_MASTER_KEY");
    mini_kms::Config config(argc > 1 ? argv[1] : "sqlite:kms.db");
    config.root_key(root_key != nullptr ? root_key : "passphrase:correct horse battery staple");
    mini_kms::Kms kms = mini_kms::Kms::open(config);

    // The program says which principal acts.
    const auto admin = kms.session("alice", mini_kms::Role::admin);
    admin.create_key(R"({"name":"users","type":"AES256_GCM","purpose":"ENCRYPTION","rotationPeriodDays":90})");
    admin.create_key(R"({"name":"invoices","type":"RSA_2048","purpose":"SIGNING"})");
    admin.put_grant(R"({"principal":"shop","role":"app","keyId":"users","allowedOps":["encrypt"]})");

    // The ciphertext is bound to its place.
    const auto shop = kms.session("shop", mini_kms::Role::app);
    const mini_kms::Context row{{"table", "users"}, {"row", "4711"}};
    const auto card = shop.encrypt("users", "4111 1111 1111 1111", row);
    try {
        shop.decrypt(card.bytes, row);
        return 1;
    } catch (const mini_kms::Error &error) {
        std::cout << "refused: " << error.name() << '\n';
    }

    // Rotation keeps what was encrypted readable; revocation does not.
    admin.rotate_key("users");
    std::cout << "decrypted: " << admin.decrypt(card.bytes, row).bytes.text() << '\n';
    admin.revoke_version("users", 1);

    const auto pss = mini_kms::SigningAlgorithm::rsa_pss_sha256;
    const auto signature = admin.sign("invoices", "total: 42.00 EUR", pss);
    const bool valid = admin.verify("invoices", "total: 42.00 EUR", signature.bytes, pss);
    std::cout << "signature: " << (valid ? "valid" : "invalid") << '\n';

    // All of it is in the log, the refusals too.
    std::cout << "log: " << admin.verify_audit().text() << '\n';
    kms.close();
    return valid ? 0 : 1;
} catch (const mini_kms::Error &error) {
    std::cerr << "error " << error.code() << ", " << error.name() << ": " << error.what() << '\n';
    return 1;
}
