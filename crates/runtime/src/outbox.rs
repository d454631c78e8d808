//! An outbox: what waits to be written to one peer, bounded in bytes: a peer that does not read is noticed, nobody waits for it.
use crate::Share;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The peer has left more unread than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// The sending end; dropping it ends the stream after what was pushed.
#[derive(Debug)]
pub struct Outbox<T> {
    // Unbounded in items, because `room` bounds what they weigh.
    sender: mpsc::UnboundedSender<(OwnedSemaphorePermit, T)>,
    room: Arc<Semaphore>,
    room_bytes: u32,
    /// Its part of what all streams share.
    share: Option<Arc<Share>>,
}

/// The end that a response body is made of.
#[derive(Debug)]
pub struct Inbox<T> {
    receiver: mpsc::UnboundedReceiver<(OwnedSemaphorePermit, T)>,
    share: Option<Arc<Share>>,
}

/// Makes an outbox and its inbox. `room_bytes` are for this peer alone; `share` is what it has of the memory that all peers share.
pub fn outbox<T>(room_bytes: u32, share: Option<Share>) -> (Outbox<T>, Inbox<T>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(room_bytes as usize));
    let share = share.map(Arc::new);
    (Outbox { sender, room, room_bytes, share: share.clone() }, Inbox { receiver, share })
}

impl<T> Outbox<T> {
    /// Puts an item behind those that wait; never waits. One item that outweighs all room fits while nothing else waits.
    pub fn push(&self, item: T, bytes: usize) -> Result<(), Full> {
        let weight = u32::try_from(bytes).unwrap_or(u32::MAX).clamp(1, self.room_bytes);
        let permit = Arc::clone(&self.room).try_acquire_many_owned(weight).map_err(|_| Full)?;
        if self.share.as_ref().is_some_and(|share| !share.grow(weight as usize)) {
            return Err(Full);
        }
        // A receiver that is gone is told to the driver by its own guard.
        let _ = self.sender.send((permit, item));
        Ok(())
    }

    /// Like [`Outbox::push`] for what may be lost: takes half of the room at most, and of the memory that all peers
    /// share only what is free.
    pub fn push_unreliable(&self, item: T, bytes: usize) -> Result<(), Full> {
        let weight = bytes.max(1);
        let waiting = self.room_bytes as usize - self.room.available_permits();
        if waiting + weight > self.room_bytes as usize / 2 {
            return Err(Full);
        }
        if self.share.as_ref().is_some_and(|share| !share.has_room(weight)) {
            return Err(Full);
        }
        self.push(item, weight)
    }

    /// Whether somebody still reads.
    pub fn is_read(&self) -> bool {
        !self.sender.is_closed()
    }
}

impl<T> Inbox<T> {
    /// Returns the next item; `None` once the outbox is dropped and everything is read.
    pub async fn next(&mut self) -> Option<T> {
        let (permit, item) = self.receiver.recv().await?;
        if let Some(share) = &self.share {
            share.shrink(permit.num_permits());
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Disconnect, MemoryBudget};

    #[tokio::test]
    async fn all_streams_share_what_waits() {
        let budget = MemoryBudget::new(20);
        let share = || Some(budget.share([10, 0, 0, 1].into(), Disconnect::default()));
        let ((first, mut inbox), (second, _unread)) = (outbox(100, share()), outbox(100, share()));
        assert_eq!(
            (first.push('a', 6), second.push('b', 4), second.push('c', 1)),
            (Ok(()), Ok(()), Err(Full))
        );
        assert_eq!(inbox.next().await, Some('a'));
        assert_eq!(second.push('c', 6), Ok(()));
        drop((first, inbox, second, _unread));
        assert_eq!(budget.taken_bytes(), 0);
    }

    #[tokio::test]
    async fn what_may_be_lost_takes_half_of_the_room_and_nothing_from_others() {
        let budget = MemoryBudget::new(200);
        let share = |last| Some(budget.share([10, 0, 0, last].into(), Disconnect::default()));
        let ((first, mut inbox), (second, _unread)) = (outbox(100, share(1)), outbox(100, share(2)));
        assert_eq!(
            (first.push_unreliable('a', 51), first.push_unreliable('b', 50), first.push_unreliable('c', 1)),
            (Err(Full), Ok(()), Err(Full))
        );
        assert_eq!(first.push('d', 50), Ok(()), "the other half is left");
        assert_eq!(second.push('e', 60), Ok(()));
        assert_eq!((inbox.next().await, inbox.next().await), (Some('b'), Some('d')));
        let third = budget.share([10, 0, 0, 3].into(), Disconnect::default());
        assert!(third.grow(100));
        assert_eq!((first.push_unreliable('f', 41), first.push_unreliable('g', 40)), (Err(Full), Ok(())));
    }

    #[tokio::test]
    async fn is_full_until_read() {
        let (outbox, mut inbox) = outbox(10, None);
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
