//! The messages that frames carry (`network-common`, `protocol/*.java`), in both directions.
//! What an RPC's body means is not known here; see [`crate::rpc`].

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{DecodeError, Reader, Result, put_byte_array, put_count, put_string};
use crate::frame::LENGTH_BYTES;

mod tag {
    pub(super) const CHUNK_FETCH_REQUEST: u8 = 0;
    pub(super) const CHUNK_FETCH_SUCCESS: u8 = 1;
    pub(super) const CHUNK_FETCH_FAILURE: u8 = 2;
    pub(super) const RPC_REQUEST: u8 = 3;
    pub(super) const RPC_RESPONSE: u8 = 4;
    pub(super) const RPC_FAILURE: u8 = 5;
    pub(super) const STREAM_REQUEST: u8 = 6;
    pub(super) const STREAM_RESPONSE: u8 = 7;
    pub(super) const STREAM_FAILURE: u8 = 8;
    pub(super) const ONE_WAY_MESSAGE: u8 = 9;
    pub(super) const UPLOAD_STREAM: u8 = 10;
    pub(super) const MERGED_BLOCK_META_REQUEST: u8 = 11;
    pub(super) const MERGED_BLOCK_META_SUCCESS: u8 = 12;
}

/// One chunk of one opened stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkId {
    pub stream: i64,
    pub chunk: i32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    ChunkFetchRequest(ChunkId),
    ChunkFetchSuccess {
        id: ChunkId,
        body: Bytes,
    },
    ChunkFetchFailure {
        id: ChunkId,
        error: String,
    },
    RpcRequest {
        request: i64,
        body: Bytes,
    },
    RpcResponse {
        request: i64,
        body: Bytes,
    },
    RpcFailure {
        request: i64,
        error: String,
    },
    StreamRequest {
        stream: String,
    },
    /// `body_bytes` bytes follow the frame.
    StreamResponse {
        stream: String,
        body_bytes: u64,
    },
    StreamFailure {
        stream: String,
        error: String,
    },
    OneWay {
        body: Bytes,
    },
    /// `body_bytes` bytes follow the frame.
    UploadStream {
        request: i64,
        meta: Bytes,
        body_bytes: u64,
    },
    MergedBlockMetaRequest {
        request: i64,
        app: String,
        shuffle: i32,
        merge: i32,
        reduce: i32,
    },
    MergedBlockMetaSuccess {
        request: i64,
        chunks: i32,
        body: Bytes,
    },
}

impl Message {
    /// Decodes a frame's content: type byte and fields.
    pub fn decode(content: Bytes) -> Result<Message> {
        let mut reader = Reader::new(content);
        let tag = reader.u8("message type")?;
        let message = match tag {
            tag::CHUNK_FETCH_REQUEST => Message::ChunkFetchRequest(chunk_id(&mut reader)?),
            tag::CHUNK_FETCH_SUCCESS => {
                return Ok(Message::ChunkFetchSuccess { id: chunk_id(&mut reader)?, body: reader.rest() });
            }
            tag::CHUNK_FETCH_FAILURE => {
                Message::ChunkFetchFailure { id: chunk_id(&mut reader)?, error: reader.string("error")? }
            }
            tag::RPC_REQUEST => {
                let request = reader.i64("request id")?;
                return Ok(Message::RpcRequest { request, body: sized_body(reader)? });
            }
            tag::RPC_RESPONSE => {
                let request = reader.i64("request id")?;
                return Ok(Message::RpcResponse { request, body: sized_body(reader)? });
            }
            tag::RPC_FAILURE => {
                Message::RpcFailure { request: reader.i64("request id")?, error: reader.string("error")? }
            }
            tag::STREAM_REQUEST => Message::StreamRequest { stream: reader.string("stream id")? },
            tag::STREAM_RESPONSE => Message::StreamResponse {
                stream: reader.string("stream id")?,
                body_bytes: reader.u64("byte count")?,
            },
            tag::STREAM_FAILURE => {
                Message::StreamFailure { stream: reader.string("stream id")?, error: reader.string("error")? }
            }
            tag::ONE_WAY_MESSAGE => return Ok(Message::OneWay { body: sized_body(reader)? }),
            tag::UPLOAD_STREAM => Message::UploadStream {
                request: reader.i64("request id")?,
                meta: reader.byte_array("upload meta")?,
                body_bytes: reader.u64("byte count")?,
            },
            tag::MERGED_BLOCK_META_REQUEST => Message::MergedBlockMetaRequest {
                request: reader.i64("request id")?,
                app: reader.string("application id")?,
                shuffle: reader.i32("shuffle id")?,
                merge: reader.i32("shuffle merge id")?,
                reduce: reader.i32("reduce id")?,
            },
            tag::MERGED_BLOCK_META_SUCCESS => {
                let (request, chunks) = (reader.i64("request id")?, reader.i32("chunk count")?);
                return Ok(Message::MergedBlockMetaSuccess { request, chunks, body: reader.rest() });
            }
            unknown => return Err(DecodeError::UnknownType(unknown)),
        };
        reader.end()?;
        Ok(message)
    }

