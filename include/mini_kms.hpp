/*
 * Mini KMS for C++17: move-only handles that free themselves, views, exceptions.
 *
 * Header-only, over mini_kms.h. A function that fails throws mini_kms::Error. Handles may be used from any thread, as
 * in C; moving and destroying one must not overlap with its use. docs/c.md has an example.
 */

#ifndef MINI_KMS_HPP
#define MINI_KMS_HPP

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mini_kms.h"

namespace mini_kms {

/** The exception of a failed call. */
class Error : public std::runtime_error {
public:
    Error(mkms_status code, std::string name, const std::string &message, bool retryable)
        : std::runtime_error(message), code_(code), name_(std::move(name)), retryable_(retryable) {}
    /** The status: one of the constants MKMS_.... */
    mkms_status code() const noexcept { return code_; }
    /** The name of the status, such as KeyNotFound. */
    const std::string &name() const noexcept { return name_; }
    /** Whether the same call may succeed when it is made again unchanged. */
    bool retryable() const noexcept { return retryable_; }

private:
    mkms_status code_;
    std::string name_;
    bool retryable_;
};

namespace detail {

/** Throws the error of a call unless it succeeded. Frees the error object. */
inline void check(mkms_status status, mkms_error *error) {
    if (status == MKMS_OK) {
        return;
    }
    struct Freed {
        mkms_error *error;
        ~Freed() { mkms_error_free(&error); }
    } freed{error};
    mkms_error_info info{};
    info.size = sizeof info;
    if (error == nullptr || mkms_error_get(error, &info, nullptr) != MKMS_OK) {
        throw Error(status, "Unknown", "a call failed without an error object", false);
    }
    throw Error(status, std::string(info.name, info.name_len), std::string(info.message, info.message_len),
                info.retryable != 0);
}

/** Calls a function of the header with a place for its error object as the last argument. */
template <typename Function, typename... Arguments>
void call(Function function, Arguments... arguments) {
    mkms_error *error = nullptr;
    const mkms_status status = function(arguments..., &error);
    check(status, error);
}

/** Owns a handle. */
template <typename T, mkms_status (*Free)(T **)>
class Handle {
public:
    Handle() noexcept = default;
    explicit Handle(T *pointer) noexcept : pointer_(pointer) {}
    Handle(const Handle &) = delete;
    Handle &operator=(const Handle &) = delete;
    Handle(Handle &&other) noexcept : pointer_(std::exchange(other.pointer_, nullptr)) {}
    Handle &operator=(Handle &&other) noexcept {
        if (this != &other) {
            Free(&pointer_);
            pointer_ = std::exchange(other.pointer_, nullptr);
        }
        return *this;
    }
    ~Handle() { Free(&pointer_); }
    /** The handle of the C interface; this object keeps the ownership. */
    T *get() const noexcept { return pointer_; }
    /** Frees the handle and returns the out-parameter for a new one. */
    T **place() noexcept {
        Free(&pointer_);
        return &pointer_;
    }
    explicit operator bool() const noexcept { return pointer_ != nullptr; }

private:
    T *pointer_ = nullptr;
};

}  // namespace detail

/** A view of bytes that it does not own. */
class View {
public:
    View() noexcept = default;
    View(const std::uint8_t *data, std::size_t size) noexcept : data_(data), size_(size) {}
    View(std::string_view text) noexcept
        : data_(reinterpret_cast<const std::uint8_t *>(text.data())), size_(text.size()) {}
    View(const char *text) noexcept : View(std::string_view(text)) {}
    View(const std::string &text) noexcept : View(std::string_view(text)) {}
    /** A view of any container of contiguous bytes: std::vector, std::array, Buffer. */
    template <typename Bytes,
              typename = decltype(static_cast<const std::uint8_t *>(std::declval<const Bytes &>().data()),
                                  static_cast<std::size_t>(std::declval<const Bytes &>().size()))>
    View(const Bytes &bytes) noexcept : data_(bytes.data()), size_(bytes.size()) {}
    const std::uint8_t *data() const noexcept { return data_; }
    std::size_t size() const noexcept { return size_; }
    bool empty() const noexcept { return size_ == 0; }
    const std::uint8_t *begin() const noexcept { return data_; }
    const std::uint8_t *end() const noexcept { return data_ + size_; }

private:
    const std::uint8_t *data_ = nullptr;
    std::size_t size_ = 0;
};

/** Bytes that a call has returned. The destructor wipes them. */
class Buffer : public detail::Handle<mkms_buffer, mkms_buffer_free> {
public:
    using Handle::Handle;
    const std::uint8_t *data() const { return view().data(); }
    std::size_t size() const { return view().size(); }
    /** The bytes, which live as long as the buffer. */
    View view() const {
        if (get() == nullptr) {
            return View();
        }
        const std::uint8_t *data = nullptr;
        std::size_t size = 0;
        detail::call(mkms_buffer_get, static_cast<const mkms_buffer *>(get()), &data, &size);
        return View(data, size);
    }
    /** The bytes as text, which lives as long as the buffer. */
    std::string_view text() const {
        const View bytes = view();
        return std::string_view(reinterpret_cast<const char *>(bytes.data()), bytes.size());
    }
};

/** An encryption context. */
class Context : public detail::Handle<mkms_context, mkms_context_free> {
public:
    Context() { detail::call(mkms_context_new, place()); }
    Context(std::initializer_list<std::pair<std::string_view, std::string_view>> entries) : Context() {
        for (const auto &[name, value] : entries) {
            set(name, value);
        }
    }
    /** Sets an entry, and replaces an entry of the same name. */
    Context &set(std::string_view name, std::string_view value) {
        detail::call(mkms_context_set, get(), name.data() ? name.data() : "", name.size(),
                     value.data() ? value.data() : "", value.size());
        return *this;
    }
};

/** A configuration. */
class Config : public detail::Handle<mkms_config, mkms_config_free> {
public:
    /** A configuration with the defaults and this store: `sqlite:PATH`, `mysql://...` or `postgres://...`. */
    explicit Config(std::string_view store_url) {
        detail::call(mkms_config_new, store_url.data(), store_url.size(), place());
    }
    /** Creates a configuration from TOML text. */
    static Config from_toml(std::string_view toml) {
        Config config{Empty()};
        detail::call(mkms_config_from_toml, toml.data(), toml.size(), config.place());
        return config;
    }
    /** Creates a configuration from the environment and an optional TOML file. */
    static Config load(std::string_view path = {}) {
        Config config{Empty()};
        detail::call(mkms_config_load, path.empty() ? nullptr : path.data(), path.size(), config.place());
        return config;
    }
    /** Sets the root key as text: `passphrase:...`, `base64:...`, `hex:...` or `file:PATH`. */
    Config &root_key(std::string_view text) {
        detail::call(mkms_config_root_key, get(), text.data(), text.size());
        return *this;
    }
    /** Sets the root key as 32 bytes. */
    Config &root_key_bytes(View key) {
        detail::call(mkms_config_root_key_bytes, get(), key.data(), key.size());
        return *this;
    }
    /** Sets when results are returned: `durable` or `queued`. */
    Config &audit_ack(std::string_view ack) {
        detail::call(mkms_config_audit_ack, get(), ack.data(), ack.size());
        return *this;
    }
    /** Sets the grace period in days for keys that have none of their own. */
    Config &grace_days(std::uint32_t days) {
        detail::call(mkms_config_grace_days, get(), days);
        return *this;
    }
    /** Sets the high-water file, which reveals rollbacks of the store. */
    Config &high_water(std::string_view path) {
        detail::call(mkms_config_high_water, get(), path.data(), path.size());
        return *this;
    }
    // For all other settings call mkms_config_...(config.get(), ...).

private:
    struct Empty {};
    explicit Config(Empty) noexcept {}
};

/** The role of an actor. */
enum class Role : mkms_role { app = MKMS_ROLE_APP, auditor = MKMS_ROLE_AUDITOR, admin = MKMS_ROLE_ADMIN };

/** A signature algorithm. */
enum class SigningAlgorithm : mkms_signing_algorithm {
    rsa_pkcs1_sha256 = MKMS_SIGN_RSA_PKCS1_SHA256,
    rsa_pss_sha256 = MKMS_SIGN_RSA_PSS_SHA256,
};

/** A result with the description of its operation. */
struct Sealed {
    Buffer bytes;
    mkms_operation operation;
};

/** A data key: use the plaintext, and store the ciphertext with the data. */
struct DataKey {
    Buffer plaintext;
    Buffer ciphertext;
    mkms_operation operation;
};

/** Fills a buffer with input and returns the number of bytes; 0 at the end. May throw. */
using Reader = std::function<std::size_t(std::uint8_t *buffer, std::size_t capacity)>;
/** Receives output. May throw. */
using Writer = std::function<void(View data)>;

/** A stage of an import. */
enum class ImportStage : mkms_import_stage {
    keys = MKMS_IMPORT_KEYS,
    grants = MKMS_IMPORT_GRANTS,
    log = MKMS_IMPORT_LOG,
    finish = MKMS_IMPORT_FINISH,
};

/** Receives the progress of an import: rows of the stage that were processed, and all its rows. An exception does not
    end the import: it is rethrown when the import has ended, and the callback is not called again. */
using ImportProgress = std::function<void(ImportStage stage, std::uint64_t done, std::uint64_t total)>;

namespace detail {

/** The callbacks of a stream. An exception is stored, and rethrown after the C function has returned. */
struct Pipe {
    const Reader &reader;
    const Writer &writer;
    std::exception_ptr thrown;

