//! What one connection takes of a memory that all connections share. A little is everybody's own: what most need costs
//! no look at what is shared.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::service::CallError;

/// Up to here nothing shared is taken.
pub(super) const OWN_BYTES: usize = 64 << 10;

/// What so many bytes take of what is shared: all of them, or nothing.
pub(super) fn shared_kib(bytes: usize) -> usize {
    if bytes <= OWN_BYTES { 0 } else { bytes.div_ceil(1024) }
}

/// Given back when it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    /// In KiB, as a permit counts no further than `u32`.
    shared: Arc<Semaphore>,
    taken: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// None of `shared` yet, which has a permit for each KiB.
    pub(super) fn new(shared: Arc<Semaphore>) -> Room {
        Room { shared, taken: None }
    }

    /// Makes it at least so large. Who finds none left tries again later; what was taken before stays.
    pub(super) fn grow_to(&mut self, bytes: usize) -> Result<(), CallError> {
        if bytes <= OWN_BYTES {
            return Ok(());
        }
        let more = shared_kib(bytes).saturating_sub(self.taken_kib());
        let found =
            u32::try_from(more).ok().and_then(|kib| self.shared.clone().try_acquire_many_owned(kib).ok());
        let found = found.ok_or_else(|| CallError::RetryLater(format!("no room for {bytes} bytes")))?;
        match &mut self.taken {
            Some(taken) => taken.merge(found),
            None => self.taken = Some(found),
        }
        Ok(())
    }

    /// Gives back what is beyond.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        if bytes <= OWN_BYTES {
            self.taken = None;
        } else if let Some(taken) = &mut self.taken {
            drop(taken.split(taken.num_permits().saturating_sub(shared_kib(bytes))));
        }
    }

    fn taken_kib(&self) -> usize {
        self.taken.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_follows_what_is_needed() {
        let shared = Arc::new(Semaphore::new(1024));
        let (mut one, mut other) = (Room::new(shared.clone()), Room::new(shared.clone()));
        let steps =
            [(OWN_BYTES, 1024), (OWN_BYTES + 1, 959), (100 << 10, 924), (70 << 10, 924), (1000 << 10, 24)];
        for (bytes, left) in steps {
            one.grow_to(bytes).expect("room");
            assert_eq!(shared.available_permits(), left, "{bytes}");
        }
        other.grow_to(OWN_BYTES).expect("its own");
        let full = other.grow_to(OWN_BYTES + 1).expect_err("the other has it");
        assert!(matches!(full, CallError::RetryLater(_)));
        assert!(matches!(one.grow_to(usize::MAX), Err(CallError::RetryLater(_))));
        one.shrink_to(2000 << 10);
        assert_eq!(shared.available_permits(), 24);
        one.shrink_to(500 << 10);
        assert_eq!(shared.available_permits(), 524);
        other.grow_to(500 << 10).expect("room again");
        one.shrink_to(OWN_BYTES);
        drop(other);
        assert_eq!(shared.available_permits(), 1024);
    }
}
