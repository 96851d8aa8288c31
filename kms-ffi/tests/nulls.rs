//! Passes NULL for every pointer parameter of every function. The calls are generated from the header, so new functions
//! are covered too.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod support;

use std::fmt::Write;
use std::fs;

use support::declarations::{Function, functions, header};
use support::{Bench, has};

/// The valid arguments of the generated calls. Objects that a call creates are freed after it.
const PRELUDE: &str = r#"
#include "check.h"

static uint8_t scratch[4096];
static const uint8_t *data;
static const char *text;
static uint32_t number;
static size_t length;
static bool flag;
static struct mkms_buffer *out_mkms_buffer, *second_buffer;
static struct mkms_config *out_mkms_config, *config;
static struct mkms_context *out_mkms_context, *context;
static struct mkms_kms *out_mkms_kms, *kms;
static struct mkms_session *out_mkms_session, *session;
static struct mkms_results *out_mkms_results, *results;
static struct mkms_encryptor *out_mkms_encryptor, *encryptor;
static struct mkms_decryptor *out_mkms_decryptor, *decryptor;
static struct mkms_progress *out_mkms_progress, *progress;
static uint64_t big;
static struct mkms_root_key_job mkms_root_key_job_value;
static struct mkms_aws_root_key mkms_aws_root_key_value;
static struct mkms_error *object;
static struct mkms_error_info mkms_error_info_value;
static struct mkms_scheduler mkms_scheduler_value;
static struct mkms_session_options mkms_session_options_value;
static struct mkms_operation mkms_operation_value;
static struct mkms_encrypt_item mkms_encrypt_item_value;
static struct mkms_decrypt_item mkms_decrypt_item_value;
static struct mkms_sign_item mkms_sign_item_value;
static struct mkms_verify_item mkms_verify_item_value;
static struct mkms_reencrypt_item mkms_reencrypt_item_value;
static struct mkms_result mkms_result_value;
static struct mkms_stream_summary mkms_stream_summary_value;

static int32_t read_nothing(void *user, uint8_t *buffer, size_t capacity, size_t *read) {
    (void)user, (void)buffer, (void)capacity;
    *read = 0;
    return 0;
}

static int32_t write_nothing(void *user, const uint8_t *bytes, size_t count) {
    (void)user, (void)bytes, (void)count;
    return 0;
}

/* Frees the objects that a call created; returns whether there were any. */
static int clean(void) {
    int made = out_mkms_buffer || second_buffer || out_mkms_config || out_mkms_context || out_mkms_kms ||
               out_mkms_session || out_mkms_results || out_mkms_progress || out_mkms_encryptor || out_mkms_decryptor;
    OK(mkms_buffer_free(&out_mkms_buffer));
    OK(mkms_buffer_free(&second_buffer));
    OK(mkms_config_free(&out_mkms_config));
    OK(mkms_context_free(&out_mkms_context));
    OK(mkms_kms_free(&out_mkms_kms));
    OK(mkms_session_free(&out_mkms_session));
    OK(mkms_results_free(&out_mkms_results));
    OK(mkms_progress_free(&out_mkms_progress));
    OK(mkms_encryptor_free(&out_mkms_encryptor));
    OK(mkms_decryptor_free(&out_mkms_decryptor));
    return made;
}

/* Checks that the call was refused because of this argument and changed nothing. */
static void refused(const char *function, const char *argument, mkms_status status, mkms_error **error) {
    char wanted[256];
    mkms_error_info info = {sizeof info, 0, 0, NULL, 0, NULL, 0};
    snprintf(wanted, sizeof wanted, "%s is NULL", argument);
    if (status != MKMS_INVALID_ARGUMENT || *error == NULL || mkms_error_get(*error, &info, NULL) != MKMS_OK ||
        strcmp(info.message, wanted) != 0 || clean() || length != 4711) {
        fprintf(stderr, "%s with %s NULL: status %d, %s\n", function, argument, (int)status,
                info.message ? info.message : "no error object");
        exit(1);
    }
    CHECK(mkms_error_free(error) == MKMS_OK);
}
"#;