    static std::int32_t read(void *user, std::uint8_t *buffer, std::size_t capacity, std::size_t *size) noexcept {
        auto *pipe = static_cast<Pipe *>(user);
        try {
            *size = pipe->reader(buffer, capacity);
            return 0;
        } catch (...) {
            pipe->thrown = std::current_exception();
            return 1;
        }
    }
    static std::int32_t write(void *user, const std::uint8_t *data, std::size_t size) noexcept {
        auto *pipe = static_cast<Pipe *>(user);
        try {
            pipe->writer(View(data, size));
            return 0;
        } catch (...) {
            pipe->thrown = std::current_exception();
            return 1;
        }
    }
    void check(mkms_status status, mkms_error *error) const {
        if (thrown) {
            mkms_error_free(&error);
            std::rethrow_exception(thrown);
        }
        detail::check(status, error);
    }
};

/** The progress callback of an import. An exception is stored, and rethrown after the C function has returned. */
struct Watch {
    const ImportProgress &progress;
    std::exception_ptr thrown;

    static void tell(void *user, mkms_import_stage stage, std::uint64_t done, std::uint64_t total) noexcept {
        auto *watch = static_cast<Watch *>(user);
        if (watch->thrown) {
            return;
        }
        try {
            watch->progress(static_cast<ImportStage>(stage), done, total);
        } catch (...) {
            watch->thrown = std::current_exception();
        }
    }
};

inline mkms_operation operation() {
    mkms_operation operation{};
    operation.size = sizeof operation;
    return operation;
}

}  // namespace detail

/** The operations of one actor. Without a context, the empty context is used. */
class Session : public detail::Handle<mkms_session, mkms_session_free> {
public:
    using Handle::Handle;

