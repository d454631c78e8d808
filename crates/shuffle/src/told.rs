//! How a text that may hold what a peer sent is told on, to the log and in an answer: never longer than it helps, and
//! in the log never more than one line.

use std::fmt::Display;

const MAX_LOGGED_CHARS: usize = 1024;
const MAX_ANSWERED_CHARS: usize = 4096;

pub(crate) fn to_log(text: impl Display) -> String {
    let mut line = String::new();
    for char in text.to_string().chars().take(MAX_LOGGED_CHARS) {
        if char.is_control() { line.extend(char.escape_default()) } else { line.push(char) }
    }
    line
}

pub(crate) fn to_peer(text: impl Display) -> String {
    text.to_string().chars().take(MAX_ANSWERED_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_told_forges_a_line_or_goes_on_for_ever() {
        assert_eq!(to_log("a 'b' ü\r\n\x1b[2J"), "a 'b' ü\\r\\n\\u{1b}[2J");
        let long = "ü".repeat(1 << 20);
        assert_eq!(to_log(&long).chars().count(), MAX_LOGGED_CHARS);
        assert_eq!(to_peer(&long).chars().count(), MAX_ANSWERED_CHARS);
        assert_eq!(to_peer("as it is\n"), "as it is\n");
    }
}
