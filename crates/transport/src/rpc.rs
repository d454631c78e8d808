//! What the bodies of RPCs say to a shuffle service (`network-shuffle`, `protocol/*.java`): a type byte, then fields.

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{DecodeError, Reader, Result, put_count, put_ints, put_longs, put_string, put_strings};

mod tag {
    pub(super) const OPEN_BLOCKS: u8 = 0;
    pub(super) const UPLOAD_BLOCK: u8 = 1;
    pub(super) const REGISTER_EXECUTOR: u8 = 2;
    pub(super) const STREAM_HANDLE: u8 = 3;
    pub(super) const REGISTER_DRIVER: u8 = 4;
    pub(super) const HEARTBEAT: u8 = 5;
    pub(super) const UPLOAD_BLOCK_STREAM: u8 = 6;
    pub(super) const REMOVE_BLOCKS: u8 = 7;
    pub(super) const BLOCKS_REMOVED: u8 = 8;
    pub(super) const FETCH_SHUFFLE_BLOCKS: u8 = 9;
    pub(super) const GET_LOCAL_DIRS: u8 = 10;
    pub(super) const LOCAL_DIRS: u8 = 11;
    pub(super) const PUSH_BLOCK_STREAM: u8 = 12;
    pub(super) const FINALIZE_SHUFFLE_MERGE: u8 = 13;
    pub(super) const MERGE_STATUSES: u8 = 14;
    pub(super) const FETCH_SHUFFLE_BLOCK_CHUNKS: u8 = 15;
    pub(super) const DIAGNOSE_CORRUPTION: u8 = 16;
    pub(super) const CORRUPTION_CAUSE: u8 = 17;
    pub(super) const PUSH_BLOCK_RETURN_CODE: u8 = 18;
    pub(super) const REMOVE_SHUFFLE_MERGE: u8 = 19;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rpc {
    OpenBlocks {
        app: String,
        executor: String,
        blocks: Vec<String>,
    },
    RegisterExecutor {
        app: String,
        executor: String,
        info: ExecutorInfo,
    },
    StreamHandle {
        stream: i64,
        chunks: i32,
    },
    /// The Mesos backend's driver; it will send a heartbeat well within the timeout.
    RegisterDriver {
        app: String,
        heartbeat_timeout_ms: i64,
    },
    Heartbeat {
        app: String,
    },
    RemoveBlocks {
        app: String,
        executor: String,
        blocks: Vec<String>,
    },
    BlocksRemoved {
        count: i32,
    },
    FetchShuffleBlocks(FetchShuffleBlocks),
    GetLocalDirs {
        app: String,
        executors: Vec<String>,
    },
    LocalDirs {
        executors: Vec<(String, Vec<String>)>,
    },
    DiagnoseCorruption {
        app: String,
        executor: String,
        shuffle: i32,
        map: i64,
        reduce: i32,
        checksum: i64,
        algorithm: String,
    },
    CorruptionCause(CorruptionCause),
    /// A call of Spark's protocol that a shuffle service without push-based merging does not answer.
    Unsupported(&'static str),
}

/// Where an executor keeps its blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutorInfo {
    pub local_dirs: Vec<String>,
    pub sub_dirs_per_local_dir: i32,
    pub shuffle_manager: String,
}

/// Blocks of several map outputs of one shuffle, kept flat: a request may name a million of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchShuffleBlocks {
    pub app: String,
    pub executor: String,
    pub shuffle: i32,
    pub maps: Vec<i64>,
    /// The reduce ids of all maps, one map after the other.
    pub reduces: Vec<i32>,
    /// Where each map's reduce ids end in `reduces`.
    pub reduce_ends: Vec<u32>,
    /// Whether each map's reduce ids are a range: start and end, the end not included.
    pub batch: bool,
}

/// What became of a block that the reader found corrupt, by its checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CorruptionCause {
    DiskIssue = 0,
    NetworkIssue = 1,
    UnknownIssue = 2,
    ChecksumVerifyPass = 3,
    UnsupportedChecksumAlgorithm = 4,
}

