//! An index file as an executor may have left it, beside a data file of some length: a block is a part of the data or
//! refused, whether the index is kept in memory or read block by block.
#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::LazyLock;

use bellows_shuffle::fuzzing::{Output, index_offsets, path};
use libfuzzer_sys::fuzz_target;

struct Files {
    dir: PathBuf,
    index: File,
    data: File,
}

static FILES: LazyLock<Files> = LazyLock::new(|| {
    // In memory where there is such a place: the data is a hole of up to a terabyte.
    let base = PathBuf::from("/dev/shm");
    let base = if base.is_dir() { base } else { std::env::temp_dir() };
    let dir = base.join(format!("bellows-fuzz-index-{}", std::process::id()));
    let file = |name: &str| {
        let path = path(&dir, name);
        std::fs::create_dir_all(path.parent().expect("in a directory")).expect("made");
        File::create(path).expect("made")
    };
    let (index, data) = (file("shuffle_0_0_0.index"), file("shuffle_0_0_0.data"));
    Files { dir, index, data }
});

fuzz_target!(|data: &[u8]| {
    let Some((data_bytes, rest)) = data.split_first_chunk::<8>() else { return };
    let Some((range, raw)) = rest.split_first_chunk::<8>() else { return };
    let data_bytes = u64::from_be_bytes(*data_bytes) % (1 << 40);
    let sound = index_offsets(raw, data_bytes);
    if let Some(offsets) = &sound {
        assert!(offsets.is_sorted() && offsets[0] == 0 && offsets.iter().all(|&offset| offset <= data_bytes));
    }
    let files = &*FILES;
    files.index.set_len(raw.len() as u64).expect("resized");
    files.index.write_all_at(raw, 0).expect("written");
    files.data.set_len(data_bytes).expect("resized");

    let (start, end) = range.split_at(4);
    let given = [start, end].map(|part| i32::from_be_bytes(part.try_into().expect("4 bytes")));
    let last = (raw.len() / 8) as i32 - 1;
    let ranges = [
        given,
        [0, last],
        [last - 1, last],
        [0, last + 1],
        [-1, 0],
        [last, last],
        [i32::MAX; 2],
        [i32::MIN, 0],
    ];
    let [kept, on_disk] = [u64::MAX, 0].map(|max_kept_bytes| Output::open(&files.dir, max_kept_bytes));
    assert_eq!(kept.is_some(), sound.is_some(), "an unsound index is not kept");
    for [start, end] in ranges {
        let [kept, on_disk] = [&kept, &on_disk].map(|output| output.as_ref()?.partitions(start, end));
        for part in [&kept, &on_disk].into_iter().flatten() {
            assert!(
                part.end <= data_bytes && part.start <= part.end && 0 <= start && start <= end && end <= last
            );
        }
        assert!(sound.is_none() || kept == on_disk);
    }
});
