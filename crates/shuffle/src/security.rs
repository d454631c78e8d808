//! Secrets and certificates: read from files, at the start and, for secrets, again whenever their file changed, so
//! that an application's secret can be added while the service runs.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bellows_transport::auth::{SecretStore, ServerAuth};
use parking_lot::Mutex;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::config::{Auth, Tls};
use crate::{Config, Error};

/// What a secrets file says is read up to here; a longer one is refused by its parser.
const MAX_SECRETS_BYTES: u64 = (16 << 20) + 1;

/// How connections are to be protected. Both parts are absent by default.
pub(crate) struct Security {
    auth: Option<(Auth, Mutex<Loaded>)>,
    tls: Option<TlsAcceptor>,
}

struct Loaded {
    version: FileVersion,
    secrets: Arc<SecretStore>,
}

/// Tells a changed file from an unchanged one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileVersion {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Security {
    /// Reads files: at the start only.
    pub(crate) fn load(config: &Config) -> Result<Security, Error> {
        let auth = match &config.auth {
            Some(auth) => Some((auth.clone(), Mutex::new(load_secrets(&auth.secrets_file)?))),
            None => None,
        };
        let tls = config.tls.as_ref().map(load_tls).transpose()?;
        Ok(Security { auth, tls })
    }

    pub(crate) fn tls(&self) -> Option<&TlsAcceptor> {
        self.tls.as_ref()
    }

    /// What a new connection has to go through; nothing where authentication is off.
    pub(crate) fn authenticator(&self) -> Option<ServerAuth> {
        let (auth, loaded) = self.auth.as_ref()?;
        let mut loaded = loaded.lock();
        let version = File::open(&auth.secrets_file).and_then(|file| FileVersion::of(&file));
        if version.ok() != Some(loaded.version) {
            match load_secrets(&auth.secrets_file) {
                Ok(fresh) => *loaded = fresh,
                // The secrets that were good stay so, until the file is.
                Err(error) => tracing::error!(%error, "the secrets file changed and cannot be read"),
            }
        }
        Some(ServerAuth::new(loaded.secrets.clone(), auth.policy))
    }
}

impl FileVersion {
    fn of(file: &File) -> io::Result<FileVersion> {
        let meta = file.metadata()?;
        Ok(FileVersion { inode: meta.ino(), bytes: meta.len(), changed: (meta.ctime(), meta.ctime_nsec()) })
    }
}

fn load_secrets(path: &Path) -> Result<Loaded, Error> {
    let failed = |reason: String| Error::Secrets { path: path.display().to_string(), reason };
    let file = File::open(path).map_err(|e| failed(e.to_string()))?;
    let mode = file.metadata().map_err(|e| failed(e.to_string()))?.mode();
    if mode & 0o077 != 0 {
        return Err(failed(format!("others may access it (mode {:o}); run chmod 600 on it", mode & 0o777)));
    }
    let version = FileVersion::of(&file).map_err(|e| failed(e.to_string()))?;
    let mut content = Zeroizing::new(Vec::new());
    file.take(MAX_SECRETS_BYTES).read_to_end(&mut content).map_err(|e| failed(e.to_string()))?;
    let secrets = SecretStore::parse(&content).map_err(|e| failed(e.to_string()))?;
    Ok(Loaded { version, secrets: Arc::new(secrets) })
}

fn load_tls(tls: &Tls) -> Result<TlsAcceptor, Error> {
    let failed = |path: &PathBuf, reason: String| Error::Tls { path: path.display().to_string(), reason };
    let chain_file = &tls.certificate_chain;
    let chain = CertificateDer::pem_file_iter(chain_file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| failed(chain_file, e.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(&tls.private_key)
        .map_err(|e| failed(&tls.private_key, e.to_string()))?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| failed(chain_file, e.to_string()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
