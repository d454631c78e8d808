//! Bodies within bounds: a request's, of which no more is held than there is memory for, and an answer's, which must be
//! read.

use crate::{budget::Share, places::UnderWay};
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use hyper::body::{Body as _, Frame, SizeHint};
use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// Longest time for a request's body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest pause between two parts of a request's body.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(15);

/// Why a body was not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("The body is longer than {0} bytes")]
    TooLong(usize),
    #[error("The body did not arrive in time")]
    TooSlow,
    #[error("There is no memory left for this body: try again")]
    NoRoom,
    #[error("Failed to read the body: {0}")]
    Broken(axum::Error),
}

/// Reads all of `body`, whose memory is `share`'s as long as that lives.
pub async fn read_body(mut body: Body, max_bytes: usize, share: &Share) -> Result<Bytes, BodyError> {
    let all = async {
        if body.size_hint().lower() > max_bytes as u64 {
            return Err(BodyError::TooLong(max_bytes));
        }
        let mut whole = BytesMut::new();
        loop {
            let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
            let Some(frame) = timeout(PAUSE_TIMEOUT, frame).await.map_err(|_| BodyError::TooSlow)? else {
                return Ok(whole.freeze());
            };
            let Ok(data) = frame.map_err(BodyError::Broken)?.into_data() else { continue };
            if whole.len() + data.len() > max_bytes {
                return Err(BodyError::TooLong(max_bytes));
            }
            if !share.grow(data.len()) {
                return Err(BodyError::NoRoom);
            }
            whole.extend_from_slice(&data);
        }
    };
    timeout(BODY_TIMEOUT, all).await.map_err(|_| BodyError::TooSlow)?
}

/// Makes an answer of `bytes`, whose memory is `share`'s until the last of them has left.
pub fn shared_body(bytes: Bytes, share: Share) -> Body {
    Body::new(Held { bytes, share })
}

struct Held {
    bytes: Bytes,
    share: Share,
}

impl hyper::body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.share.moves();
        let length = self.bytes.len().min(PART);
        Poll::Ready((length > 0).then(|| Ok(Frame::data(self.bytes.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

/// A whole answer leaves in such parts, each of which must be taken in time.
const PART: usize = 64 << 10;

/// When each answer of one connection handed out something that is not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Untaken(Mutex<HashMap<u64, Instant>>);

impl Untaken {
    /// Returns the age of the oldest part that is not taken.
    pub(crate) fn longest(&self) -> Option<Duration> {
        self.lock().values().map(Instant::elapsed).max()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer on its way.
pub(crate) struct Answer {
    body: Body,
    /// A whole body is cut into parts; of a stream each part is one, for clients that take it for a record.
    is_whole: bool,
    rest: Bytes,
    /// A part was handed out, and nobody has asked for more yet.
    is_handed_out: bool,
    number: u64,
    untaken: Arc<Untaken>,
    _under_way: UnderWay,
}

impl Answer {
    pub(crate) fn new(body: Body, number: u64, untaken: Arc<Untaken>, under_way: UnderWay) -> Self {
        let is_whole = body.size_hint().exact().is_some();
        Self {
            body,
            is_whole,
            rest: Bytes::new(),
            is_handed_out: false,
            number,
            untaken,
            _under_way: under_way,
        }
    }
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // Who asks for more has taken what there was.
        self.untaken.lock().remove(&self.number);
        self.is_handed_out = false;
        if self.rest.is_empty() {
            let frame = match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => frame,
                other => return other,
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        let length = if self.is_whole { self.rest.len().min(PART) } else { self.rest.len() };
        let part = self.rest.split_to(length);
        self.untaken.lock().insert(self.number, Instant::now());
        self.is_handed_out = true;
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        // The last part, too, must be taken: whoever is told of the end along with it asks for nothing more.
        !self.is_handed_out && self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let rest = self.rest.len() as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.untaken.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Disconnect, places::Places};
    use std::task::Waker;

    #[test]
    fn the_last_part_of_an_answer_must_be_taken_too() {
        let place = Places::new(1).take([127, 0, 0, 1].into(), Disconnect::default()).expect("free");
        let untaken = Arc::new(Untaken::default());
        let answer = |bytes| Answer::new(Body::from(bytes), 0, Arc::clone(&untaken), place.request());
        assert!(answer(Vec::new()).is_end_stream(), "there is nothing to take");
        let mut answer = answer(vec![0; PART + 1]);
        let mut next = || {
            let frame = Pin::new(&mut answer).poll_frame(&mut Context::from_waker(Waker::noop()));
            let Poll::Ready(frame) = frame else { panic!("nothing waits") };
            let bytes = frame.map(|frame| frame.expect("whole").into_data().expect("no trailers").len());
            (bytes, answer.is_end_stream(), untaken.longest().is_some())
        };
        assert_eq!(next(), (Some(PART), false, true));
        assert_eq!(next(), (Some(1), false, true));
        assert_eq!(next(), (None, true, false));
    }
}
