//! The fetcher against a web server of a few lines, archives both good and hostile, and full disks.
mod root;

use bellows_containment::{FetchFailure, Fetcher, FetcherConfig, Owner};
use bellows_model::Uri;
use flate2::{Compression, write::GzEncoder};
use std::{
    collections::HashMap,
    fs,
    io::{Cursor, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

const EXE: &str = env!("CARGO_BIN_EXE_containment-test");

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().expect("temporary directory") };
        fs::create_dir(place.sandbox()).expect("sandbox");
        place
    }

    fn sandbox(&self) -> PathBuf {
        self.dir.path().join("sandbox")
    }

    fn config(&self) -> FetcherConfig {
        FetcherConfig { shim_exe: EXE.into(), ..FetcherConfig::new(self.dir.path().join("cache")) }
    }

    fn fetcher(&self) -> Fetcher {
        Fetcher::new(self.config()).expect("cache directory")
    }

    /// A file outside of the sandbox, as a URI that names it.
    fn file(&self, name: &str, content: &[u8]) -> Uri {
        let path = self.dir.path().join(name);
        fs::write(&path, content).expect("written");
        uri(path.to_str().expect("plain"))
    }

    async fn fetch(&self, uri: Uri) -> Result<(), String> {
        self.fetcher().fetch(&self.sandbox(), &[uri], None).await.map_err(|why| why.to_string())
    }

    fn fetched(&self, name: &str) -> Vec<u8> {
        fs::read(self.sandbox().join(name)).expect("it was fetched")
    }

    /// Names in the sandbox.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.sandbox()).expect("sandbox");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("entry").file_name().into_string().expect("plain")).collect();
        names.sort();
        names
    }
}

fn uri(value: &str) -> Uri {
    Uri { value: value.into(), executable: false, extract: true, cache: false, output_file: None }
}

struct Server {
    address: String,
    requests: Arc<AtomicUsize>,
}

/// Answers each path with the raw HTTP response given for it, else 404.
async fn serve(responses: impl IntoIterator<Item = (&'static str, Vec<u8>)>) -> Server {
    let responses: Arc<HashMap<&str, Vec<u8>>> = Arc::new(responses.into_iter().collect());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = requests.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (responses, counter) = (responses.clone(), counter.clone());
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut request = String::new();
                stream.read_line(&mut request).await.expect("readable");
                let mut line = request.clone();
                while line.trim() != "" {
                    line.clear();
                    stream.read_line(&mut line).await.expect("readable");
                }
                counter.fetch_add(1, Ordering::SeqCst);
                let path = request.split_whitespace().nth(1).expect("a path");
                let missing =
                    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec();
                let response = responses.get(path).unwrap_or(&missing);
                let _ = stream.write_all(response).await;
            });
        }
    });
    Server { address, requests }
}

fn ok(body: &[u8]) -> Vec<u8> {
    let mut response =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())
            .into_bytes();
    response.extend_from_slice(body);
    response
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(data).expect("memory");
    encoder.finish().expect("memory")
}

/// Kind, name, link target, content.
type TarEntry<'a> = (tar::EntryType, &'a str, &'a str, &'a [u8]);

/// One entry; `name` and `link` go into the archive unchecked.
fn tar_entry(builder: &mut tar::Builder<Vec<u8>>, kind: tar::EntryType, name: &str, link: &str, data: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_size(data.len() as u64);
    let fields = header.as_old_mut();
    fields.name[..name.len()].copy_from_slice(name.as_bytes());
    fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    builder.append(&header, data).expect("memory");
}

