//! What the tests share: a service on a free port with its directories, executors' files as Spark lays them out, and
//! a small client.
#![allow(clippy::disallowed_methods, reason = "tests connect to addresses, not to names")]
#![allow(dead_code, unreachable_pub)] // each test file uses its part

pub mod spark;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bellows_shuffle::{Config, Running};
use bellows_transport::frame::{Decoded, FrameDecoder};
use bellows_transport::message::{ChunkId, Message};
use bellows_transport::rpc::{ExecutorInfo, FetchShuffleBlocks, Rpc};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const SUB_DIRS: i32 = 64;

pub struct Bench {
    pub dir: tempfile::TempDir,
    pub config: Config,
}

impl Bench {
    pub fn new() -> Bench {
        let dir = tempfile::tempdir().expect("directory");
        let root = dir.path().canonicalize().expect("exists");
        std::fs::create_dir(root.join("disk")).expect("directory");
        let mut config = Config::new(root.join("work"));
        config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        // Where `bellows shuffle` has it: in a directory that the first start makes.
        config.admin_socket = Some(root.join("work/admin.sock"));
        config.allowed_roots = vec![root.join("disk")];
        Bench { dir, config }
    }

    pub async fn start(&self) -> Running {
        bellows_shuffle::start(self.config.clone()).await.expect("starts")
    }

    pub fn admin(&self) -> bellows_shuffle::admin::Client {
        bellows_shuffle::admin::Client::new(self.config.admin_socket.as_ref().expect("set"))
    }

    /// Turns authentication on; `secrets` is the secrets file's content.
    pub fn authenticate(&mut self, secrets: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.dir.path().join("secrets");
        std::fs::write(&path, secrets).expect("file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its own");
        let policy = bellows_shuffle::AuthPolicy::default();
        self.config.auth = Some(bellows_shuffle::Auth { secrets_file: path.clone(), policy });
        path
    }

    pub fn disk(&self) -> PathBuf {
        self.config.allowed_roots[0].clone()
    }

    /// A new executor whose directory is on one disk, made a root if it is not one yet.
    pub fn executor_on(&mut self, disk: &str, app: &str, executor: &str) -> TestExecutor {
        let root = self.dir.path().canonicalize().expect("exists").join(disk);
        let dir = root.join(app).join(format!("blockmgr-{executor}"));
        std::fs::create_dir_all(&dir).expect("directory");
        if !self.config.allowed_roots.contains(&root) {
            self.config.allowed_roots.push(root);
        }
        TestExecutor { app: app.to_owned(), id: executor.to_owned(), dirs: vec![dir] }
    }

    /// An executor whose directories' names take a KiB each.
    pub fn executor_with_long_dirs(&self, app: &str, executor: &str, count: usize) -> TestExecutor {
        let long = self.disk().join(format!("{0}/{0}/{0}/{0}/blockmgr-{executor}", "x".repeat(240)));
        let dirs: Vec<PathBuf> = (0..count).map(|at| long.with_extension(at.to_string())).collect();
        dirs.iter().for_each(|dir| std::fs::create_dir_all(dir).expect("directory"));
        TestExecutor { app: app.to_owned(), id: executor.to_owned(), dirs }
    }

    /// A new executor's directories, on two "disks" of the application.
    pub fn executor(&self, app: &str, executor: &str) -> TestExecutor {
        let dirs =
            ["x", "y"].map(|d| self.disk().join(format!("{app}-{d}")).join(format!("blockmgr-{executor}")));
        for dir in &dirs {
            std::fs::create_dir_all(dir).expect("directory");
        }
        TestExecutor { app: app.to_owned(), id: executor.to_owned(), dirs: dirs.to_vec() }
    }
}

pub struct TestExecutor {
    pub app: String,
    pub id: String,
    pub dirs: Vec<PathBuf>,
}

