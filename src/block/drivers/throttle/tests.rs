//! Requests that wait for their turn, on a loop.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::atomic::Ordering;

use crate::block::options::blockdev;
use crate::block::request::Op;
use crate::block::test_file::TestFile;
use crate::block::test_rig::Rig;
use crate::block::throttle::{Limits, ThrottleGroup};
use crate::object::options::parse_dotted;
use crate::{Error, ErrorKind};

fn group(name: &str, text: &str) -> std::sync::Arc<ThrottleGroup> {
    let mut keys = parse_dotted("x", &format!("x=1,{text}")).unwrap();
    let mut limits = Limits::default();
    limits.take(&mut keys, "").unwrap();
    ThrottleGroup::find_or_create(name, Some(limits)).unwrap()
}

fn rig(group: &str) -> Rig {
    let text = format!("driver=throttle,throttle-group={group},file.driver=null-co");
    Rig::new(("", &text)).unwrap()
}

fn read(rig: &Rig, tags: std::ops::Range<u64>) {
    rig.submit(tags, |channel, tag| {
        let mut request = channel.request(Op::Read, 0, tag);
        request.set_length(512);
        request
    });
}

#[test]
fn requests_wait_and_flushes_do_not() {
    let _group = group("waits", "iops-total=4,iops-total-max=1000");
    let rig = rig("waits");
    // A burst of 1000, and one that finds the bucket exactly full.
    read(&rig, 0..1002);
    assert_eq!(rig.finished().len(), 1001);
    rig.flush([2000]);
    assert_eq!(rig.finished().last(), Some(&(2000, 0)));
    rig.wait(|| rig.finished().len() == 1003);
}

#[test]
fn drain_takes_no_longer_than_the_data() {
    // Ten years for the queue.
    let _group = group("drained", "bps-total=1");
    let rig = rig("drained");
    read(&rig, 0..300);
    assert_eq!(rig.finished().len(), 1);
    let (drained, calls) = rig.drain();
    rig.wait(|| calls.load(Ordering::Relaxed) == 1);
    assert_eq!(rig.finished().len(), 300);
    drop(drained);
    rig.iterate(2);
    read(&rig, 300..301);
    assert_eq!(rig.finished().len(), 300, "the drained requests count");
    rig.with(|channel| channel.set_hurried(true));
    rig.wait(|| rig.finished().len() == 301);
}

#[test]
fn node_that_goes_leaves_the_others_their_turn() {
    let kept = group("left", "bps-total=1");
    let (here, there) = (rig("left"), rig("left"));
    read(&here, 0..1);
    read(&here, 1..2);
    read(&there, 2..3);
    assert_eq!((here.finished().len(), there.finished().len()), (1, 0));
    // `here` sleeps for both. Its channel goes only when it is quiet.
    let (drained, calls) = here.drain();
    here.wait(|| calls.load(Ordering::Relaxed) == 1);
    drop((drained, here));
    kept.set_limits(Limits::default());
    there.wait(|| there.finished().len() == 1);
}

#[test]
fn group_must_exist() {
    let text = "driver=throttle,node-name=n,throttle-group=nosuch,file.driver=null-co";
    let error: Error = blockdev(parse_dotted("driver", text).unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.to_string(), "Throttle group 'nosuch' does not exist");
}

#[test]
fn node_shows_the_file_below() {
    let _group = group("shown", "");
    let file = TestFile::in_directory(Path::new("/var/tmp"), b"", 1 << 20);
    let text = format!(
        "driver=throttle,node-name=shown,throttle-group=shown,file.driver=file,file.filename={}",
        file.path()
    );
    let node = blockdev(parse_dotted("driver", &text).unwrap()).unwrap();
    assert_eq!(node.filename().as_deref(), Some(file.path()));
    assert!(node.allocated().is_some());
}