    /// The one message that arrives once per block, read in place.
    pub(crate) fn decode_chunk_fetch(content: &[u8]) -> Option<Message> {
        let fields: &[u8; 13] = content.try_into().ok()?;
        if fields[0] != tag::CHUNK_FETCH_REQUEST {
            return None;
        }
        let (stream, chunk) = fields[1..].split_at(8);
        Some(Message::ChunkFetchRequest(ChunkId {
            stream: i64::from_be_bytes(stream.try_into().ok()?),
            chunk: i32::from_be_bytes(chunk.try_into().ok()?),
        }))
    }

    /// Appends the whole frame. A body outside of the frame is the caller's to send next.
    pub fn encode(&self, out: &mut BytesMut) {
        let start = out.len();
        out.put_u64(0);
        self.encode_content(out);
        let length = (out.len() - start) as u64;
        out[start..start + LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
    }

    fn encode_content(&self, out: &mut BytesMut) {
        match self {
            Message::ChunkFetchRequest(id) => put_chunk_id(out, tag::CHUNK_FETCH_REQUEST, *id),
            Message::ChunkFetchSuccess { id, body } => {
                put_chunk_id(out, tag::CHUNK_FETCH_SUCCESS, *id);
                out.put_slice(body);
            }
            Message::ChunkFetchFailure { id, error } => {
                put_chunk_id(out, tag::CHUNK_FETCH_FAILURE, *id);
                put_string(out, error);
            }
            Message::RpcRequest { request, body } => put_rpc(out, tag::RPC_REQUEST, *request, body),
            Message::RpcResponse { request, body } => put_rpc(out, tag::RPC_RESPONSE, *request, body),
            Message::RpcFailure { request, error } => {
                out.put_u8(tag::RPC_FAILURE);
                out.put_i64(*request);
                put_string(out, error);
            }
            Message::StreamRequest { stream } => {
                out.put_u8(tag::STREAM_REQUEST);
                put_string(out, stream);
            }
            Message::StreamResponse { stream, body_bytes } => {
                out.put_u8(tag::STREAM_RESPONSE);
                put_string(out, stream);
                out.put_u64(*body_bytes);
            }
            Message::StreamFailure { stream, error } => {
                out.put_u8(tag::STREAM_FAILURE);
                put_string(out, stream);
                put_string(out, error);
            }
            Message::OneWay { body } => {
                out.put_u8(tag::ONE_WAY_MESSAGE);
                put_byte_array(out, body);
            }
            Message::UploadStream { request, meta, body_bytes } => {
                out.put_u8(tag::UPLOAD_STREAM);
                out.put_i64(*request);
                put_byte_array(out, meta);
                out.put_u64(*body_bytes);
            }
            Message::MergedBlockMetaRequest { request, app, shuffle, merge, reduce } => {
                out.put_u8(tag::MERGED_BLOCK_META_REQUEST);
                out.put_i64(*request);
                put_string(out, app);
                out.put_i32(*shuffle);
                out.put_i32(*merge);
                out.put_i32(*reduce);
            }
            Message::MergedBlockMetaSuccess { request, chunks, body } => {
                out.put_u8(tag::MERGED_BLOCK_META_SUCCESS);
                out.put_i64(*request);
                out.put_i32(*chunks);
                out.put_slice(body);
            }
        }
    }
}

/// Bytes of a `ChunkFetchSuccess` before its body.
pub const CHUNK_HEADER_BYTES: usize = LENGTH_BYTES + 1 + 8 + 4;

/// The front of a `ChunkFetchSuccess` whose body of `body_bytes` the caller sends next.
pub fn put_chunk_header(out: &mut BytesMut, id: ChunkId, body_bytes: u64) {
    out.put_u64(CHUNK_HEADER_BYTES as u64 + body_bytes);
    put_chunk_id(out, tag::CHUNK_FETCH_SUCCESS, id);
}

fn chunk_id(reader: &mut Reader) -> Result<ChunkId> {
    Ok(ChunkId { stream: reader.i64("stream id")?, chunk: reader.i32("chunk index")? })
}

fn put_chunk_id(out: &mut BytesMut, tag: u8, id: ChunkId) {
    out.put_u8(tag);
    out.put_i64(id.stream);
    out.put_i32(id.chunk);
}

/// The size before a body says what the frame's length says already; Spark ignores it, and so must we.
fn sized_body(mut reader: Reader) -> Result<Bytes> {
    reader.i32("body size")?;
    Ok(reader.rest())
}

fn put_rpc(out: &mut BytesMut, tag: u8, request: i64, body: &Bytes) {
    out.put_u8(tag);
    out.put_i64(request);
    put_count(out, body.len());
    out.put_slice(body);
}
