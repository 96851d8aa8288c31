//! Prepares texts of the source for names and messages: replaces deceptive characters and limits the length.

use crate::types::text::is_deceptive;

/// Characters of a text of the source that are shown, and bytes of what is shown: a malformed principal is stored as it
/// is shown, and the column for principals has 512 bytes.
const SHOWN: usize = 120;
const SHOWN_BYTES: usize = 256;

/// A text of the source as it can be shown: escaped where it could deceive, and cut.
pub(super) fn shown(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().take(SHOWN) {
        let escaped = if is_deceptive(c) { c.escape_unicode().to_string() } else { c.to_string() };
        if out.len() + escaped.len() > SHOWN_BYTES {
            break;
        }
        out += &escaped;
    }
    if out.is_empty() { "(empty)".to_owned() } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_fits_the_column_of_principals() {
        for text in ["\u{200b}", "\u{1f511}", "\u{e000}", "x"] {
            let shown = shown(&text.repeat(4_000));
            assert!((SHOWN..=SHOWN_BYTES).contains(&shown.len()), "{text:?} {}", shown.len());
        }
        assert_eq!(shown(&"\u{200b}".repeat(120)), "\\u{200b}".repeat(SHOWN_BYTES / 8));
        assert_eq!(shown(""), "(empty)");
    }
}