fn tar_of(entries: &[TarEntry<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (kind, name, link, data) in entries {
        tar_entry(&mut builder, *kind, name, link, data);
    }
    builder.into_inner().expect("memory")
}

use tar::EntryType::{Char, Directory, Fifo, Link, Regular, Symlink};

#[tokio::test]
async fn local_files_by_path_and_uri() {
    let place = Place::new();
    let plain = place.file("plain.txt", b"content");
    place.fetch(plain.clone()).await.expect("fetched");
    assert_eq!(place.fetched("plain.txt"), b"content");
    let as_uri = Uri {
        value: format!("file://{}", plain.value),
        executable: true,
        output_file: Some("bin/run.sh".into()),
        ..plain
    };
    place.fetch(as_uri).await.expect("fetched");
    let mode = fs::metadata(place.sandbox().join("bin/run.sh")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
}

#[tokio::test]
async fn errors_name_the_uri_and_the_cause() {
    let place = Place::new();
    let server = serve([
        ("/moved", b"HTTP/1.1 302 Found\r\nLocation: /gone\r\nConnection: close\r\n\r\n".to_vec()),
        ("/loop", b"HTTP/1.1 302 Found\r\nLocation: /loop\r\nConnection: close\r\n\r\n".to_vec()),
        ("/error", b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec()),
        ("/short", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\nabc".to_vec()),
        ("/", ok(b"")),
    ])
    .await;
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("bound").local_addr().expect("bound");
    let at = |path: &str| format!("{}{path}", server.address);
    let cases = [
        ("/no/such/file".to_owned(), "No such file"),
        ("/dev/null".into(), "not a regular file"),
        (place.dir.path().to_str().expect("plain").to_owned(), "not a regular file"),
        ("relative/path".into(), "must be absolute"),
        ("hdfs://namenode/x".into(), "'hdfs' is not supported"),
        ("file://elsewhere/x".into(), "file:///path"),
        ("http://".into(), ""),
        (at("/error"), "answered 500"),
        (at("/missing"), "answered 404"),
        (at("/moved"), "answered 404"),
        (at("/loop"), "redirect"),
        (at("/short"), "end of file"),
        (at("/"), "output file"),
        (format!("http://{closed}/x"), "refused"),
        ("/etc/..".into(), "output file"),
    ];
    for (value, cause) in cases {
        let why = place.fetch(uri(&value)).await.expect_err(&value);
        assert!(why.starts_with(&format!("Failed to fetch '{value}': ")), "{why}");
        assert!(why.contains(cause), "{why}, not {cause}");
    }
}

#[tokio::test]
async fn redirects_are_followed_and_queries_are_no_part_of_the_name() {
    let place = Place::new();
    let moved = b"HTTP/1.1 302 Found\r\nLocation: /there\r\nConnection: close\r\n\r\n".to_vec();
    let server = serve([("/a/data.bin?token=1", moved), ("/there", ok(b"content"))]).await;
    place.fetch(uri(&format!("{}/a/data.bin?token=1", server.address))).await.expect("fetched");
    assert_eq!(place.fetched("data.bin"), b"content");
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let place = Place::new();
    // Bound and listening, but nobody accepts.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let value = format!("http://{}/x", listener.local_addr().expect("bound"));
    let config = FetcherConfig { read_timeout: std::time::Duration::from_millis(50), ..place.config() };
    let fetcher = Fetcher::new(config).expect("cache directory");
    let why = fetcher.fetch(&place.sandbox(), &[uri(&value)], None).await.expect_err("nobody answers");
    assert!(why.to_string().contains("timed out"), "{why}");
}

#[tokio::test]
async fn archives_are_unpacked() {
    let long = format!("{}/file", "d".repeat(200));
    let mut builder = tar::Builder::new(tar_of(&[
        (Directory, "./", "", b""),
        (Directory, "lib", "", b""),
        (Regular, "lib/tool", "", b"tool"),
        (Symlink, "lib64", "lib", b""),
        (Regular, "lib64/through-a-link", "", b"fine"),
        (Symlink, "lib/up", "../lib/tool", b""),
        (Link, "same", "lib/tool", b""),
    ]));
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o644);
    builder.append_data(&mut header, &long, &b"long"[..]).expect("memory");
    let tar = builder.into_inner().expect("memory");
    // The first builder has closed its archive with two empty blocks; take them out.
    let tar = without_inner_end(&tar);

    let archives =
        [("a.tar", tar.clone()), ("a.tgz", gzip(&tar)), ("a.tar.gz", gzip(&tar)), ("a.tar.xz", xz(&tar))];
    for (name, data) in archives {
        for cache in [false, true] {
            let place = Place::new();
            let archive = Uri { cache, ..place.file(name, &data) };
            place.fetch(archive).await.expect(name);
            assert_eq!(place.fetched("lib/tool"), b"tool");
            assert_eq!(place.fetched("lib/through-a-link"), b"fine");
            assert_eq!(place.fetched("lib/up"), b"tool");
            assert_eq!(place.fetched("same"), b"tool");
            assert_eq!(place.fetched(&long), b"long");
            let mode = fs::metadata(place.sandbox().join("lib/tool")).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o755);
            // As in Mesos: what came through the cache is only unpacked.
            assert_eq!(place.sandbox().join(name).exists(), !cache, "{name}");
        }
    }

    let place = Place::new();
    place.fetch(place.file("data.json.gz", &gzip(b"{}"))).await.expect("fetched");
    assert_eq!(place.fetched("data.json"), b"{}");
    let kept = Uri { extract: false, ..place.file("kept.tgz", &gzip(&tar)) };
    place.fetch(kept).await.expect("fetched");
    assert_eq!(place.names(), ["data.json", "data.json.gz", "kept.tgz"]);
}

fn xz(data: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::XzOptions::with_preset(6);
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).expect("memory");
    writer.write_all(data).expect("memory");
    writer.finish().expect("memory")
}

