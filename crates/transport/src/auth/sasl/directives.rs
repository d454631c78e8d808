//! `key=value,key="value"` of DIGEST-MD5 (RFC 2831, section 7.1).

use super::NotProven;

/// The JDK's limits on either side's token.
const MAX_TOKEN_BYTES: usize = 4096;

/// Each key at most once.
#[derive(Debug)]
pub(super) struct Directives(Vec<(String, Vec<u8>)>);

impl Directives {
    pub(super) fn parse(token: &[u8]) -> Result<Directives, NotProven> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(NotProven);
        }
        let mut found = Directives(Vec::new());
        let mut rest = token;
        loop {
            rest = rest.trim_ascii_start();
            match rest {
                [] => return Ok(found),
                [b',', after @ ..] => rest = after,
                _ => {
                    let (key, value, after) = directive(rest).ok_or(NotProven)?;
                    if found.get(&key).is_some() {
                        return Err(NotProven);
                    }
                    found.0.push((key, value));
                    rest = after;
                }
            }
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| &value[..])
    }
}

/// `"` and `\` as they stand between quotes.
pub(super) fn quote(value: &[u8]) -> Vec<u8> {
    value
        .iter()
        .flat_map(|&byte| [b'\\', byte].into_iter().skip(usize::from(!matches!(byte, b'"' | b'\\'))))
        .collect()
}

/// One directive, up to the comma or white space that ends it.
fn directive(text: &[u8]) -> Option<(String, Vec<u8>, &[u8])> {
    let equals = text.iter().position(|&byte| byte == b'=')?;
    let key = text[..equals].trim_ascii_end();
    if key.is_empty() || !key.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return None;
    }
    let key = key.iter().map(|&byte| char::from(byte.to_ascii_lowercase())).collect();
    let after = text[equals + 1..].trim_ascii_start();
    let (value, after) = match after {
        [b'"', quoted @ ..] => quoted_value(quoted)?,
        plain => {
            let end = plain.iter().position(ends_value).unwrap_or(plain.len());
            (plain[..end].to_vec(), &plain[end..])
        }
    };
    let ended = !value.is_empty() && after.first().is_none_or(ends_value);
    ended.then_some((key, value, after))
}

fn quoted_value(quoted: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut value = Vec::new();
    let mut rest = quoted;
    loop {
        match rest {
            [b'"', after @ ..] => return Some((value, after)),
            [b'\\', byte, after @ ..] | [byte, after @ ..] => {
                value.push(*byte);
                rest = after;
            }
            [] => return None,
        }
    }
}

fn ends_value(byte: &u8) -> bool {
    *byte == b',' || byte.is_ascii_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_plain_and_quoted() {
        let found = Directives::parse(br#" a=1 ,, b = "x,\"y\\", C-c="" "#);
        assert!(found.is_err(), "a value may not be empty");
        let found = Directives::parse(br#" a=1 ,, b = "x,\"y\\", C-c=z="#).expect("parses");
        assert_eq!(found.get("a"), Some(&b"1"[..]));
        assert_eq!(found.get("b"), Some(&br#"x,"y\"#[..]));
        assert_eq!(found.get("c-c"), Some(&b"z="[..]));
        for bad in [&b"a"[..], b"=1", b"a=\"1", b"a=\"1\"2", b"a=1,a=2", b"a=\"1\\"] {
            assert!(Directives::parse(bad).is_err(), "{}", bad.escape_ascii());
        }
        assert_eq!(quote(br#"x"y\"#), br#"x\"y\\"#);
    }
}
