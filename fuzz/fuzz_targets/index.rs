//! An index file as an executor may have left it: offsets within the data, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((data_bytes, raw)) = data.split_first_chunk::<8>() else { return };
    let data_bytes = u64::from_be_bytes(*data_bytes);
    if let Some(offsets) = bellows_shuffle::fuzzing::index_offsets(raw, data_bytes) {
        assert!(offsets.is_sorted() && offsets[0] == 0 && offsets.iter().all(|&offset| offset <= data_bytes));
    }
});
