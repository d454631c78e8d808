//! A connection's bytes, in pieces: decoding ends, what was decoded encodes to what was read, memory follows what
//! arrived; and how the bytes were cut into pieces makes no difference.
#![no_main]

use bellows_fuzz::Session;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&piece, stream)) = data.split_first() else { return };
    let taken_in = |bytes: usize| {
        let mut session = Session::default();
        stream.chunks(bytes).try_fold(0, |count, piece| Some(count + session.take(piece)?))
    };
    let in_pieces = taken_in(usize::from(piece).max(1));
    assert_eq!(in_pieces, taken_in(usize::MAX));
});
