//! The characters allowed in names of keys, principals, labels and request ids.

/// Code points with the Unicode property Default_Ignorable_Code_Point (Unicode 16.0, DerivedCoreProperties.txt): they
/// are invisible, or change how their neighbors are displayed. They include all Bidi_Control characters (UAX #9).
const DEFAULT_IGNORABLE: [(char, char); 17] = [
    ('\u{00AD}', '\u{00AD}'),
    ('\u{034F}', '\u{034F}'),
    ('\u{061C}', '\u{061C}'),
    ('\u{115F}', '\u{1160}'),
    ('\u{17B4}', '\u{17B5}'),
    ('\u{180B}', '\u{180F}'),
    ('\u{200B}', '\u{200F}'),
    ('\u{202A}', '\u{202E}'),
    ('\u{2060}', '\u{206F}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{FE00}', '\u{FE0F}'),
    ('\u{FEFF}', '\u{FEFF}'),
    ('\u{FFA0}', '\u{FFA0}'),
    ('\u{FFF0}', '\u{FFF8}'),
    ('\u{1BCA0}', '\u{1BCA3}'),
    ('\u{1D173}', '\u{1D17A}'),
    ('\u{E0000}', '\u{E0FFF}'),
];

/// Whether a character is not allowed in names: controls (Cc), line and paragraph separators (Zl, Zp), interlinear
/// annotation (U+FFF9 to U+FFFB), and invisible characters. They would let two different names look the same.
pub fn is_deceptive(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{FFF9}'..='\u{FFFB}')
        || DEFAULT_IGNORABLE.iter().any(|&(first, last)| (first..=last).contains(&c))
}

/// Whether a text has 1 to `bytes` bytes and no character that [`is_deceptive`] refuses.
pub fn is_printable(text: &str, bytes: usize) -> bool {
    !text.is_empty() && text.len() <= bytes && !text.chars().any(is_deceptive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_deceptive() {
        for c in [
            '\0',
            '\n',
            '\u{7f}',
            '\u{85}',
            '\u{ad}',
            '\u{34f}',
            '\u{61c}',
            '\u{115f}',
            '\u{1160}',
            '\u{180e}',
            '\u{200b}',
            '\u{200d}',
            '\u{200f}',
            '\u{2028}',
            '\u{2029}',
            '\u{202a}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{2069}',
            '\u{206f}',
            '\u{3164}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{ffa0}',
            '\u{fff9}',
            '\u{fffb}',
            '\u{1d173}',
            '\u{e0001}',
            '\u{e0041}',
            '\u{e01ef}',
        ] {
            assert!(is_deceptive(c), "{c:?}");
            assert!(!is_printable(&format!("a{c}b"), 256), "{c:?}");
        }
        for c in [' ', 'a', '~', 'ü', 'ß', '\u{a0}', 'Ω', 'я', '語', '한', '\u{2010}', '\u{2027}', '\u{2070}', '😀']
        {
            assert!(!is_deceptive(c), "{c:?}");
        }
    }

    #[test]
    fn texts_are_bounded() {
        assert!(is_printable("a", 1));
        assert!(!is_printable("", 1) && !is_printable("ab", 1) && !is_printable("ü", 1));
    }
}
