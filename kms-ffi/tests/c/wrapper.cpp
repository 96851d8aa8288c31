// Tests the C++ header: handles that free themselves, exceptions, and streams whose callbacks throw.

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "mini_kms.hpp"

using namespace mini_kms;

#define CHECK(condition)                                                            \
    do {                                                                            \
        if (!(condition)) {                                                         \
            std::fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
            std::exit(1);                                                           \
        }                                                                           \
    } while (0)

static_assert(!std::is_copy_constructible_v<Session> && std::is_nothrow_move_constructible_v<Session>);
static_assert(!std::is_copy_constructible_v<Kms> && std::is_nothrow_move_constructible_v<Kms>);
static_assert(!std::is_copy_constructible_v<Buffer> && std::is_nothrow_move_assignable_v<Buffer>);

template <typename Work>
mkms_status thrown(Work work) {
    try {
        work();
    } catch (const Error &error) {
        CHECK(std::strlen(error.what()) > 0 && !error.name().empty());
        return error.code();
    }
    return MKMS_OK;
}

static void streams(const Session &session) {
    const std::vector<std::uint8_t> input(150000, 42);
    std::vector<std::uint8_t> sealed, opened;
    std::size_t at = 0;
    const Reader reader = [&](std::uint8_t *buffer, std::size_t capacity) {
        const std::size_t size = std::min(capacity, input.size() - at);
        std::memcpy(buffer, input.data() + at, size);
        at += size;
        return size;
    };
    const Writer writer = [&](View data) { sealed.insert(sealed.end(), data.begin(), data.end()); };
    CHECK(session.encrypt_stream("users", reader, writer).plaintext_bytes == input.size());
    std::size_t done = 0;
    const Reader again = [&](std::uint8_t *buffer, std::size_t capacity) {
        const std::size_t size = std::min(capacity, sealed.size() - done);
        std::memcpy(buffer, sealed.data() + done, size);
        done += size;
        return size;
    };
    session.decrypt_stream(again, [&](View data) { opened.insert(opened.end(), data.begin(), data.end()); });
    CHECK(opened == input);
    at = 0;
    bool caught = false;
    try {
        session.encrypt_stream("users", reader, [](View) { throw std::string("full"); });
    } catch (const std::string &why) {
        caught = why == "full";
    }
    CHECK(caught);
}

/* The progress callback runs on this thread. Its exception is rethrown here when the import has ended. */
static void imports(const Session &session) {
    const char *request = std::getenv("KMS_TEST_IMPORT");
    CHECK(request != nullptr);
    const auto here = std::this_thread::get_id();
    ImportStage last = ImportStage::keys;
    bool is_done = false;
    const auto progress = [&](ImportStage stage, std::uint64_t done, std::uint64_t total) {
        CHECK(std::this_thread::get_id() == here && done <= total);
        last = stage;
        is_done = done == total;
    };
    CHECK(session.import_mini_kms(request, progress).text().find("\"imported\":5") != std::string_view::npos);
    CHECK(last == ImportStage::finish && is_done);
    bool caught = false;
    try {
        session.import_mini_kms(request,
                                [](ImportStage, std::uint64_t, std::uint64_t) { throw std::string("enough"); });
    } catch (const std::string &why) {
        caught = why == "enough";
    }
    CHECK(caught);
    CHECK(session.import_mini_kms(request).text().find("\"unchanged\":5") != std::string_view::npos);
    CHECK(thrown([&] { session.import_mini_kms(R"({"from":"dump.sql"})"); }) == MKMS_INVALID_CONFIGURATION);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    std::array<std::uint8_t, 32> root_key;
    root_key.fill(7);
    Config config(std::string("sqlite:") + argv[1]);
    config.root_key_bytes(root_key).grace_days(30);
    Kms opened = Kms::open(config);
    Kms kms = std::move(opened);
    const Session alice = kms.session("alice", Role::admin);
    alice.create_key(R"({"name":"users","type":"AES256_GCM","purpose":"ENCRYPTION"})");
    alice.create_key(R"({"name":"invoices","type":"RSA_2048","purpose":"SIGNING"})");

    const Context row{{"table", "users"}, {"row", "4711"}};
    const Sealed card = alice.encrypt("users", "4111 1111 1111 1111", row);
    CHECK(card.operation.version == 1);
    CHECK(alice.decrypt(card.bytes, row).bytes.text() == "4111 1111 1111 1111");
    CHECK(thrown([&] { alice.decrypt(card.bytes); }) == MKMS_DECRYPTION_FAILED);
    CHECK(thrown([&] { alice.encrypt("nobody", "x"); }) == MKMS_KEY_NOT_FOUND);
    CHECK(thrown([&] { kms.session("scheduler", Role::app); }) == MKMS_INVALID_ARGUMENT);
    CHECK(thrown([] { Config::from_toml("nonsense = 1"); }) == MKMS_INVALID_CONFIGURATION);
    const Buffer moved = alice.reencrypt(card.bytes, &row);
    CHECK(alice.decrypt(moved, row).bytes.text() == "4111 1111 1111 1111");
    const Sealed signature = alice.sign("invoices", "42 EUR", SigningAlgorithm::rsa_pss_sha256);
    CHECK(alice.verify("invoices", "42 EUR", signature.bytes, SigningAlgorithm::rsa_pss_sha256));
    CHECK(!alice.verify("invoices", "43 EUR", signature.bytes, SigningAlgorithm::rsa_pss_sha256));
    const DataKey data_key = alice.generate_data_key("users", 32);
    CHECK(data_key.plaintext.size() == 32);
    alice.put_grant(R"({"principal":"shop","role":"app","keyId":"users","allowedOps":["encrypt"]})");
    const Session shop = kms.session("shop", Role::app);
    CHECK(thrown([&] { shop.decrypt(card.bytes, row); }) == MKMS_ACCESS_DENIED);
    streams(alice);
    imports(alice);

    std::vector<std::thread> threads;
    for (int i = 0; i < 4; i++) {
        threads.emplace_back([&] { CHECK(alice.decrypt(shop.encrypt("users", "x").bytes).bytes.text() == "x"); });
    }
    for (auto &thread : threads) {
        thread.join();
    }
    CHECK(alice.verify_audit().text().find("\"ok\":true") != std::string_view::npos);
    kms.close();
    CHECK(thrown([&] { alice.encrypt("users", "x"); }) == MKMS_CLOSED);
    std::puts("ok");
    return 0;
}
