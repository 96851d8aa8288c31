#!/bin/sh
# The life of a key: requests by curl to a running service.
#
#     kms-http serve                  # shows a token at its first start
#     KMS_TOKEN=... examples/http/walk.sh
#
# KMS_URL (http://127.0.0.1:8080) is the URL of the service, KMS_TOKEN is an admin's token. Needs only curl.
set -eu

url=${KMS_URL:-http://127.0.0.1:8080}
: "${KMS_TOKEN:?set KMS_TOKEN to an admin token}"
command -v curl >/dev/null || { echo "walk.sh: curl is missing" >&2; exit 1; }

# Names of keys are never reused, so each run chooses new ones.
name="walk-$(date +%s)-$$"

# The token is passed in a private file, because every user can see the arguments of a process.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
umask 077
printf 'header = "Authorization: Bearer %s"\n' "$KMS_TOKEN" >"$folder/admin"

# call AS METHOD PATH [BODY]: prints the response. An error ends the script.
call() {
    curl -sS --fail-with-body --max-time 30 -K "$folder/$1" -X "$2" "$url$3" \
        ${4:+-H 'Content-Type: application/json' --data "$4"}
}
# refused STATUS AS METHOD PATH BODY: continues only if the response has this status.
refused() {
    status=$(curl -sS --max-time 30 -o "$folder/answer" -w '%{http_code}' -K "$folder/$2" -X "$3" "$url$4" \
        -H 'Content-Type: application/json' --data "$5")
    [ "$status" = "$1" ] || { echo "expected $1, got $status: $(cat "$folder/answer")" >&2; exit 1; }
    echo "   $status $(field code <"$folder/answer")"
}
# field NAME: prints the first text with this name in the JSON on standard input.
field() {
    grep -o "\"$1\" *: *\"[^\"]*\"" | head -n 1 | sed 's/^[^:]*: *"\(.*\)"$/\1/'
}
# number NAME: the same for a number or a Boolean.
number() {
    grep -o "\"$1\" *: *[0-9a-z]*" | head -n 1 | sed 's/^[^:]*: *//'
}
same() {
    [ "$1" = "$2" ] || { echo "expected \"$2\", got \"$1\"" >&2; exit 1; }
}

echo "1. Create a key that is to be rotated every 90 days."
id=$(call admin POST /v1/keys "{\"name\":\"$name\",\"type\":\"AES256_GCM\",\"purpose\":\"ENCRYPTION\",\"rotationPeriodDays\":90}" | field id)
echo "   $name is $id"

echo "2. Encrypt. What is encrypted is bound to where it belongs: row 4711."
sealed=$(call admin POST /v1/crypto/encrypt "{\"keyId\":\"$name\",\"plaintext\":\"4111 1111 1111 1111\",\"aad\":{\"row\":\"4711\"}}" | field ciphertext)
echo "   $sealed"

echo "3. Decrypt it; in another row it is worth nothing."
same "$(call admin POST /v1/crypto/decrypt "{\"keyId\":\"$name\",\"ciphertext\":\"$sealed\",\"aad\":{\"row\":\"4711\"}}" | field plaintext)" "4111 1111 1111 1111"
refused 400 admin POST /v1/crypto/decrypt "{\"keyId\":\"$name\",\"ciphertext\":\"$sealed\",\"aad\":{\"row\":\"4712\"}}"

echo "4. A thousand things at once go into one request; here, two."
call admin POST /v1/crypto/encrypt "{\"items\":[{\"keyId\":\"$name\",\"plaintext\":\"a\"},{\"keyId\":\"$name\",\"plaintext\":\"b\"}]}" >/dev/null

echo "5. Rotate. What was encrypted stays readable, new things get version 2."
call admin POST "/v1/keys/$name/rotate" '{"expectedCurrentVersion":1}' >/dev/null
same "$(call admin POST /v1/crypto/encrypt "{\"keyId\":\"$name\",\"plaintext\":\"new\"}" | number version)" 2
same "$(call admin POST /v1/crypto/decrypt "{\"keyId\":\"$name\",\"ciphertext\":\"$sealed\",\"aad\":{\"row\":\"4711\"}}" | number version)" 1
refused 409 admin POST "/v1/keys/$name/rotate" '{"expectedCurrentVersion":1}'

echo "6. Take the old ciphertext over to version 2; the plaintext never leaves the service."
moved=$(call admin POST /v1/crypto/reencrypt "{\"ciphertext\":\"$sealed\",\"aad\":{\"row\":\"4711\"},\"destinationAad\":{\"row\":\"4711\"}}" | field ciphertext)
same "$(call admin POST /v1/crypto/decrypt "{\"keyId\":\"$name\",\"ciphertext\":\"$moved\",\"aad\":{\"row\":\"4711\"}}" | number version)" 2

echo "7. A data key for what is large: its plaintext to encrypt with, its ciphertext to keep."
call admin POST /v1/crypto/generate-data-key "{\"keyId\":\"$name\",\"withoutPlaintext\":true}" | field ciphertext >/dev/null

echo "8. An application, here with a token of its own, does what its grants allow: encrypt, not decrypt."
call admin POST /v1/grants "{\"principal\":\"$name-app\",\"role\":\"app\",\"keyId\":\"$id\",\"allowedOps\":[\"encrypt\"]}" >/dev/null
if app_token=$(call admin POST /v1/tokens "{\"principal\":\"$name-app\",\"role\":\"app\"}" 2>/dev/null | field token) && [ -n "$app_token" ]; then
    printf 'header = "Authorization: Bearer %s"\n' "$app_token" >"$folder/app"
    call app POST /v1/crypto/encrypt "{\"keyId\":\"$name\",\"plaintext\":\"x\"}" >/dev/null
    refused 403 app POST /v1/crypto/decrypt "{\"keyId\":\"$name\",\"ciphertext\":\"$moved\",\"aad\":{\"row\":\"4711\"}}"
else
    echo "   (kms-http token create makes its token)"
fi

echo "9. Sign and verify with RSA-2048."
call admin POST /v1/keys "{\"name\":\"$name-sign\",\"type\":\"RSA_2048\",\"purpose\":\"SIGNING\"}" >/dev/null
signature=$(call admin POST /v1/crypto/sign "{\"keyId\":\"$name-sign\",\"payload\":\"total: 42.00 EUR\"}" | field signature)
same "$(call admin POST /v1/crypto/verify "{\"keyId\":\"$name-sign\",\"payload\":\"total: 42.00 EUR\",\"signature\":\"$signature\"}" | number valid)" true
same "$(call admin POST /v1/crypto/verify "{\"keyId\":\"$name-sign\",\"payload\":\"total: 99.00 EUR\",\"signature\":\"$signature\"}" | number valid)" false

echo "10. Revoke version 1: from now on it decrypts nothing, anywhere."
call admin POST "/v1/keys/$name/versions/1/revoke" '{}' >/dev/null
refused 409 admin POST /v1/crypto/decrypt "{\"keyId\":\"$name\",\"ciphertext\":\"$sealed\",\"aad\":{\"row\":\"4711\"}}"

echo "11. Schedule the deletion of the key, and think better of it."
call admin POST "/v1/keys/$name/schedule-deletion" '{"waitingDays":30}' >/dev/null
refused 409 admin POST /v1/crypto/encrypt "{\"keyId\":\"$name\",\"plaintext\":\"x\"}"
call admin POST "/v1/keys/$name/cancel-deletion" '{}' >/dev/null

echo "12. All of it is in the log, the refusals too, and the log proves itself."
call admin GET "/v1/audit?limit=5&keyId=$id" | grep -o '"action" *: *"[A-Z_]*"' | sed 's/^/   /'
same "$(call admin POST /v1/audit/verify '{}' | number ok)" true

echo "Done."
