//! Unpacks archives into a [`Destination`].
//!
//! What an archive says is not trusted: names, links, kinds, sizes and counts are checked.
use super::{FetchFailure, destination::Destination};
use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;
use std::{
    fs::File,
    io::{self, BufReader, Read},
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};
use tar::EntryType;

/// What a file's name says that it is (the endings that Mesos' fetcher knows).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Tar,
    TarGzip,
    TarXz,
    Gzip,
    Zip,
    /// Known to Mesos, not to this.
    Unsupported(&'static str),
}

const ENDINGS: [(&str, Kind); 9] = [
    (".tar", Kind::Tar),
    (".tgz", Kind::TarGzip),
    (".tar.gz", Kind::TarGzip),
    (".txz", Kind::TarXz),
    (".tar.xz", Kind::TarXz),
    (".gz", Kind::Gzip),
    (".zip", Kind::Zip),
    (".tbz2", Kind::Unsupported("bzip2")),
    (".tar.bz2", Kind::Unsupported("bzip2")),
];

/// For names and link targets, wherever an archive format puts them.
const NAME_LIMIT_BYTES: u64 = 64 * 1024;
/// The dictionary of the strongest preset of `xz` has 64 MiB.
const XZ_MEMORY_LIMIT_KIB: u32 = 128 * 1024;

impl Kind {
    pub(super) fn of(name: &str) -> Option<Self> {
        // The first that fits: `.tar.gz` stands before `.gz`.
        ENDINGS.iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, kind)| *kind)
    }
}

/// `name`: the archive's own. Blocks.
pub(super) fn unpack(
    kind: Kind,
    archive: File,
    name: &Path,
    to: &mut Destination,
) -> Result<(), FetchFailure> {
    match kind {
        Kind::Tar => unpack_tar(BufReader::new(archive), to),
        Kind::TarGzip => unpack_tar(MultiGzDecoder::new(BufReader::new(archive)), to),
        Kind::TarXz => {
            unpack_tar(XzReader::new_mem_limit(BufReader::new(archive), true, XZ_MEMORY_LIMIT_KIB), to)
        }
        Kind::Gzip => {
            to.write(&name.with_extension(""), false, &mut MultiGzDecoder::new(BufReader::new(archive)))
        }
        Kind::Zip => unpack_zip(archive, to),
        Kind::Unsupported(format) => Err(FetchFailure::Archive(format!(
            "{format} is not supported: use gzip, xz or zip, or set extract to false"
        ))),
    }
}

/// Long names are put together here and not by the library, which would take any amount of memory for one.
fn unpack_tar(archive: impl Read, to: &mut Destination) -> Result<(), FetchFailure> {
    let mut archive = tar::Archive::new(archive);
    let mut long = LongNames::default();
    for entry in archive.entries().map_err(damaged)?.raw(true) {
        let mut entry = entry.map_err(damaged)?;
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName => long.name = Some(until_nul(read_small(&mut entry)?)),
            EntryType::GNULongLink => long.target = Some(until_nul(read_small(&mut entry)?)),
            EntryType::XHeader => long.read_pax(&read_small(&mut entry)?)?,
            EntryType::XGlobalHeader => {}
            _ => unpack_tar_entry(&mut entry, std::mem::take(&mut long), to)?,
        }
    }
    Ok(())
}

#[derive(Default)]
struct LongNames {
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
}

impl LongNames {
    fn read_pax(&mut self, records: &[u8]) -> Result<(), FetchFailure> {
        for record in tar::PaxExtensions::new(records) {
            let record = record.map_err(damaged)?;
            match record.key() {
                Ok("path") => self.name = Some(record.value_bytes().to_vec()),
                Ok("linkpath") => self.target = Some(record.value_bytes().to_vec()),
                Ok(key) if key == "size" || key.starts_with("GNU.sparse") => {
                    return Err(FetchFailure::Archive(format!("tar's '{key}' records are not supported")));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn unpack_tar_entry<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    long: LongNames,
    to: &mut Destination,
) -> Result<(), FetchFailure> {
    let name = path(long.name.unwrap_or_else(|| entry.path_bytes().into_owned()));
    let target = || {
        let target = long.target.or_else(|| entry.link_name_bytes().map(|bytes| bytes.into_owned()));
        target
            .map(path)
            .ok_or_else(|| FetchFailure::Archive(format!("'{}' links to nothing", name.display())))
    };
    match entry.header().entry_type() {
        EntryType::Directory => to.directory(&name),
        // Archives of old end a directory's name in a slash and give it no kind.
        EntryType::Regular if name.as_os_str().as_encoded_bytes().ends_with(b"/") => to.directory(&name),
        EntryType::Regular | EntryType::Continuous => {
            let executable = entry.header().mode().map_err(damaged)? & 0o100 != 0;
            to.write(&name, executable, entry)
        }
        EntryType::Symlink => to.symlink(&name, &target()?),
        EntryType::Link => to.hard_link(&name, &target()?),
        kind => Err(FetchFailure::Archive(format!("'{}' is no file but a {kind:?}", name.display()))),
    }
}

fn unpack_zip(archive: File, to: &mut Destination) -> Result<(), FetchFailure> {
    let mut archive = zip::ZipArchive::new(BufReader::new(archive)).map_err(damaged)?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(damaged)?;
        let name = PathBuf::from(entry.name().map_err(damaged)?.into_owned());
        let mode = entry.unix_mode().unwrap_or(0o644);
        if entry.is_dir() {
            to.directory(&name)?;
        } else if entry.is_symlink() {
            let target = path(read_small(&mut entry)?);
            to.symlink(&name, &target)?;
        } else {
            to.write(&name, mode & 0o100 != 0, &mut entry)?;
        }
    }
    Ok(())
}

fn read_small(entry: &mut impl Read) -> Result<Vec<u8>, FetchFailure> {
    let mut bytes = Vec::new();
    entry.take(NAME_LIMIT_BYTES + 1).read_to_end(&mut bytes).map_err(damaged)?;
    if bytes.len() as u64 > NAME_LIMIT_BYTES {
        return Err(FetchFailure::Archive("a name in it is too long".into()));
    }
    Ok(bytes)
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
    bytes
}

fn path(bytes: Vec<u8>) -> PathBuf {
    std::ffi::OsString::from_vec(bytes).into()
}

fn damaged(why: impl Into<io::Error>) -> FetchFailure {
    FetchFailure::Archive(why.into().to_string())
}
