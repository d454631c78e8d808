//! Text from elsewhere on its way to a log or a terminal.
pub use bellows_model::clipped;

/// The text on one line, with nothing in it that steers a terminal or changes the order of what is read: such characters
/// are escaped as Rust writes them. What is escaped already stays as it is.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    text.chars().for_each(|c| push_printable(&mut line, c));
    line
}

/// The end of what a program wrote, as [`one_line`] has it, in at most `limit` bytes. `cut`: there is more before
/// `bytes`; the line that this begins in the middle of is left out where another follows.
pub fn last_lines(bytes: &[u8], cut: bool, limit: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut text = text.trim_end();
    if cut && let Some((_, whole)) = text.split_once('\n') {
        text = whole;
    }
    let mut parts = Vec::new();
    let mut size = 0;
    for c in text.chars().rev() {
        let mut part = String::new();
        push_printable(&mut part, c);
        size += part.len();
        if size > limit {
            break;
        }
        parts.push(part);
    }
    parts.iter().rev().map(String::as_str).collect()
}

fn push_printable(line: &mut String, c: char) {
    if is_printable(c) { line.push(c) } else { line.extend(c.escape_default()) }
}

fn is_printable(c: char) -> bool {
    // Line and paragraph separators, and the marks that change the direction of writing.
    let misleads = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !c.is_control() && !misleads
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_a_terminal() {
        assert_eq!(one_line("a\tb\r\n\x1b[31mred\u{9b}2J\x07"), r"a\tb\r\n\u{1b}[31mred\u{9b}2J\u{7}");
        assert_eq!(one_line("\u{202e}evil\u{2028}"), r"\u{202e}evil\u{2028}");
        assert_eq!(one_line("grüße, 'C:\\x' \"y\""), "grüße, 'C:\\x' \"y\"");
        assert_eq!(one_line(&one_line("\x1b\\\n")), one_line("\x1b\\\n"), "escaped once");
    }

    #[test]
    fn the_end_is_what_counts() {
        assert_eq!(last_lines(b"", false, 10), "");
        assert_eq!(last_lines(b"one\ntwo\n\n", false, 100), r"one\ntwo");
        assert_eq!(last_lines(b"ne\ntwo", true, 100), "two");
        assert_eq!(last_lines(b"all one line", true, 100), "all one line");
        assert_eq!(last_lines("grüße".as_bytes(), false, 4), "ße");
        assert_eq!(last_lines(&"ü".as_bytes()[1..], true, 100), "\u{fffd}");
        assert_eq!(last_lines(&[0x1b; 1000], false, 14), r"\u{1b}\u{1b}", "escapes count");
    }
}
