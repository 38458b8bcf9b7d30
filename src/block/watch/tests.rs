//! Writes of zeroes become holes, and the first write beyond the threshold is reported.
#![forbid(unsafe_code)]

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;

use crate::block::options::blockdev;
use crate::block::request::Op;
use crate::block::test_file::TestFile;
use crate::block::test_rig::Rig;
use crate::object::options::parse_dotted;

use super::*;

const UNIT: usize = 4096;

/// Writes blocks at these numbers; `byte` is in the first byte of each, the rest is zero.
fn write(rig: &Rig, numbers: std::ops::Range<u64>, byte: u8) {
    let mut memory = vec![0; UNIT];
    memory[0] = byte;
    let shared = Mutex::new(&mut memory);
    let before = rig.finished().len();
    let count = usize::try_from(numbers.end - numbers.start).unwrap();
    rig.submit(numbers, |channel, tag| {
        let mut request = channel.request(Op::Write, tag * UNIT as u64, tag);
        request.set_memory(&mut shared.lock().unwrap()[..]);
        request
    });
    rig.wait(|| rig.finished().len() == before + count);
    assert!(rig.finished().iter().all(|&(_, result)| result == 0));
}

#[test]
fn zeroes_are_found_and_take_no_space() {
    for (options, has_space) in [
        ("detect-zeroes=off", true),
        ("detect-zeroes=on", true),
        ("detect-zeroes=unmap,discard=unmap", false),
    ] {
        let file = TestFile::in_directory(Path::new("/var/tmp"), b"", 1 << 20);
        let path = file.path();
        let text = format!("file,node-name=zeroes,filename={path},{options}");
        let node = blockdev(parse_dotted("driver", &text).unwrap()).unwrap();
        let rig = Rig::over(&node);
        write(&rig, 0..64, 0);
        let space = || std::fs::metadata(path).unwrap().blocks() * 512;
        assert_eq!(space() > 0, has_space, "{options}");
        write(&rig, 0..64, 7);
        let full = space();
        assert!(full >= 64 * UNIT as u64, "{options}");
        assert_eq!(std::fs::read(path).unwrap()[..2], [7, 0], "{options}");
        write(&rig, 0..64, 0);
        assert_eq!(space() < full, !has_space, "{options}");
        assert!(std::fs::read(path).unwrap().iter().all(|&byte| byte == 0));
    }
}

#[test]
fn the_first_write_beyond_the_threshold_is_reported_once() {
    let node = blockdev(parse_dotted("driver", "null-co,node-name=threshold").unwrap()).unwrap();
    let reports: Arc<Mutex<Vec<_>>> = Arc::default();
    let set = |offset| {
        let kept = Arc::clone(&reports);
        let exceeded = move |beyond, from| kept.lock().unwrap().push((beyond, from));
        node.write_threshold().set(offset, Arc::new(exceeded));
    };
    set(8192);
    let rig = Rig::over(&node);
    write(&rig, 0..2, 1);
    assert_eq!(*reports.lock().unwrap(), []);
    write(&rig, 3..5, 1);
    write(&rig, 5..6, 1);
    assert_eq!(*reports.lock().unwrap(), [(8192, 8192)]);
    assert_eq!(node.write_threshold().get(), 0);
    set(4096);
    write(&rig, 0..3, 1);
    assert_eq!(*reports.lock().unwrap(), [(8192, 8192), (4096, 4096)]);
}
