//! Work on large inputs.
use tokio::runtime::{Handle, RuntimeFlavor};

/// Inputs of fewer bytes are worked on at once: to hand a thread's other tasks over takes longer.
const LARGE: usize = 64 << 10;

/// Does `work` on an input of so many bytes. The tasks that wait for this thread need not wait for a large one.
pub fn work_on<T>(input_bytes: usize, work: impl FnOnce() -> T) -> T {
    // A runtime of one thread, as tests have it, has nobody to hand them over to.
    let has_others = Handle::try_current().is_ok_and(|it| it.runtime_flavor() == RuntimeFlavor::MultiThread);
    if input_bytes < LARGE || !has_others {
        return work();
    }
    tokio::task::block_in_place(work)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn others_go_on_while_a_large_input_is_worked_on() {
        let (told, hears) = mpsc::channel();
        let large = tokio::spawn(async move {
            let (done, other) = (told, hears);
            tokio::spawn(async move { done.send(()) });
            work_on(LARGE, move || other.recv())
        });
        assert_eq!(large.await.expect("no panic"), Ok(()), "the other task has run");
    }

    #[tokio::test]
    async fn one_thread_does_it_itself() {
        assert_eq!(work_on(LARGE, || 1) + work_on(1, || 1), 2);
    }
}
