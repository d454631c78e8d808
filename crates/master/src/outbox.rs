//! What waits to be written to one peer, bounded in bytes: a peer that does not read is noticed, nobody waits for it.
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The peer has left more unread than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// The sending end; dropping it ends the stream after what was pushed.
#[derive(Debug)]
pub(crate) struct Outbox<T> {
    // Unbounded in items, because `room` bounds what they weigh.
    sender: mpsc::UnboundedSender<(OwnedSemaphorePermit, T)>,
    room: Arc<Semaphore>,
    room_bytes: u32,
}

/// The end that a response body is made of.
#[derive(Debug)]
pub(crate) struct Inbox<T>(mpsc::UnboundedReceiver<(OwnedSemaphorePermit, T)>);

pub(crate) fn outbox<T>(room_bytes: u32) -> (Outbox<T>, Inbox<T>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(room_bytes as usize));
    (Outbox { sender, room, room_bytes }, Inbox(receiver))
}

impl<T> Outbox<T> {
    /// Never waits. One item that outweighs all room fits while nothing else waits.
    pub(crate) fn push(&self, item: T, bytes: usize) -> Result<(), Full> {
        let weight = u32::try_from(bytes).unwrap_or(u32::MAX).clamp(1, self.room_bytes);
        let permit = Arc::clone(&self.room).try_acquire_many_owned(weight).map_err(|_| Full)?;
        // A receiver that is gone is told to the driver by its own guard.
        let _ = self.sender.send((permit, item));
        Ok(())
    }

    /// Whether somebody still reads.
    pub(crate) fn is_read(&self) -> bool {
        !self.sender.is_closed()
    }
}

impl<T> Inbox<T> {
    /// `None` once the outbox is dropped and everything is read.
    pub(crate) async fn next(&mut self) -> Option<T> {
        self.0.recv().await.map(|(_room, item)| item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn is_full_until_read() {
        let (outbox, mut inbox) = outbox(10);
        assert_eq!(outbox.push('a', 1_000), Ok(()));
        assert_eq!(outbox.push('b', 1), Err(Full));
        assert_eq!(inbox.next().await, Some('a'));
        assert_eq!(outbox.push('c', 9), Ok(()));
        assert_eq!(outbox.push('d', 1), Ok(()));
        assert_eq!(outbox.push('e', 1), Err(Full));
        drop(outbox);
        assert_eq!(
            (inbox.next().await, inbox.next().await, inbox.next().await),
            (Some('c'), Some('d'), None)
        );
    }
}