impl Rpc {
    pub fn decode(body: Bytes) -> Result<Rpc> {
        let mut r = Reader::new(body);
        let rpc = match r.u8("call type")? {
            tag::OPEN_BLOCKS => Rpc::OpenBlocks {
                app: r.string("application id")?,
                executor: r.string("executor id")?,
                blocks: r.strings("block ids")?,
            },
            tag::REGISTER_EXECUTOR => Rpc::RegisterExecutor {
                app: r.string("application id")?,
                executor: r.string("executor id")?,
                info: ExecutorInfo::decode(&mut r)?,
            },
            tag::STREAM_HANDLE => {
                Rpc::StreamHandle { stream: r.i64("stream id")?, chunks: r.i32("chunk count")? }
            }
            tag::REGISTER_DRIVER => Rpc::RegisterDriver {
                app: r.string("application id")?,
                heartbeat_timeout_ms: r.i64("heartbeat timeout")?,
            },
            tag::HEARTBEAT => Rpc::Heartbeat { app: r.string("application id")? },
            tag::REMOVE_BLOCKS => Rpc::RemoveBlocks {
                app: r.string("application id")?,
                executor: r.string("executor id")?,
                blocks: r.strings("block ids")?,
            },
            tag::BLOCKS_REMOVED => Rpc::BlocksRemoved { count: r.i32("block count")? },
            tag::FETCH_SHUFFLE_BLOCKS => Rpc::FetchShuffleBlocks(FetchShuffleBlocks::decode(&mut r)?),
            tag::GET_LOCAL_DIRS => {
                Rpc::GetLocalDirs { app: r.string("application id")?, executors: r.strings("executor ids")? }
            }
            tag::LOCAL_DIRS => Rpc::LocalDirs { executors: local_dirs(&mut r)? },
            tag::DIAGNOSE_CORRUPTION => Rpc::DiagnoseCorruption {
                app: r.string("application id")?,
                executor: r.string("executor id")?,
                shuffle: r.i32("shuffle id")?,
                map: r.i64("map id")?,
                reduce: r.i32("reduce id")?,
                checksum: r.i64("checksum")?,
                algorithm: r.string("checksum algorithm")?,
            },
            tag::CORRUPTION_CAUSE => Rpc::CorruptionCause(CorruptionCause::decode(r.u8("cause")?)?),
            tag::UPLOAD_BLOCK => return Ok(Rpc::Unsupported("UploadBlock")),
            tag::UPLOAD_BLOCK_STREAM => return Ok(Rpc::Unsupported("UploadBlockStream")),
            tag::PUSH_BLOCK_STREAM => return Ok(Rpc::Unsupported("PushBlockStream")),
            tag::FINALIZE_SHUFFLE_MERGE => return Ok(Rpc::Unsupported("FinalizeShuffleMerge")),
            tag::MERGE_STATUSES => return Ok(Rpc::Unsupported("MergeStatuses")),
            tag::FETCH_SHUFFLE_BLOCK_CHUNKS => return Ok(Rpc::Unsupported("FetchShuffleBlockChunks")),
            tag::PUSH_BLOCK_RETURN_CODE => return Ok(Rpc::Unsupported("BlockPushReturnCode")),
            tag::REMOVE_SHUFFLE_MERGE => return Ok(Rpc::Unsupported("RemoveShuffleMerge")),
            unknown => return Err(DecodeError::UnknownType(unknown)),
        };
        r.end()?;
        Ok(rpc)
    }

    /// The application that a call is about.
    pub fn app(&self) -> Option<&str> {
        match self {
            Rpc::OpenBlocks { app, .. }
            | Rpc::RegisterExecutor { app, .. }
            | Rpc::RegisterDriver { app, .. }
            | Rpc::Heartbeat { app }
            | Rpc::RemoveBlocks { app, .. }
            | Rpc::GetLocalDirs { app, .. }
            | Rpc::DiagnoseCorruption { app, .. } => Some(app),
            Rpc::FetchShuffleBlocks(fetch) => Some(&fetch.app),
            Rpc::StreamHandle { .. }
            | Rpc::BlocksRemoved { .. }
            | Rpc::LocalDirs { .. }
            | Rpc::CorruptionCause(_)
            | Rpc::Unsupported(_) => None,
        }
    }