fn without_inner_end(tar: &[u8]) -> Vec<u8> {
    let blocks = tar.chunks(512);
    let full: Vec<u8> =
        blocks.filter(|block| block.iter().any(|byte| *byte != 0)).flatten().copied().collect();
    [full, vec![0; 1024]].concat()
}

#[tokio::test]
async fn zip_archives_are_unpacked() {
    let place = Place::new();
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    writer.add_directory("dir/", options).expect("memory");
    writer.start_file("dir/run.sh", options.unix_permissions(0o755)).expect("memory");
    writer.write_all(b"#!/bin/sh").expect("memory");
    writer.add_symlink("link", "dir/run.sh", options).expect("memory");
    let data = writer.finish().expect("memory").into_inner();
    place.fetch(place.file("a.zip", &data)).await.expect("fetched");
    assert_eq!(place.fetched("link"), b"#!/bin/sh");
    let mode = fs::metadata(place.sandbox().join("dir/run.sh")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o755);

    for hostile in ["../escape", "/escape"] {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        writer.start_file(hostile, options).expect("memory");
        let data = writer.finish().expect("memory").into_inner();
        place.fetch(place.file("b.zip", &data)).await.expect_err(hostile);
    }
    assert!(!place.dir.path().join("escape").exists() && !Path::new("/escape").exists());
}

/// `tar czf v.tgz v` of a virtual environment, and other links that an archive may hold.
#[tokio::test]
async fn links_lead_where_they_like_and_nothing_is_written_through_them() {
    let outside = tempfile::tempdir().expect("temporary directory");
    let python = outside.path().join("python3");
    fs::write(&python, "the machine's").expect("written");
    let target = python.to_str().expect("plain");
    let place = Place::new();
    let venv = tar_of(&[
        (Directory, "v", "", b""),
        (Symlink, "v/bin/python3", target, b""),
        (Symlink, "v/bin/python", "python3", b""),
        (Symlink, "v/up", "../../../../nowhere", b""),
        (Symlink, "v/replaced", target, b""),
        (Regular, "v/replaced", "", b"a file of its own"),
        (Link, "v/same", "v/bin/python3", b""),
    ]);
    place.fetch(place.file("v.tgz", &gzip(&venv))).await.expect("fetched");
    let link = |name: &str| fs::read_link(place.sandbox().join(name)).expect("a link");
    assert_eq!(link("v/bin/python3"), python);
    assert_eq!(link("v/bin/python"), Path::new("python3"));
    assert_eq!(link("v/up"), Path::new("../../../../nowhere"));
    assert_eq!(link("v/same"), python, "a second name of the link, not of what it leads to");
    assert_eq!(place.fetched("v/bin/python"), b"the machine's");
    assert_eq!(place.fetched("v/replaced"), b"a file of its own");
    for through in ["v/bin/python3", "v/same"] {
        let uri = Uri { output_file: Some(through.into()), ..place.file("mine", b"mine") };
        place.fetch(uri).await.expect("replaces the link");
        assert_eq!(place.fetched(through), b"mine");
    }
    assert_eq!(fs::read(&python).expect("there"), b"the machine's");
    assert_eq!(fs::read_dir(outside.path()).expect("there").count(), 1);
}