    /** Creates a session of the same actor with other options, such as those of one request. */
    Session with(mkms_session_options options) const {
        options.size = sizeof options;
        Session derived;
        detail::call(mkms_session_with, self(), static_cast<const mkms_session_options *>(&options), derived.place());
        return derived;
    }

    Sealed encrypt(std::string_view key, View plaintext, const Context *context = nullptr) const {
        Sealed sealed{Buffer(), detail::operation()};
        detail::call(mkms_encrypt, self(), key.data(), key.size(), plaintext.data(), plaintext.size(), raw(context),
                     sealed.bytes.place(), &sealed.operation);
        return sealed;
    }
    Sealed encrypt(std::string_view key, View plaintext, const Context &context) const {
        return encrypt(key, plaintext, &context);
    }
    Sealed decrypt(View ciphertext, const Context *context = nullptr) const {
        Sealed opened{Buffer(), detail::operation()};
        detail::call(mkms_decrypt, self(), ciphertext.data(), ciphertext.size(), raw(context), opened.bytes.place(),
                     &opened.operation);
        return opened;
    }
    Sealed decrypt(View ciphertext, const Context &context) const { return decrypt(ciphertext, &context); }
    Sealed sign(std::string_view key, View payload, SigningAlgorithm algorithm) const {
        Sealed signature{Buffer(), detail::operation()};
        detail::call(mkms_sign, self(), key.data(), key.size(), payload.data(), payload.size(),
                     static_cast<mkms_signing_algorithm>(algorithm), signature.bytes.place(), &signature.operation);
        return signature;
    }
    /** Returns whether the signature is valid. Version 0: any usable version. */
    bool verify(std::string_view key, View payload, View signature, SigningAlgorithm algorithm,
                std::uint32_t version = 0) const {
        bool valid = false;
        detail::call(mkms_verify, self(), key.data(), key.size(), version, payload.data(), payload.size(),
                     signature.data(), signature.size(), static_cast<mkms_signing_algorithm>(algorithm), &valid,
                     static_cast<mkms_operation *>(nullptr));
        return valid;
    }
    DataKey generate_data_key(std::string_view key, std::size_t size, const Context *context = nullptr) const {
        DataKey made{Buffer(), Buffer(), detail::operation()};
        detail::call(mkms_generate_data_key, self(), key.data(), key.size(), size, raw(context),
                     made.plaintext.place(), made.ciphertext.place(), &made.operation);
        return made;
    }
    /** Re-encrypts a ciphertext under the current version of its key or of `destination`. */
    Buffer reencrypt(View ciphertext, const Context *context = nullptr, std::string_view destination = {},
                     const Context *destination_context = nullptr) const {
        mkms_reencrypt_item item{};
        item.size = sizeof item;
        item.ciphertext = ciphertext.data();
        item.ciphertext_len = ciphertext.size();
        item.context = raw(context);
        item.destination = destination.empty() ? nullptr : destination.data();
        item.destination_len = destination.size();
        item.destination_context = raw(destination_context);
        Buffer made;
        detail::call(mkms_reencrypt, self(), static_cast<const mkms_reencrypt_item *>(&item), made.place(),
                     static_cast<mkms_operation *>(nullptr));
        return made;
    }

