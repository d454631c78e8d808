//! Which application has which secret, as an operator writes it into a file. It reads no file itself.

use std::collections::HashMap;
use std::fmt;

use zeroize::Zeroizing;

/// More than a cluster's worth of applications; a larger file is not a list of secrets.
const MAX_FILE_BYTES: usize = 16 << 20;
const MAX_APP_BYTES: usize = 1024;
const MAX_SECRET_BYTES: usize = 4096;

/// A secrets file that does not say what it must. The operator's to mend; never quotes a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretsError {
    #[error("the secrets file has {0} bytes; at most {MAX_FILE_BYTES} are read")]
    TooLarge(usize),
    #[error("the secrets file is not UTF-8")]
    Utf8,
    #[error("the secrets file holds no secret")]
    Empty,
    #[error("secrets file, line {line}: {what}")]
    Line { line: usize, what: &'static str },
}

/// Secrets by application, and the one for applications that have none of their own.
///
/// A file has one secret a line: `SECRET` for every application, or `APPLICATION SECRET` for one. Blank lines and
/// lines that begin with `#` are passed over.
#[derive(Default)]
pub struct SecretStore {
    by_app: HashMap<String, Zeroizing<String>>,
    for_all: Option<Zeroizing<String>>,
}

impl SecretStore {
    /// One secret for every application, as `spark.authenticate.secret`.
    pub fn one_for_all(secret: String) -> SecretStore {
        SecretStore { by_app: HashMap::new(), for_all: Some(Zeroizing::new(secret)) }
    }

    /// Reads a secrets file's content. The caller wipes `content`.
    pub fn parse(content: &[u8]) -> Result<SecretStore, SecretsError> {
        if content.len() > MAX_FILE_BYTES {
            return Err(SecretsError::TooLarge(content.len()));
        }
        let text = std::str::from_utf8(content).map_err(|_| SecretsError::Utf8)?;
        let mut store = SecretStore::default();
        for (index, line) in text.lines().enumerate() {
            store.add_line(line).map_err(|what| SecretsError::Line { line: index + 1, what })?;
        }
        if store.by_app.is_empty() && store.for_all.is_none() { Err(SecretsError::Empty) } else { Ok(store) }
    }

    /// The secret that `app` must know; without one it cannot be let in.
    pub(crate) fn secret(&self, app: &str) -> Option<&str> {
        self.by_app.get(app).or(self.for_all.as_ref()).map(|secret| secret.as_str())
    }

    fn add_line(&mut self, line: &str) -> Result<(), &'static str> {
        let mut words = line.split_whitespace();
        let (first, second) = match (words.next(), words.next(), words.next()) {
            (None, ..) => return Ok(()),
            (Some(first), ..) if first.starts_with('#') => return Ok(()),
            (Some(first), second, None) => (first, second),
            _ => return Err("expected SECRET or APPLICATION SECRET"),
        };
        let secret = second.unwrap_or(first);
        if secret.len() > MAX_SECRET_BYTES {
            return Err("the secret is too long");
        }
        let secret = Zeroizing::new(secret.to_owned());
        let earlier = match second {
            None => self.for_all.replace(secret),
            Some(_) if first.len() > MAX_APP_BYTES => return Err("the application's id is too long"),
            Some(_) => self.by_app.insert(first.to_owned(), secret),
        };
        if earlier.is_some() { Err("a second secret for the same application") } else { Ok(()) }
    }
}

impl fmt::Debug for SecretStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretStore")
            .field("applications", &self.by_app.len())
            .field("for_all", &self.for_all.is_some())
            .finish()
    }
}
