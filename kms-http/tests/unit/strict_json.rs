//! Unit tests of `src/api/strict_json.rs`.

use super::*;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sample {
    #[allow(dead_code, reason = "only its reading is tested")]
    key_id: String,
    #[allow(dead_code, reason = "only its reading is tested")]
    version: Option<u32>,
}

fn refusal(body: &[u8]) -> String {
    parse::<Sample>(body).expect_err("refused").message.into_owned()
}

#[test]
fn errors_name_the_fault_and_its_place() {
    assert!(refusal(b"").contains("empty"));
    assert!(refusal(b"\xef\xbb\xbf{}").contains("BOM"));
    assert!(refusal(b"\xff\xfe{\0}\0").contains("BOM"));
    assert!(refusal(b"{\"keyId\":\"\xff\"}").contains("byte 10"));
    assert!(refusal(br#"{"keyId":"a","keyId":"b"}"#).contains("twice"));
    assert!(refusal(br#"{"keyId":"a","x":{"y":1,"y":2}}"#).contains("\"y\""));
    assert!(
        refusal(br#"{"keyId":"a","x":{"y":1,"\u0079":2}}"#).contains("twice"),
        "the escaped name was not recognized"
    );
    assert!(refusal(br#"{"keyId":"a"} {}"#).contains("trailing"));
    assert!(refusal(br#"{"keyId":"a","version":"1"}"#).starts_with("version: "));
    assert!(refusal(br#"{"version":1}"#).contains("keyId"));
    assert!(refusal(b"[1").contains("line 1"));
    let deep = format!("{{\"keyId\":\"a\",\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(refusal(deep.as_bytes()).contains("deep"), "{}", refusal(deep.as_bytes()));
    let many: Vec<String> = (0..100).map(|n| format!("\"k{n}\":{n}")).collect();
    assert!(parse::<Sample>(format!("{{\"keyId\":\"a\",{}}}", many.join(",")).as_bytes()).is_ok());
    assert!(refusal(format!("{{\"keyId\":\"a\",{},\"k7\":1}}", many.join(",")).as_bytes()).contains("\"k7\""));
}
