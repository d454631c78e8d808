//! Read-only access to the files below one directory, for the agent's `/files` endpoints.
//!
//! The kernel keeps every look-up beneath the directory (`openat2`), whatever the path or the links in it say.
use std::{fs::File, io, path::Path, path::PathBuf};

/// The most that one [`FileRoot::read`] returns.
pub const READ_LIMIT_BYTES: usize = 1 << 20;

/// One line of a directory's listing, with the fields of Mesos' `FileInfo`.
#[derive(Debug, Clone, PartialEq)]
pub struct FileEntry {
    /// The name within the directory.
    pub name: String,
    pub size: u64,
    /// Seconds since the Unix epoch.
    pub mtime: i64,
    pub nlink: u64,
    /// Type and permissions as in `st_mode`; [`FileEntry::mode_text`] for people.
    pub mode: u32,
    /// The user's name, or its number.
    pub uid: String,
    pub gid: String,
}

impl FileEntry {
    /// As `ls` and Mesos print it: `-rw-r--r--`.
    pub fn mode_text(&self) -> String {
        String::new()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// Missing, outside of the root, or a link that leads out: not told apart.
    #[error("no such file or directory")]
    NotFound,
    #[error("is a directory")]
    IsDirectory,
    #[error("is not a directory")]
    NotADirectory,
    #[error("is neither a file nor a directory")]
    Special,
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// A directory that nothing is read outside of. Calls may block.
#[derive(Debug)]
pub struct FileRoot {
    path: PathBuf,
}

impl FileRoot {
    pub fn open(path: &Path) -> Result<Self, FilesError> {
        Ok(Self { path: path.into() })
    }

    /// A directory's entries by name. `path` is relative to the root; leading slashes are ignored.
    pub fn browse(&self, _path: &str) -> Result<Vec<FileEntry>, FilesError> {
        todo!()
    }

    /// Up to `length` bytes (at most [`READ_LIMIT_BYTES`]) from `offset`; past the end: none.
    pub fn read(&self, _path: &str, _offset: u64, _length: usize) -> Result<Vec<u8>, FilesError> {
        todo!()
    }

    /// A file's size in bytes.
    pub fn size(&self, _path: &str) -> Result<u64, FilesError> {
        todo!()
    }

    /// A regular file, opened for reading.
    pub fn download(&self, _path: &str) -> Result<File, FilesError> {
        let _ = &self.path;
        todo!()
    }
}