impl TestExecutor {
    pub fn register(&self) -> Rpc {
        let text = |dir: &PathBuf| dir.to_str().expect("UTF-8").to_owned();
        let info = ExecutorInfo {
            local_dirs: self.dirs.iter().map(text).collect(),
            sub_dirs_per_local_dir: SUB_DIRS,
            shuffle_manager: "org.apache.spark.shuffle.sort.SortShuffleManager".to_owned(),
        };
        Rpc::RegisterExecutor { app: self.app.clone(), executor: self.id.clone(), info }
    }

    pub fn path(&self, file: &str) -> PathBuf {
        let hash =
            file.bytes().fold(0i32, |h, b| h.wrapping_mul(31).wrapping_add(i32::from(b))).unsigned_abs()
                as usize;
        let dir = &self.dirs[hash % self.dirs.len()];
        dir.join(format!("{:02x}", (hash / self.dirs.len()) % SUB_DIRS as usize)).join(file)
    }

    pub fn write(&self, file: &str, content: &[u8]) -> PathBuf {
        let path = self.path(file);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("directory");
        std::fs::write(&path, content).expect("file");
        path
    }

    /// Writes a map output; returns its partitions.
    pub fn map_output(&self, shuffle: i32, map: i64, lengths: &[usize]) -> Vec<Vec<u8>> {
        let partitions: Vec<Vec<u8>> = lengths
            .iter()
            .enumerate()
            .map(|(reduce, &length)| block_bytes(&self.id, shuffle, map, reduce, length))
            .collect();
        let mut offsets = vec![0u64];
        for partition in &partitions {
            offsets.push(offsets.last().expect("one") + partition.len() as u64);
        }
        let index: Vec<u8> = offsets.iter().flat_map(|o| o.to_be_bytes()).collect();
        self.write(&format!("shuffle_{shuffle}_{map}_0.data"), &partitions.concat());
        self.write(&format!("shuffle_{shuffle}_{map}_0.index"), &index);
        partitions
    }

    pub fn fetch(&self, shuffle: i32, blocks: &[(i64, &[i32])], batch: bool) -> Rpc {
        let mut fetch = FetchShuffleBlocks {
            app: self.app.clone(),
            executor: self.id.clone(),
            shuffle,
            maps: Vec::new(),
            reduces: Vec::new(),
            reduce_ends: Vec::new(),
            batch,
        };
        for (map, reduces) in blocks {
            fetch.maps.push(*map);
            fetch.reduces.extend_from_slice(reduces);
            fetch.reduce_ends.push(fetch.reduces.len() as u32);
        }
        Rpc::FetchShuffleBlocks(fetch)
    }

    pub fn open(&self, blocks: &[&str]) -> Rpc {
        let blocks = blocks.iter().map(|&b| b.to_owned()).collect();
        Rpc::OpenBlocks { app: self.app.clone(), executor: self.id.clone(), blocks }
    }
}

