//! A part of a file as an image.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Mutex;

use crate::block::options::blockdev;
use crate::block::test_file::TestFile;
use crate::block::test_rig::Rig;
use crate::object::options::parse_dotted;

use super::*;

#[test]
fn a_part_is_read_and_written_at_its_place_and_nowhere_else() {
    let file = TestFile::in_directory(Path::new("/dev/shm"), b"", 8192);
    let path = file.path();
    let text =
        format!("raw,node-name=part,offset=1024,size=2048,file.driver=file,file.filename={path}");
    let node = blockdev(parse_dotted("driver", &text).unwrap()).unwrap();
    assert_eq!(node.length(), 2048);
    assert_eq!(
        node.set_length(4096).unwrap_err().to_string(),
        "Cannot resize fixed-size raw disks"
    );
    let rig = Rig::over(&node);
    let memory = Mutex::new(vec![9; 1024]);
    rig.submit([0, 1024, 1536, 2048], |channel, offset| {
        let mut request = channel.request(Op::Write, offset, offset);
        request.set_memory(&mut memory.lock().unwrap()[..]);
        request
    });
    rig.wait(|| rig.finished().len() == 4);
    let results: Vec<_> = rig.finished();
    for (offset, expected) in [
        (0, 0),
        (1024, 0),
        (1536, -libc::EINVAL),
        (2048, -libc::EINVAL),
    ] {
        assert!(results.contains(&(offset, expected)), "{results:?}");
    }
    let bytes = std::fs::read(path).unwrap();
    assert!(bytes[..1024].iter().all(|&byte| byte == 0));
    assert!(bytes[1024..3072].iter().all(|&byte| byte == 9));
    assert!(bytes[3072..].iter().all(|&byte| byte == 0));
    let behind = "raw,node-name=behind,offset=1024,file.driver=null-co,file.size=4096";
    let behind = blockdev(parse_dotted("driver", behind).unwrap()).unwrap();
    assert_eq!(behind.length(), 3072);
}