    /** Encrypts a stream in constant memory. Exceptions of the callbacks are rethrown. */
    mkms_stream_summary encrypt_stream(std::string_view key, const Reader &reader, const Writer &writer,
                                       const Context *context = nullptr) const {
        detail::Pipe pipe{reader, writer, nullptr};
        mkms_stream_summary summary{};
        summary.size = sizeof summary;
        mkms_error *error = nullptr;
        const mkms_status status = mkms_encrypt_stream(self(), key.data(), key.size(), raw(context),
                                                       detail::Pipe::read, detail::Pipe::write, &pipe, &summary, &error);
        pipe.check(status, error);
        return summary;
    }
    /** Decrypts a stream in constant memory. The output is authentic; it is complete once this returns. */
    mkms_stream_summary decrypt_stream(const Reader &reader, const Writer &writer,
                                       const Context *context = nullptr) const {
        detail::Pipe pipe{reader, writer, nullptr};
        mkms_stream_summary summary{};
        summary.size = sizeof summary;
        mkms_error *error = nullptr;
        const mkms_status status = mkms_decrypt_stream(self(), raw(context), detail::Pipe::read, detail::Pipe::write,
                                                       &pipe, &summary, &error);
        pipe.check(status, error);
        return summary;
    }

    // Administration: JSON requests and results, as mini_kms.h describes.