    /// How many strings the call's list has: each takes more memory than it took in the message.
    pub fn strings(&self) -> usize {
        match self {
            Rpc::OpenBlocks { blocks, .. } | Rpc::RemoveBlocks { blocks, .. } => blocks.len(),
            Rpc::RegisterExecutor { info, .. } => info.local_dirs.len(),
            Rpc::GetLocalDirs { executors, .. } => executors.len(),
            _ => 0,
        }
    }

    /// All ids of applications and executors that a call names.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        let (executor, more): (_, &[String]) = match self {
            Rpc::OpenBlocks { executor, .. }
            | Rpc::RegisterExecutor { executor, .. }
            | Rpc::RemoveBlocks { executor, .. }
            | Rpc::DiagnoseCorruption { executor, .. } => (Some(executor), &[]),
            Rpc::FetchShuffleBlocks(fetch) => (Some(&fetch.executor), &[]),
            Rpc::GetLocalDirs { executors, .. } => (None, executors),
            _ => (None, &[]),
        };
        let ids = self.app().into_iter().chain(executor.map(String::as_str));
        ids.chain(more.iter().map(String::as_str))
    }

    /// The call as an RPC's body. Nothing for [`Rpc::Unsupported`], which is only ever received.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Rpc::OpenBlocks { app, executor, blocks } => {
                put_blocks(&mut out, tag::OPEN_BLOCKS, app, executor, blocks);
            }
            Rpc::RegisterExecutor { app, executor, info } => {
                out.put_u8(tag::REGISTER_EXECUTOR);
                put_string(&mut out, app);
                put_string(&mut out, executor);
                info.encode(&mut out);
            }
            Rpc::StreamHandle { stream, chunks } => {
                out.put_u8(tag::STREAM_HANDLE);
                out.put_i64(*stream);
                out.put_i32(*chunks);
            }
            Rpc::RegisterDriver { app, heartbeat_timeout_ms } => {
                out.put_u8(tag::REGISTER_DRIVER);
                put_string(&mut out, app);
                out.put_i64(*heartbeat_timeout_ms);
            }
            Rpc::Heartbeat { app } => {
                out.put_u8(tag::HEARTBEAT);
                put_string(&mut out, app);
            }
            Rpc::RemoveBlocks { app, executor, blocks } => {
                put_blocks(&mut out, tag::REMOVE_BLOCKS, app, executor, blocks);
            }
            Rpc::BlocksRemoved { count } => {
                out.put_u8(tag::BLOCKS_REMOVED);
                out.put_i32(*count);
            }
            Rpc::FetchShuffleBlocks(fetch) => fetch.encode(&mut out),
            Rpc::GetLocalDirs { app, executors } => {
                out.put_u8(tag::GET_LOCAL_DIRS);
                put_string(&mut out, app);
                put_strings(&mut out, executors);
            }
            Rpc::LocalDirs { executors } => put_local_dirs(&mut out, executors),
            Rpc::DiagnoseCorruption { app, executor, shuffle, map, reduce, checksum, algorithm } => {
                out.put_u8(tag::DIAGNOSE_CORRUPTION);
                put_string(&mut out, app);
                put_string(&mut out, executor);
                out.put_i32(*shuffle);
                out.put_i64(*map);
                out.put_i32(*reduce);
                out.put_i64(*checksum);
                put_string(&mut out, algorithm);
            }
            Rpc::CorruptionCause(cause) => {
                out.put_u8(tag::CORRUPTION_CAUSE);
                out.put_u8(*cause as u8);
            }
            Rpc::Unsupported(_) => {}
        }
        out.freeze()
    }
}

impl ExecutorInfo {
    fn decode(r: &mut Reader) -> Result<ExecutorInfo> {
        Ok(ExecutorInfo {
            local_dirs: r.strings("local directories")?,
            sub_dirs_per_local_dir: r.i32("sub-directories per local directory")?,
            shuffle_manager: r.string("shuffle manager")?,
        })
    }

    fn encode(&self, out: &mut BytesMut) {
        put_strings(out, &self.local_dirs);
        out.put_i32(self.sub_dirs_per_local_dir);
        put_string(out, &self.shuffle_manager);
    }
}

