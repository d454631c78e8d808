//! Decoding of what peers say. What is long is decoded on another thread, so that it keeps nobody else waiting.
use bellows_runtime::{Share, Turns};
use bellows_wire::media::{DecodeError, Encoding};
use bytes::Bytes;
use prost::{Message, Name};
use std::sync::Arc;

/// Longer bodies take more than about a millisecond.
const LONG: usize = 64 << 10;
/// Long bodies that are decoded at the same time. The memory that all bodies share bounds how many wait.
const AT_ONCE: usize = 2;

#[derive(Debug, Clone)]
pub(crate) struct Decoders(Arc<Turns>);

impl Default for Decoders {
    fn default() -> Self {
        Self(Turns::new(AT_ONCE, usize::MAX))
    }
}

impl Decoders {
    /// Decodes `body` with `share`'s memory; `convert` makes of it what is wanted, and is told how much memory it took.
    pub(super) async fn decode<W, T, E>(
        &self,
        encoding: Encoding,
        body: Bytes,
        share: &Arc<Share>,
        convert: impl FnOnce(W, usize) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        W: Message + Name + Default,
        T: Send + 'static,
        E: From<DecodeError> + Send + 'static,
    {
        let (length, own) = (body.len(), Arc::clone(share));
        let decode = move || {
            let mut memory = 0;
            let message = encoding.decode_if(body, |needed| {
                memory = needed;
                own.grow(needed)
            })?;
            convert(message, memory)
        };
        if length <= LONG {
            return decode();
        }
        let queued = self.0.queue(share.peer()).ok_or(DecodeError::NoRoom)?;
        let turn = queued.turn().await;
        let decoded = tokio::task::spawn_blocking(move || {
            // Both last until it is done, even if nobody waits for it any longer.
            let _until_done = (turn, queued);
            decode()
        });
        decoded.await.unwrap_or_else(|error| {
            tracing::error!(%error, "cannot decode what a peer said");
            Err(DecodeError::NoRoom.into())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bellows_runtime::{Disconnect, MemoryBudget};
    use bellows_wire::v1::scheduler;
    use std::thread;

    #[tokio::test]
    async fn what_is_long_is_decoded_on_another_thread() {
        let budget = MemoryBudget::new(64 << 20);
        let share = Arc::new(budget.share([127, 0, 0, 1].into(), Disconnect::default()));
        let decoders = Decoders::default();
        let here = thread::current().id();
        for (padding, is_here) in [(0, true), (LONG, false)] {
            let body = format!(r#"{{"type":"REVIVE"{}}}"#, " ".repeat(padding));
            let convert = |_: scheduler::Call, _| Ok::<_, DecodeError>(thread::current().id());
            let decoded = decoders.decode(Encoding::Json, body.into(), &share, convert).await;
            assert_eq!(decoded.expect("a call") == here, is_here);
        }
    }
}
