//! Canonical JSON: the JSON Canonicalization Scheme (RFC 8785).

use serde_json::{Number, Value};

use crate::types::error::{Error, Result};

/// The largest integer that every JSON implementation reads exactly (RFC 8785, 6).
const EXACT: u64 = (1 << 53) - 1;

/// Returns the canonical text of a value. Integers beyond 2^53 - 1 are refused unless they are written exactly as the
/// double of that value is, since others would not survive a round trip. So a canonical text is its own canonical form.
///
/// ```
/// let value = serde_json::json!({"b": 1.50, "a": ["\u{20ac}", true]});
/// assert_eq!(kms_lib::audit::canonical::canonical(&value)?, r#"{"a":["€",true],"b":1.5}"#);
/// # Ok::<(), kms_lib::Error>(())
/// ```
pub fn canonical(value: &Value) -> Result<String> {
    let mut out = String::new();
    write_value(&mut out, value)?;
    Ok(out)
}

fn write_value(out: &mut String, value: &Value) -> Result<()> {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => write_number(out, number)?,
        Value::String(text) => write_string(out, text),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_value(out, item)?;
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<(&String, &Value)> = members.iter().collect();
            members.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            out.push('{');
            for (i, (name, value)) in members.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_string(out, name);
                out.push(':');
                write_value(out, value)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

fn write_number(out: &mut String, number: &Number) -> Result<()> {
    let inexact = || Error::invalid("a JSON number is beyond 2^53 - 1 and would not be read exactly; send it as text");
    let n = number.as_f64().filter(|n| n.is_finite()).ok_or_else(inexact)?;
    let mut buffer = ryu_js::Buffer::new();
    let text = buffer.format_finite(n);
    let is_integer = number.is_u64() || number.is_i64();
    if is_integer && !is_exact(number) && text != number.to_string() {
        return Err(inexact());
    }
    out.push_str(text);
    Ok(())
}

/// Whether a number is an integer that every JSON implementation reads exactly, or a fraction.
pub fn is_exact(number: &Number) -> bool {
    match (number.as_u64(), number.as_i64(), number.as_f64()) {
        (Some(n), ..) => n <= EXACT,
        (_, Some(n), _) => n.unsigned_abs() <= EXACT,
        // Every double beyond this bound is an integer, however it was written.
        (.., Some(n)) => n.abs() <= EXACT as f64,
        _ => false,
    }
}

/// Writes a text in quotes, with the escapes that RFC 8785 (3.2.2.2) prescribes and no others.
pub fn write_string(out: &mut String, text: &str) {
    crate::crypto::additional_data::write_json_string(out, text);
}

/// A text as JSON, in quotes.
pub(crate) fn quoted(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    write_string(&mut json, text);
    json
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sorts_by_utf16_units() {
        // RFC 8785, 3.2.3.
        let json = r#"{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One","\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}"#;
        let text = canonical(&serde_json::from_str(json).unwrap()).unwrap();
        let order = ["Carriage Return", "One", "Control", "Latin Small", "Euro Sign", "Emoji", "Hebrew"];
        let places: Vec<usize> = order.iter().map(|name| text.find(name).unwrap()).collect();
        assert!(places.is_sorted(), "{text}");
    }

    #[test]
    fn writes_the_sample_of_the_standard() {
        // RFC 8785, 3.2.2 and 3.2.4.
        let json = r#"{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],"string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#;
        let expected = "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],\
                        \"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}";
        assert_eq!(canonical(&serde_json::from_str(json).unwrap()).unwrap(), expected);
    }

    #[test]
    fn writes_numbers_as_ecmascript_does() {
        // RFC 8785, appendix B.
        for (bits, text) in [
            (0x0000_0000_0000_0000u64, "0"),
            (0x8000_0000_0000_0000, "0"),
            (0x0000_0000_0000_0001, "5e-324"),
            (0x8000_0000_0000_0001, "-5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0xffef_ffff_ffff_ffff, "-1.7976931348623157e+308"),
            (0x4340_0000_0000_0000, "9007199254740992"),
            (0xc340_0000_0000_0000, "-9007199254740992"),
            (0x4430_0000_0000_0000, "295147905179352830000"),
            (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
            (0x44b5_2d02_c7e1_4af6, "1e+23"),
            (0x44b5_2d02_c7e1_4af7, "1.0000000000000001e+23"),
            (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
            (0x444b_1ae4_d6e2_ef4f, "999999999999999900000"),
            (0x444b_1ae4_d6e2_ef50, "1e+21"),
            (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0x41b3_de43_5555_5553, "333333333.3333332"),
            (0x41b3_de43_5555_5554, "333333333.33333325"),
            (0x41b3_de43_5555_5555, "333333333.3333333"),
            (0x41b3_de43_5555_5556, "333333333.3333334"),
            (0x41b3_de43_5555_5557, "333333333.33333343"),
            (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
            (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
        ] {
            assert_eq!(canonical(&Value::from(f64::from_bits(bits))).unwrap(), text);
        }
        assert!(canonical(&Value::from((1u64 << 53) + 1)).is_err());
        assert!(canonical(&Value::from(1u64 << 60)).is_err());
        assert!(canonical(&Value::from(i64::MIN)).is_err());
        for json in ["1e17", "9007199254740992", "-1e20", "1e300", "123456789012345678901234567890"] {
            let text = canonical(&serde_json::from_str(json).unwrap()).unwrap();
            assert_eq!(canonical(&serde_json::from_str(&text).unwrap()).unwrap(), text);
        }
        assert_eq!(canonical(&Value::from(EXACT)).unwrap(), "9007199254740991");
    }
}