/// A valid argument for a parameter of this type and name.
fn fixture(kind: &str, name: &str) -> String {
    let plain = kind.trim_start_matches("const ").trim_start_matches("struct ").trim_end_matches(['*', ' ']);
    match kind {
        "struct mkms_error **" => "&error".into(),
        "const struct mkms_error *" => "object".into(),
        "struct mkms_buffer **" if name == "ciphertext" => "&second_buffer".into(),
        "const struct mkms_buffer *" => "buffer".into(),
        "const char *" if name == "request" || name == "query" => "\"{}\"".into(),
        "const char *" => "\"x\"".into(),
        "const char **" => "&text".into(),
        "const uint8_t *" => "(const uint8_t *)\"x\"".into(),
        "const uint8_t **" => "&data".into(),
        "uint8_t *" => "scratch".into(),
        "size_t *" => "&length".into(),
        "uint64_t *" => "&big".into(),
        "uint32_t *" => "&number".into(),
        "bool *" => "&flag".into(),
        "void *" => "scratch".into(),
        "mkms_read" => "read_nothing".into(),
        "mkms_write" => "write_nothing".into(),
        "mkms_import_progress" => "NULL".into(),
        "size_t" if name == "request_len" || name == "query_len" => "2".into(),
        "size_t" if name.ends_with("capacity") => "sizeof scratch".into(),
        "size_t" | "uint32_t" | "uint64_t" | "bool" | "mkms_role" | "mkms_signing_algorithm" => "1".into(),
        _ if kind.ends_with("**") => format!("&out_{plain}"),
        _ if kind.starts_with("const struct") || kind.starts_with("struct") => {
            let handles = ["config", "context", "kms", "session", "results", "encryptor", "decryptor", "progress"];
            match handles.iter().find(|handle| plain == format!("mkms_{handle}")) {
                Some(handle) => (*handle).into(),
                None => format!("&{plain}_value"),
            }
        }
        _ => panic!("no fixture for {kind} {name}"),
    }
}

fn is_pointer(kind: &str) -> bool {
    kind.ends_with('*') || kind == "mkms_read" || kind == "mkms_write"
}

fn call(function: &Function, null: &str) -> String {
    let arguments = function.parameters.iter().map(
        |(kind, name)| {
            if name == null { "NULL".to_owned() } else { fixture(kind, name) }
        },
    );
    format!("{}({})", function.name, arguments.collect::<Vec<_>>().join(", "))
}

#[test]
fn null_is_refused_or_documented() {
    let functions = functions(&header());
    assert!(functions.len() > 80, "the header was not read: {} functions", functions.len());
    let mut body = String::new();
    for function in &functions {
        for (kind, name) in function.parameters.iter().filter(|(kind, _)| is_pointer(kind)) {
            if function.name.ends_with("_free") {
                writeln!(body, "    CHECK({}(NULL) == MKMS_OK);", function.name).unwrap();
            } else if kind == "struct mkms_error **" {
                // Checked in misuse.c: without this pointer, a call returns a status and no error object.
            } else if function.nullable.contains(name) && !kind.starts_with("uint8_t") {
                writeln!(
                    body,
                    "    {{ mkms_error *error = NULL; (void){}; clean(); length = 4711;",
                    call(function, name)
                )
                .unwrap();
                writeln!(body, "      CHECK(mkms_error_free(&error) == MKMS_OK); }}").unwrap();
            } else {
                let line = call(function, name);
                writeln!(body, "    {{ mkms_error *error = NULL; mkms_status status = {line};").unwrap();
                writeln!(body, "      refused(\"{}\", \"{name}\", status, &error); }}", function.name).unwrap();
            }
        }
    }
    let sizes: String = [
        "error_info",
        "scheduler",
        "session_options",
        "operation",
        "encrypt_item",
        "decrypt_item",
        "sign_item",
        "verify_item",
        "reencrypt_item",
        "result",
        "stream_summary",
        "root_key_job",
        "aws_root_key",
    ]
    .iter()
    .map(|name| format!("    mkms_{name}_value.size = sizeof mkms_{name}_value;\n"))
    .collect();
    let program = format!(
        r#"{PRELUDE}
int main(int argc, char **argv) {{
    CHECK(argc == 2);
    mkms_buffer *buffer = NULL;
{sizes}    mkms_aws_root_key_value.key_id = "x";
    mkms_aws_root_key_value.key_id_len = 1;
    kms = open_store(argv[1], "durable");
    session = admin(kms);
    create_key(session, "{{\"name\":\"x\",\"type\":\"AES256_GCM\",\"purpose\":\"ENCRYPTION\"}}");
    mkms_encrypt_item item = {{sizeof item, S("x"), B("x"), NULL}};
    OK(mkms_config_new(S("sqlite:x"), &config, &error));
    OK(mkms_context_new(&context, &error));
    OK(mkms_progress_new(&progress, &error));
    OK(mkms_encrypt(session, S("x"), B("x"), NULL, &buffer, NULL, &error));
    OK(mkms_encrypt_batch(session, &item, 1, &results, &error));
    OK(mkms_encryptor_new(session, S("x"), NULL, &encryptor, &error));
    OK(mkms_decryptor_new(session, NULL, &decryptor, &error));
    CHECK(mkms_close(NULL, &object) == MKMS_INVALID_ARGUMENT);
    length = 4711;
{body}    puts("ok");
    return 0;
}}
"#
    );
    let bench = Bench::new();
    let path = bench.path("nulls.c");
    fs::write(&path, program).unwrap();
    if !has("gcc") {
        return;
    }
    // The handles are not freed at the end, because this test is only about NULL.
    let program = bench.compile("gcc", &path, &["-Wno-unused-variable"]);
    bench.run(&[], &program);
}
