//! How a text that may hold what a peer sent is told on, to the log and in an answer: never longer than it helps, and
//! in the log never more than one line.

use std::fmt::{self, Display, Write};

const MAX_LOGGED_CHARS: usize = 1024;
const MAX_ANSWERED_CHARS: usize = 4096;

pub(crate) fn to_log(text: impl Display) -> String {
    cut(text, MAX_LOGGED_CHARS, true)
}

pub(crate) fn to_peer(text: impl Display) -> String {
    cut(text, MAX_ANSWERED_CHARS, false)
}

fn cut(text: impl Display, chars_left: usize, escape: bool) -> String {
    let mut cut = Cut { text: String::new(), chars_left, escape };
    // The error is how it stops whoever would write on.
    let _ = write!(cut, "{text}");
    cut.text
}

struct Cut {
    text: String,
    chars_left: usize,
    escape: bool,
}

impl Write for Cut {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        for char in part.chars() {
            self.chars_left = self.chars_left.checked_sub(1).ok_or(fmt::Error)?;
            match self.escape && char.is_control() {
                true => self.text.extend(char.escape_default()),
                false => self.text.push(char),
            }
        }
        Ok(())
    }
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