impl FetchShuffleBlocks {
    /// Chunks that the stream will have.
    pub fn chunks(&self) -> usize {
        if self.batch { self.maps.len() } else { self.reduces.len() }
    }

    fn decode(r: &mut Reader) -> Result<FetchShuffleBlocks> {
        let (app, executor) = (r.string("application id")?, r.string("executor id")?);
        let shuffle = r.i32("shuffle id")?;
        let maps = r.longs("map ids")?;
        if r.count(4, "reduce ids")? != maps.len() {
            return Err(DecodeError::Invalid("map ids and reduce ids differ in number"));
        }
        let mut reduces = Vec::new();
        let mut reduce_ends = Vec::with_capacity(maps.len());
        for _ in &maps {
            reduces.append(&mut r.ints("reduce ids")?);
            reduce_ends.push(u32::try_from(reduces.len()).map_err(|_| DecodeError::Length("reduce ids"))?);
        }
        let batch = r.u8("batch flag")? != 0;
        let fetch = FetchShuffleBlocks { app, executor, shuffle, maps, reduces, reduce_ends, batch };
        if batch && !fetch.reduces_per_map().all(|ids| ids.len() == 2) {
            return Err(DecodeError::Invalid("a batch takes a start and an end per map"));
        }
        Ok(fetch)
    }

    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(tag::FETCH_SHUFFLE_BLOCKS);
        put_string(out, &self.app);
        put_string(out, &self.executor);
        out.put_i32(self.shuffle);
        put_longs(out, &self.maps);
        put_count(out, self.maps.len());
        self.reduces_per_map().for_each(|ids| put_ints(out, ids));
        out.put_u8(u8::from(self.batch));
    }

    /// Each map's reduce ids, in the order of the maps.
    pub fn reduces_per_map(&self) -> impl Iterator<Item = &[i32]> {
        let starts = std::iter::once(&0).chain(&self.reduce_ends);
        starts.zip(&self.reduce_ends).map(|(&start, &end)| &self.reduces[start as usize..end as usize])
    }
}

impl CorruptionCause {
    fn decode(ordinal: u8) -> Result<CorruptionCause> {
        use CorruptionCause::*;
        [DiskIssue, NetworkIssue, UnknownIssue, ChecksumVerifyPass, UnsupportedChecksumAlgorithm]
            .into_iter()
            .find(|&cause| cause as u8 == ordinal)
            .ok_or(DecodeError::Invalid("unknown corruption cause"))
    }
}

fn put_blocks(out: &mut BytesMut, tag: u8, app: &str, executor: &str, blocks: &[String]) {
    out.put_u8(tag);
    put_string(out, app);
    put_string(out, executor);
    put_strings(out, blocks);
}

/// Executor ids, how many directories each has, and all directories in one list.
fn put_local_dirs(out: &mut BytesMut, executors: &[(String, Vec<String>)]) {
    out.put_u8(tag::LOCAL_DIRS);
    put_count(out, executors.len());
    executors.iter().for_each(|(id, _)| put_string(out, id));
    put_count(out, executors.len());
    executors.iter().for_each(|(_, dirs)| put_count(out, dirs.len()));
    put_count(out, executors.iter().map(|(_, dirs)| dirs.len()).sum());
    executors.iter().flat_map(|(_, dirs)| dirs).for_each(|dir| put_string(out, dir));
}

fn local_dirs(r: &mut Reader) -> Result<Vec<(String, Vec<String>)>> {
    let ids = r.strings("executor ids")?;
    let counts = r.ints("directory counts")?;
    let mut dirs = r.strings("local directories")?.into_iter();
    if ids.len() != counts.len() {
        return Err(DecodeError::Invalid("executors and directory counts differ in number"));
    }
    let mut executors = Vec::with_capacity(ids.len());
    for (id, count) in ids.into_iter().zip(counts) {
        let count = usize::try_from(count).map_err(|_| DecodeError::Length("directory counts"))?;
        let own: Vec<String> = dirs.by_ref().take(count).collect();
        if own.len() < count {
            return Err(DecodeError::Length("directory counts"));
        }
        executors.push((id, own));
    }
    if dirs.next().is_some() {
        return Err(DecodeError::Invalid("local directories that are no executor's"));
    }
    Ok(executors)
}
