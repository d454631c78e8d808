//! Text from outside that is kept or repeated.

/// Returns the beginning of a text, in at most `limit` bytes.
pub fn clipped(text: &str, limit: usize) -> &str {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clipped_at_a_character() {
        assert_eq!(clipped("grüße", 3), "gr");
        assert_eq!(clipped("grüße", 4), "grü");
        assert_eq!(clipped("gr", 4), "gr");
    }
}
