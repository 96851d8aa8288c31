#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use super::*;

/// The output of Node.js 20 for random texts; `vectors.js` generated them.
const RECORDED: &str = include_str!("vectors.txt");

/// The output of Node.js for one text: the text itself, printed again, spread after two members, and with sorted names.
type Vector = [String; 4];

fn vectors(lines: &str) -> Vec<Vector> {
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Generates new random vectors, if Node.js is installed.
fn fresh_vectors(count: usize) -> Vec<Vector> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/audit/legacy/ecma_json/vectors.js");
    match Command::new("node").arg(script).arg(count.to_string()).output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            vectors(str::from_utf8(&output.stdout).unwrap())
        }
        Err(_) => Vec::new(),
    }
}

#[test]
fn prints_what_node_prints() {
    let recorded = vectors(RECORDED);
    assert!(recorded.len() >= 200);
    for [text, printed, spread, _] in recorded.into_iter().chain(fresh_vectors(20_000)) {
        let value = Value::parse(&text).unwrap();
        assert_eq!(value.stringify(), printed, "{text}");
        assert_eq!(Value::parse(&printed).unwrap().stringify(), printed, "{text}");
        let mut object = Object::new();
        object.set("keyId", Value::text("k"));
        object.set("version", Value::number(1.0));
        value.spread_into(&mut object);
        assert_eq!(Value::Object(object).stringify(), spread, "{text}");
    }
}

#[test]
fn prints_the_cases_of_the_specification() {
    for (text, printed) in [
        (r#"{"b":1,"10":2,"9":3,"01":4,"b":5}"#, r#"{"9":3,"10":2,"b":5,"01":4}"#),
        (r#"[1e21,1E-7,-0,-0.0,0.10,1e400,9007199254740993]"#, "[1e+21,1e-7,0,0,0.1,null,9007199254740992]"),
        (r#""\u0000\b\v"#, ""),
        (r#""\ud83d\ude00 \ude00\ud83d \/\u007f\u001f""#, "\"\u{1f600} \\ude00\\ud83d /\u{7f}\\u001f\""),
        (" { } ", "{}"),
    ] {
        match printed {
            "" => assert!(Value::parse(text).is_err(), "{text}"),
            _ => assert_eq!(Value::parse(text).unwrap().stringify(), printed),
        }
    }
}

#[test]
fn spreads_a_text_by_utf16_units() {
    let mut object = Object::new();
    object.set("0", Value::Null);
    Value::text("a\u{1f600}").spread_into(&mut object);
    assert_eq!(Value::Object(object).stringify(), r#"{"0":"a","1":"\ud83d","2":"\ude00"}"#);
}

#[test]
fn refuses_what_is_not_json() {
    let bad = [
        "",
        " ",
        "nul",
        "truex",
        "01",
        "-",
        "1.",
        ".5",
        "1e",
        "+1",
        "\"",
        "\"\n\"",
        r#""\x""#,
        r#""\u12"#,
        r#""\u12g4""#,
        "[",
        "[1",
        "[1,]",
        "[,1]",
        "{",
        "{a:1}",
        r#"{"a"}"#,
        r#"{"a":}"#,
        r#"{"a":1,}"#,
        "1 2",
        "\u{a0}1",
        "\u{feff}1",
        "\"\\é\"",
        "\"\\uéé\"",
        "NaN",
        "Infinity",
        "'a'",
        "--1",
        "0x1",
    ];
    for text in bad {
        assert!(Value::parse(text).is_err(), "{text}");
    }
    let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    assert_eq!(Value::parse(&deep(512)).unwrap().stringify(), deep(512));
    assert!(Value::parse(&deep(513)).is_err());
    assert!(Value::parse(&"[".repeat(1_000_000)).is_err());
    assert!(Value::parse(&r#"{"a":"#.repeat(1_000_000)).is_err());
}

/// Names are hashed, so many of them do not take quadratic time.
#[test]
fn reads_many_names() {
    let members: Vec<String> = (0..200_000).map(|n| format!("\"n{n}\":{n}")).collect();
    let text = format!("{{{}}}", members.join(","));
    assert_eq!(Value::parse(&text).unwrap().stringify(), text);
}

/// Names are sorted by the collation at every level.
#[cfg(feature = "import")]
#[test]
fn sorts_names_as_node_does() {
    use super::super::collation::sort_names;

    for [text, _, _, sorted] in vectors(RECORDED).into_iter().chain(fresh_vectors(20_000)) {
        assert_eq!(sort_names(Value::parse(&text).unwrap()).stringify(), sorted, "{text}");
    }
    let names = Value::parse(r#"{"b":1,"B":2,"a":3,"A":4,"_":5,"10":6,"é":7,"e":8,"f":9,"-":0}"#).unwrap();
    let expected = r#"{"10":6,"_":5,"-":0,"a":3,"A":4,"b":1,"B":2,"e":8,"é":7,"f":9}"#;
    assert_eq!(sort_names(names).stringify(), expected);
}
