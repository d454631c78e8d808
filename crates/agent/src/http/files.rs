//! Sandboxes over HTTP: browse, read, download. Nothing outside of the agent's sandboxes is ever opened.
use super::{Refused, streamed};
use crate::work_dir::SANDBOXES;
use axum::{
    Json,
    response::{IntoResponse, Response},
};
use bellows_containment::{FileEntry, FileRoot, FilesError};
use http::{StatusCode, header};
use serde_json::json;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

/// Bytes that one read returns at most, as in Mesos: sixteen pages.
const READ_LIMIT: usize = 64 * 1024;

/// Reads below the work directory's sandboxes; beside them lies the checkpoint, which is nobody's to read.
pub(super) struct Files {
    work_dir: PathBuf,
}

/// A part of a file.
pub(super) struct Part {
    pub(super) data: Vec<u8>,
    pub(super) size: u64,
}

impl Files {
    pub(super) fn new(work_dir: &Path) -> Self {
        Self { work_dir: work_dir.to_owned() }
    }

    pub(super) async fn browse(&self, query: &HashMap<String, String>) -> Result<Response, Refused> {
        let path = given(query)?;
        let entries = self.list(path).await?;
        let base = path.trim_end_matches('/');
        let rows: Vec<_> = entries
            .iter()
            .map(|entry| {
                json!({
                    "gid": entry.gid,
                    "mode": entry.mode_text(),
                    "mtime": entry.mtime as f64,
                    "nlink": entry.nlink,
                    "path": format!("{base}/{}", entry.name),
                    "size": entry.size,
                    "uid": entry.uid,
                })
            })
            .collect();
        Ok(Json(rows).into_response())
    }

    /// An offset of -1 asks for the size alone.
    pub(super) async fn read(&self, query: &HashMap<String, String>) -> Result<Response, Refused> {
        let path = given(query)?;
        let number = |name: &str| match query.get(name).filter(|text| !text.is_empty()) {
            None => Ok(-1),
            Some(text) => text.parse::<i64>().map_err(|_| {
                Refused::bad_request(format!("Failed to parse {name}: '{text}' is no number.\n"))
            }),
        };
        let (offset, length) = (number("offset")?, number("length")?);
        if offset < -1 || length < -1 {
            return Err(Refused::bad_request("Negative offset or length provided.\n"));
        }
        let Ok(offset) = u64::try_from(offset) else {
            let size = self.part(path, 0, 0).await?.size;
            return Ok(Json(json!({ "data": "", "offset": size })).into_response());
        };
        let length = usize::try_from(length).unwrap_or(READ_LIMIT).min(READ_LIMIT);
        let part = self.part(path, offset, length).await?;
        Ok(Json(json!({ "data": text(&part.data), "offset": offset })).into_response())
    }

    pub(super) async fn download(&self, query: &HashMap<String, String>) -> Result<Response, Refused> {
        let path = given(query)?;
        let file = self.run(path, |root, path| root.download(&path)).await?;
        let size = file.metadata().map_err(|_| Refused::not_found())?.len();
        let name = path.rsplit('/').next().unwrap_or_default();
        let name: String =
            name.chars().map(|c| if c.is_ascii_graphic() && c != '"' { c } else { '_' }).collect();
        let headers = [
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            (header::CONTENT_DISPOSITION, format!("attachment; filename={name}")),
            (header::CONTENT_LENGTH, size.to_string()),
        ];
        Ok((headers, streamed(file, size)).into_response())
    }

    pub(super) async fn list(&self, path: &str) -> Result<Vec<FileEntry>, Refused> {
        self.run(path, |root, path| root.browse(&path)).await
    }

    pub(super) async fn part(&self, path: &str, offset: u64, length: usize) -> Result<Part, Refused> {
        let length = length.min(READ_LIMIT);
        self.run(path, move |root, path| {
            Ok(Part { data: root.read(&path, offset, length)?, size: root.size(&path)? })
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        path: &str,
        work: impl FnOnce(&FileRoot, String) -> Result<T, FilesError> + Send + 'static,
    ) -> Result<T, Refused> {
        let path = self.relative(path).ok_or_else(Refused::not_found)?;
        let sandboxes = self.work_dir.join(SANDBOXES);
        // Opened each time: somebody may have emptied the work directory, and the agent made it again.
        let work = move || work(&FileRoot::of_sandboxes(&sandboxes)?, path);
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?.map_err(refused)
    }

    /// A path below the sandboxes, given as the real one or as Mesos' virtual `/slaves/…`.
    fn relative(&self, path: &str) -> Option<String> {
        let below = Path::new(path).strip_prefix(&self.work_dir).ok();
        let below = below.unwrap_or_else(|| Path::new(path.trim_start_matches('/')));
        // The kernel stops every way out; this only spares it the obvious ones.
        below.strip_prefix(SANDBOXES).ok()?.to_str().map(str::to_owned)
    }
}

fn given(query: &HashMap<String, String>) -> Result<&str, Refused> {
    let path = query.get("path").map(String::as_str).filter(|path| !path.is_empty());
    path.ok_or_else(|| Refused::bad_request("Expecting 'path=value' in query.\n"))
}

fn refused(error: FilesError) -> Refused {
    match error {
        FilesError::NotFound => Refused::not_found(),
        FilesError::IsDirectory => Refused::bad_request("Cannot read a directory.\n"),
        FilesError::NotADirectory => Refused::bad_request("The path is no directory.\n"),
        FilesError::Foreign => {
            let text = "The path belongs to another user than the sandbox that it lies in.\n";
            Refused(StatusCode::FORBIDDEN, text.into())
        }
        FilesError::Special => Refused::bad_request("The path is neither a file nor a directory.\n"),
        FilesError::Io { source, .. } => Refused(StatusCode::INTERNAL_SERVER_ERROR, format!("{source}\n")),
    }
}

/// As text. A character that the end cuts in two is left for the next read; what is no text is replaced.
fn text(data: &[u8]) -> String {
    let whole = match std::str::from_utf8(data) {
        Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => &data[..error.valid_up_to()],
        _ => data,
    };
    String::from_utf8_lossy(whole).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_is_never_cut() {
        assert_eq!(text("aü".as_bytes()), "aü");
        assert_eq!(text(&"aü".as_bytes()[..2]), "a");
        assert_eq!(text(b"a\xffb"), "a\u{fffd}b");
    }
}
