//! What each RPC does: decoded, allowed, done, answered.

use bellows_transport::rpc::Rpc;
use bytes::Bytes;

use super::connection::{Connection, done};
use super::places::For;
use super::streams::{Stream, Wanted};
use crate::registry::{Refusal, is_id};
use crate::service::CallError;

/// What one of a byte or none takes in memory, with the least that is taken from the heap.
const STRING_BYTES: usize = size_of::<String>() + 32;

/// A call that this connection may make, with room for what it makes.
pub(super) fn admit(connection: &mut Connection, body: Bytes) -> Result<Rpc, CallError> {
    let bytes = body.len();
    let call = Rpc::decode(body).map_err(|e| CallError::BadCall(e.to_string()))?;
    connection.grow_to(For::Requests, bytes + call.strings() * STRING_BYTES)?;
    if !call.ids().all(is_id) {
        return Err(CallError::BadCall(Refusal::Id.to_string()));
    }
    connection.authorize(&call)?;
    Ok(call)
}

/// Whether a disk may have to be waited for.
pub(super) fn waits(call: &Rpc) -> bool {
    matches!(
        call,
        Rpc::RegisterExecutor { .. }
            | Rpc::RemoveBlocks { .. }
            | Rpc::DiagnoseCorruption { .. }
            | Rpc::RegisterDriver { .. }
    )
}

/// Of a call of so many bytes.
pub(super) async fn answer(connection: &mut Connection, bytes: usize, call: Rpc) -> Result<Bytes, CallError> {
    let service = connection.service.clone();
    match call {
        Rpc::RegisterExecutor { app, executor, info } => {
            service.register(app, executor, info).await?;
            Ok(done())
        }
        Rpc::FetchShuffleBlocks(mut fetch) => {
            let (app, executor) = (std::mem::take(&mut fetch.app), std::mem::take(&mut fetch.executor));
            open(connection, &app, &executor, Wanted::of_fetch(fetch))
        }
        Rpc::OpenBlocks { app, executor, blocks } => {
            open(connection, &app, &executor, Wanted::of_names(&blocks)?)
        }
        Rpc::RemoveBlocks { app, executor, blocks } => {
            let count = service.remove_blocks(&app, &executor, blocks).await?;
            Ok(Rpc::BlocksRemoved { count }.encode())
        }
        Rpc::GetLocalDirs { app, executors } => {
            // Each once, however often it is named: Spark's service makes a set of them.
            let executors = service.local_dirs(&app, executors.into_iter().collect())?;
            let answer = Rpc::LocalDirs { executors }.encode();
            connection.grow_to(For::Requests, bytes + answer.len())?;
            Ok(answer)
        }
        Rpc::DiagnoseCorruption { app, executor, shuffle, map, reduce, checksum, algorithm } => {
            let cause =
                service.diagnose((&app, &executor), (shuffle, map, reduce), checksum, algorithm).await;
            Ok(Rpc::CorruptionCause(cause).encode())
        }
        Rpc::RegisterDriver { app, heartbeat_timeout_ms } => {
            let (promised, driver) = service.register_driver(app.clone(), heartbeat_timeout_ms).await?;
            // Its driver sends heartbeats over this connection, and never makes another for them. Where nobody listens
            // to them nothing is lost with it.
            if service.config.heartbeat_cleanup {
                connection.place.keep(&app, promised, driver);
            }
            Ok(done())
        }
        Rpc::Heartbeat { app } => {
            service.heartbeat(&app);
            Ok(done())
        }
        Rpc::Unsupported(name) => {
            Err(CallError::Unsupported(format!("{name} is not answered by this service")))
        }
        Rpc::StreamHandle { .. }
        | Rpc::BlocksRemoved { .. }
        | Rpc::LocalDirs { .. }
        | Rpc::CorruptionCause(_) => Err(CallError::Unsupported("an answer was sent as a call".to_owned())),
    }
}

fn open(connection: &mut Connection, app: &str, executor: &str, wanted: Wanted) -> Result<Bytes, CallError> {
    let (app, executor) = connection.service.find(app, executor)?;
    let (asked, chunks) = (connection.service.asked(), wanted.chunks());
    if chunks == 0 {
        return Err(CallError::BadCall("no blocks".to_owned()));
    }
    let chunks = i32::try_from(chunks).map_err(|_| CallError::OverLimit("too many blocks".to_owned()))?;
    let stream = Stream::new(app, executor, asked, wanted);
    let (stream, others_lost) = connection.streams.open(stream, &mut connection.place)?;
    connection.others_lost(others_lost);
    Ok(Rpc::StreamHandle { stream, chunks }.encode())
}