/// Bytes that differ from block to block and within each.
pub fn block_bytes(executor: &str, shuffle: i32, map: i64, reduce: usize, length: usize) -> Vec<u8> {
    let seed = executor.bytes().fold(shuffle as u64 ^ (map as u64) << 20 ^ (reduce as u64) << 40, |s, b| {
        s.wrapping_mul(31).wrapping_add(u64::from(b))
    });
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub struct Client {
    pub socket: TcpStream,
    input: BytesMut,
    decoder: FrameDecoder,
    next_request: i64,
}

impl Client {
    pub async fn connect(service: &Running) -> Client {
        Client::connect_to(service.local_addr()).await
    }

    pub async fn connect_to(address: SocketAddr) -> Client {
        let socket = TcpStream::connect(address).await.expect("connects");
        socket.set_nodelay(true).expect("socket");
        Client { socket, input: BytesMut::new(), decoder: FrameDecoder::new(256 << 20), next_request: 1 }
    }

    pub async fn send(&mut self, messages: &[Message]) {
        let mut out = BytesMut::new();
        messages.iter().for_each(|m| m.encode(&mut out));
        self.socket.write_all(&out).await.expect("writes");
    }

    /// Nothing once the service has closed.
    pub async fn receive(&mut self) -> Option<Message> {
        loop {
            match self.decoder.decode(&mut self.input).expect("the service sends messages") {
                Decoded::Message(message) => return Some(message),
                Decoded::Incomplete(_) => {
                    if self.socket.read_buf(&mut self.input).await.unwrap_or(0) == 0 {
                        return None;
                    }
                }
            }
        }
    }

    pub async fn bytes(&mut self, count: usize) -> Bytes {
        while self.input.len() < count {
            assert!(self.socket.read_buf(&mut self.input).await.expect("reads") > 0, "closed early");
        }
        self.input.split_to(count).freeze()
    }

    /// The answer, or the error's text.
    pub async fn call(&mut self, call: &Rpc) -> Result<Option<Rpc>, String> {
        let request = self.next_request;
        self.next_request += 1;
        self.send(&[Message::RpcRequest { request, body: call.encode() }]).await;
        match self.receive().await {
            Some(Message::RpcResponse { request: to, body }) if to == request => {
                Ok((!body.is_empty()).then(|| Rpc::decode(body).expect("an answer")))
            }
            Some(Message::RpcFailure { request: to, error }) if to == request => Err(error),
            other => panic!("not an answer to {call:?}: {other:?}"),
        }
    }

    /// Nothing once the service is gone.
    pub async fn try_call(&mut self, call: &Rpc) -> Option<Result<Option<Rpc>, String>> {
        self.try_send(&Message::RpcRequest { request: 0, body: call.encode() }).await?;
        match self.receive().await? {
            Message::RpcResponse { body, .. } => {
                Some(Ok((!body.is_empty()).then(|| Rpc::decode(body).expect("an answer"))))
            }
            Message::RpcFailure { error, .. } => Some(Err(error)),
            other => panic!("not an answer to {call:?}: {other:?}"),
        }
    }

    pub async fn try_send(&mut self, message: &Message) -> Option<()> {
        let mut out = BytesMut::new();
        message.encode(&mut out);
        self.socket.write_all(&out).await.ok()
    }

    /// Where authentication is on and this client has not gone through it.
    pub async fn assert_closed_on(&mut self, call: &Rpc) {
        self.send(&[Message::RpcRequest { request: 1, body: call.encode() }]).await;
        match self.receive().await {
            None | Some(Message::RpcFailure { .. }) => {}
            other => panic!("answered: {other:?}"),
        }
        assert_eq!(self.receive().await, None);
    }

    pub async fn register(&mut self, executor: &TestExecutor) {
        assert_eq!(self.call(&executor.register()).await, Ok(None));
    }

    pub async fn open(&mut self, call: &Rpc) -> (i64, i32) {
        match self.call(call).await {
            Ok(Some(Rpc::StreamHandle { stream, chunks })) => (stream, chunks),
            other => panic!("no stream: {other:?}"),
        }
    }

    /// Opens and reads all chunks, all requested at once.
    pub async fn fetch(&mut self, call: &Rpc) -> Result<Vec<Bytes>, String> {
        let (stream, chunks) = self.open(call).await;
        let ids: Vec<ChunkId> = (0..chunks).map(|chunk| ChunkId { stream, chunk }).collect();
        self.send(&ids.iter().map(|&id| Message::ChunkFetchRequest(id)).collect::<Vec<_>>()).await;
        let mut bodies = Vec::new();
        for id in ids {
            match self.receive().await {
                Some(Message::ChunkFetchSuccess { id: of, body }) if of == id => bodies.push(body),
                Some(Message::ChunkFetchFailure { id: of, error }) if of == id => return Err(error),
                other => panic!("not chunk {id:?}: {other:?}"),
            }
        }
        Ok(bodies)
    }
}

/// Repeats a look until it finds what it looks for; gives up after a long while.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..3000 {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("never: {what}")
}

pub fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// What a GET over HTTP answers, head and body.
pub async fn get(address: SocketAddr, path: &str) -> String {
    request(address, "GET", path).await
}

pub async fn request(address: SocketAddr, method: &str, path: &str) -> String {
    let mut socket = TcpStream::connect(address).await.expect("connects");
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    socket.write_all(head.as_bytes()).await.expect("writes");
    let mut text = String::new();
    socket.read_to_string(&mut text).await.expect("reads");
    text
}