    Buffer create_key(std::string_view request) const { return ask(mkms_create_key, request); }
    Buffer list_keys(std::string_view query = "{}") const { return ask(mkms_list_keys, query); }
    Buffer get_key(std::string_view key) const { return ask(mkms_get_key, key); }
    Buffer rotate_key(std::string_view key, std::string_view request = "{}") const {
        Buffer answer;
        detail::call(mkms_rotate_key, self(), key.data(), key.size(), request.data(), request.size(), answer.place());
        return answer;
    }
    Buffer enable_key(std::string_view key) const { return ask(mkms_enable_key, key); }
    Buffer disable_key(std::string_view key) const { return ask(mkms_disable_key, key); }
    Buffer revoke_key(std::string_view key) const { return ask(mkms_revoke_key, key); }
    Buffer trim_key(std::string_view key) const { return ask(mkms_trim_key, key); }
    Buffer revoke_version(std::string_view key, std::uint32_t version) const {
        Buffer answer;
        detail::call(mkms_revoke_version, self(), key.data(), key.size(), version, answer.place());
        return answer;
    }
    Buffer put_grant(std::string_view request) const { return ask(mkms_put_grant, request); }
    Buffer list_grants(std::string_view query = "{}") const { return ask(mkms_list_grants, query); }
    Buffer create_token(std::string_view request) const { return ask(mkms_create_token, request); }
    Buffer list_audit(std::string_view query = "{}") const { return ask(mkms_list_audit, query); }
    Buffer list_imported_audit(std::string_view query = "{}") const { return ask(mkms_list_imported_audit, query); }
    Buffer verify_audit(std::string_view request = "{}") const { return ask(mkms_verify_audit, request); }
    /** Imports the data of Mini KMS on Node. `progress` is called on this thread. */
    Buffer import_mini_kms(std::string_view request, const ImportProgress &progress = nullptr) const {
        Buffer report;
        detail::Watch watch{progress, nullptr};
        mkms_error *error = nullptr;
        const mkms_status status =
            mkms_import_mini_kms(self(), request.data(), request.size(), progress ? detail::Watch::tell : nullptr,
                                 &watch, report.place(), &error);
        if (watch.thrown) {
            mkms_error_free(&error);
            std::rethrow_exception(watch.thrown);
        }
        detail::check(status, error);
        return report;
    }
    Buffer backup(std::string_view path) const { return ask(mkms_backup, path); }
    Buffer checkpoint() const {
        Buffer answer;
        detail::call(mkms_checkpoint, self(), answer.place());
        return answer;
    }
    // For all other functions call mkms_...(session.get(), ...).

private:
    const mkms_session *self() const noexcept { return get(); }
    static const mkms_context *raw(const Context *context) noexcept {
        return context == nullptr ? nullptr : context->get();
    }
    template <typename Function>
    Buffer ask(Function function, std::string_view request) const {
        Buffer answer;
        detail::call(function, self(), request.data(), request.size(), answer.place());
        return answer;
    }
};

/** A service on one store. */
class Kms : public detail::Handle<mkms_kms, mkms_kms_free> {
public:
    /** Opens the store, and creates it if it is missing. */
    static Kms open(const Config &config) {
        Kms kms;
        detail::call(mkms_open, static_cast<const mkms_config *>(config.get()), kms.place());
        return kms;
    }
    Kms(Kms &&) noexcept = default;
    Kms &operator=(Kms &&other) noexcept {
        shut();
        Handle::operator=(std::move(other));
        return *this;
    }
    /** Closes the service if it is still open, and ignores a failure: call close() to learn of it. */
    ~Kms() { shut(); }
    /** Closes the service: commits the operations in flight, and wipes key material. */
    void close() { detail::call(mkms_close, static_cast<const mkms_kms *>(get())); }
    /** Creates a session of a principal in a role, which is not authenticated. */
    Session session(std::string_view principal, Role role, mkms_session_options options = {}) const {
        options.size = sizeof options;
        Session session;
        detail::call(mkms_session_new, static_cast<const mkms_kms *>(get()), principal.data(), principal.size(),
                     static_cast<mkms_role>(role), static_cast<const mkms_session_options *>(&options),
                     session.place());
        return session;
    }
    /** Creates a session of the principal that a token was issued to. */
    Session authenticate(std::string_view token) const {
        Session session;
        detail::call(mkms_session_authenticate, static_cast<const mkms_kms *>(get()), token.data(), token.size(),
                     static_cast<const mkms_session_options *>(nullptr), session.place());
        return session;
    }

private:
    Kms() noexcept = default;
    void shut() noexcept {
        if (get() != nullptr) {
            mkms_close(get(), nullptr);
        }
    }
};

}  // namespace mini_kms

#endif