#[tokio::test]
async fn hostile_archives_change_nothing_outside() {
    let outside = tempfile::tempdir().expect("temporary directory");
    let target = outside.path().to_str().expect("plain");
    let inside_then_out = format!("{target}/x");
    let archives: [&[TarEntry<'_>]; 13] = [
        &[(Regular, "../x", "", b"evil")],
        &[(Regular, "a/../../x", "", b"evil")],
        &[(Regular, &inside_then_out, "", b"evil")],
        &[(Symlink, "l", target, b""), (Regular, "l/x", "", b"evil")],
        &[(Symlink, "l", "..", b""), (Regular, "l/x", "", b"evil")],
        &[(Symlink, "l", target, b""), (Link, "x", "l/y", b"")],
        &[(Symlink, "l", target, b""), (Directory, "l/x", "", b"")],
        // Inside by its text, outside in truth.
        &[(Symlink, "s", ".", b""), (Symlink, "s/l", "..", b""), (Regular, "l/x", "", b"evil")],
        &[(Link, "l", "../x", b"")],
        &[(Link, "l", &inside_then_out, b"")],
        &[(Char, "device", "", b"")],
        &[(Fifo, "pipe", "", b"")],
        &[(Directory, "../x", "", b"")],
    ];
    fs::write(outside.path().join("y"), "untouched").expect("written");
    for entries in archives {
        let place = Place::new();
        let why = place.fetch(place.file("a.tar", &tar_of(entries))).await.expect_err(entries[0].1);
        assert!(why.contains("a.tar"), "{why}");
        assert!(!place.dir.path().join("x").exists(), "{entries:?}");
        assert!(!outside.path().join("x").exists(), "{entries:?}");
    }
    // A link that lies in the sandbox already, by an earlier URI or task, is replaced and not written through.
    let place = Place::new();
    symlink(outside.path().join("y"), place.sandbox().join("y")).expect("link");
    symlink(outside.path(), place.sandbox().join("d")).expect("link");
    place.fetch(place.file("y", b"mine")).await.expect("fetched");
    assert_eq!(place.fetched("y"), b"mine");
    assert_eq!(fs::read(outside.path().join("y")).expect("there"), b"untouched");
    let through = Uri { output_file: Some("d/x".into()), ..place.file("y", b"mine") };
    place.fetch(through).await.expect_err("leads out");
    for output_file in ["../x", "/x", "a/../../x", "", "d/", "..", "a\0b"] {
        let hostile = Uri { output_file: Some(output_file.into()), ..place.file("y", b"mine") };
        place.fetch(hostile).await.expect_err(output_file);
    }
    assert_eq!(fs::read_dir(outside.path()).expect("there").count(), 1);
}

#[tokio::test]
async fn bombs_and_rubbish_are_refused() {
    let place = Place::new();
    let config = FetcherConfig { limit_bytes: 1 << 20, limit_files: 10, ..place.config() };
    let fetcher = Fetcher::new(config).expect("cache directory");
    let many: Vec<String> = (0..20).map(|i| format!("file{i}")).collect();
    let many: Vec<_> = many.iter().map(|name| (Regular, name.as_str(), "", &b""[..])).collect();
    let long_name = vec![b'x'; 1 << 20];
    let bombs = [
        place.file("bytes.gz", &gzip(&vec![0; 4 << 20])),
        place.file("bytes.tgz", &gzip(&tar_of(&[(Regular, "big", "", &vec![0; 4 << 20])]))),
        place.file("files.tar", &tar_of(&many)),
        place.file("name.tar", &tar_of(&[(tar::EntryType::GNULongName, "././@LongLink", "", &long_name)])),
        place.file("big", &vec![0; 2 << 20]),
        place.file("rubbish.tgz", b"this is no archive"),
        place.file("rubbish.zip", b"this is no archive"),
        place.file("rubbish.tar.xz", b"this is no archive"),
        place.file("cut.tgz", &gzip(&tar_of(&[(Regular, "a", "", &[7; 5000])]))[..30]),
        place.file("other.tar.bz2", b"BZh9"),
    ];
    for bomb in bombs {
        let name = bomb.value.clone();
        let why = fetcher.fetch(&place.sandbox(), &[bomb], None).await.expect_err(&name);
        let refused = matches!(
            why.failure,
            FetchFailure::TooLarge | FetchFailure::Archive(_) | FetchFailure::Io { .. }
        );
        assert!(refused, "{why}");
    }
    let sizes = fs::read_dir(place.sandbox())
        .expect("there")
        .map(|entry| entry.expect("entry").metadata().expect("there").len());
    assert!(sizes.max().expect("some") <= (1 << 20) + 1, "stopped at the limit");
}

#[tokio::test]
async fn the_cache_fetches_once_and_drops_the_longest_unused() {
    let place = Place::new();
    let body = vec![b'x'; 1000];
    let server = serve([("/a", ok(&body)), ("/b", ok(&body)), ("/c", ok(&body))]).await;
    let cached = |path: &str| Uri { cache: true, ..uri(&format!("{}{path}", server.address)) };
    let config = FetcherConfig { cache_limit_bytes: 2500, ..place.config() };
    let fetcher = Fetcher::new(config).expect("cache directory");
    let requests = || server.requests.load(Ordering::SeqCst);

    // Twenty at once are one request.
    let sandboxes: Vec<PathBuf> = (0..20).map(|i| place.dir.path().join(format!("s{i}"))).collect();
    let fetches = sandboxes.iter().map(|sandbox| {
        fs::create_dir(sandbox).expect("sandbox");
        let (fetcher, sandbox, uri) = (fetcher.clone(), sandbox.clone(), cached("/a"));
        tokio::spawn(async move { fetcher.fetch(&sandbox, &[uri], None).await })
    });
    for fetch in fetches.collect::<Vec<_>>() {
        fetch.await.expect("no panic").expect("fetched");
    }
    assert_eq!(requests(), 1);
    // What a task does to its copy is its own affair.
    fs::write(sandboxes[0].join("a"), "spoilt").expect("written");
    for (path, total) in [("/b", 2), ("/a", 2), ("/c", 3), ("/a", 3), ("/b", 4)] {
        fetcher.fetch(&place.sandbox(), &[cached(path)], None).await.expect("fetched");
        assert_eq!(requests(), total, "{path}");
        assert_eq!(place.fetched(&path[1..]), body);
        assert!(fs::read_dir(place.config().cache_dir).expect("there").count() <= 2, "bounded");
    }
    // A failure is not kept.
    fetcher.fetch(&place.sandbox(), &[cached("/missing")], None).await.expect_err("404");
    fetcher.fetch(&place.sandbox(), &[cached("/missing")], None).await.expect_err("404");
    assert_eq!(requests(), 6);
    // Nor is what an earlier process left.
    let fetcher = Fetcher::new(place.config()).expect("cache directory");
    assert_eq!(fs::read_dir(place.config().cache_dir).expect("there").count(), 0);
    fetcher.fetch(&place.sandbox(), &[cached("/a")], None).await.expect("fetched");
    assert_eq!(requests(), 7);
}

#[tokio::test]
async fn nothing_of_the_kernels_and_nothing_that_is_open_is_fetched() {
    let place = Place::new();
    let secret = place.file("secret", b"open here");
    let open = fs::File::open(&secret.value).expect("readable");
    let number = std::os::fd::AsRawFd::as_raw_fd(&open);
    let pid = std::process::id();
    let at = |name: &str| place.dir.path().join(name);
    symlink(format!("/proc/self/fd/{number}"), at("to-self")).expect("link");
    symlink(format!("/proc/{pid}/fd/{number}"), at("to-us")).expect("link");
    symlink("/proc", at("to-proc")).expect("link");
    rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .expect("mkfifo");
    let path = |name: &str| at(name).display().to_string();
    for value in [
        format!("file:///proc/self/fd/{number}"),
        format!("/proc/self/../self/fd/{number}"),
        format!("/proc/thread-self/fd/{number}"),
        format!("/proc/{pid}/fd/{number}"),
        format!("/dev/fd/{number}"),
        format!("/proc/{pid}/root{}", secret.value),
        format!("/proc/{pid}/cwd/Cargo.toml"),
        "/proc/self/environ".into(),
        format!("/proc/{pid}/cmdline"),
        "/proc/version".into(),
        "/sys/kernel/mm/transparent_hugepage/enabled".into(),
        "/dev/zero".into(),
        "/dev/stdin".into(),
        path("to-self"),
        path("to-us"),
        path("to-proc/version"),
        path("fifo"),
    ] {
        for cache in [false, true] {
            let wanted = Uri { cache, output_file: Some("stolen".into()), ..uri(&value) };
            place.fetch(wanted).await.expect_err(&value);
            assert!(fs::read(place.sandbox().join("stolen")).unwrap_or_default().is_empty(), "{value}");
        }
    }
    // An ordinary link is followed as ever.
    symlink(&secret.value, at("plain-link")).expect("link");
    place.fetch(uri(&path("plain-link"))).await.expect("fetched");
    assert_eq!(place.fetched("plain-link"), b"open here");
}

#[tokio::test]
async fn files_belong_to_the_user_and_its_rights_decide() {
    if !root::may_switch_users("files_belong_to_the_user_and_its_rights_decide") {
        return;
    }
    let nobody = Owner::resolve("nobody").expect("exists").expect("somebody else");
    let place = Place::new();
    fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    std::os::unix::fs::chown(place.sandbox(), Some(nobody.uid), Some(nobody.gid)).expect("chown");
    let secret = place.file("secret", b"root's");
    fs::set_permissions(&secret.value, fs::Permissions::from_mode(0o600)).expect("chmod");
    let open = place.file("open.tar", &tar_of(&[(Regular, "inner", "", b"x")]));
    let fetcher = place.fetcher();
    for cache in [false, true] {
        let open = Uri { cache, ..open.clone() };
        fetcher.fetch(&place.sandbox(), &[open], Some(&nobody)).await.expect("fetched");
        assert_eq!(fs::metadata(place.sandbox().join("inner")).expect("there").uid(), nobody.uid);
        let secret = Uri { cache, ..secret.clone() };
        // In the cache because root fetched it: still not for others.
        fetcher.fetch(&place.sandbox(), std::slice::from_ref(&secret), None).await.expect("root may");
        fs::remove_file(place.sandbox().join("secret")).expect("removed");
        let why = fetcher.fetch(&place.sandbox(), &[secret], Some(&nobody)).await.expect_err("not allowed");
        assert!(why.to_string().contains("Permission denied"), "{why}");
    }
}

/// On a file system of a few kilobytes.
#[tokio::test]
async fn a_full_disk_names_the_file_and_the_cause() {
    if !root::may_mount("a_full_disk_names_the_file_and_the_cause") {
        return;
    }
    let place = Place::new();
    let sandbox = place.sandbox();
    let _disk = root::SmallDisk::mount(&sandbox, "64k");
    let big = place.file("big.bin", &vec![1; 1 << 20]);
    let server = serve([("/web.bin", ok(&vec![1; 1 << 20]))]).await;
    let archive = place.file("a.tgz", &gzip(&tar_of(&[(Regular, "inner.bin", "", &vec![0; 1 << 20])])));
    let mut failures = Vec::new();
    for (uri, name) in [
        (big.clone(), "sandbox/big.bin"),
        (Uri { cache: true, ..big }, "sandbox/big.bin"),
        (uri(&format!("{}/web.bin", server.address)), "sandbox/web.bin"),
        (archive, "sandbox/inner.bin"),
    ] {
        let why = place.fetch(uri).await.expect_err(name);
        if !(why.contains(name) && why.contains("No space left")) {
            failures.push(why);
        }
        // Make room for the next one.
        for entry in fs::read_dir(place.sandbox()).expect("there").flatten() {
            let _ = fs::remove_file(entry.path());
        }
    }
    assert!(failures.is_empty(), "{failures:?}");
}

#[test]
fn archives_stay_inside_where_newer_system_calls_are_refused() {
    bellows_testkit::on_older_machines(|| {
        local_files_by_path_and_uri();
        archives_are_unpacked();
        hostile_archives_change_nothing_outside();
        files_belong_to_the_user_and_its_rights_decide();
    });
}
