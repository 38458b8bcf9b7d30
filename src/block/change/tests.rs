//! Changes of the graph under drain: children, parents, permissions, all or nothing.
#![forbid(unsafe_code)]

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::block::request::Op;
use crate::block::test_file::TestFile;
use crate::block::test_rig::Rig;
use crate::block::{Access, Channel, Parent, Permissions, drain};
use crate::object::options::parse_dotted;

fn open(text: &str) -> Arc<Node> {
    Node::open_blockdev(parse_dotted("driver", text).unwrap()).unwrap()
}

/// A raw node over a file of its own, which begins with `start`.
fn raw(name: &str, start: u8) -> (Arc<Node>, TestFile) {
    let file = TestFile::new(&[start; 512], 1 << 20);
    let path = file.path();
    let text = format!("raw,node-name={name},file.driver=file,file.filename={path}");
    (open(&text), file)
}

/// Makes a change while the homes of these rigs go round.
fn make(change: GraphChange, rigs: &[&Rig]) -> Result<()> {
    let mut draining = drain(&change.nodes());
    let drained = loop {
        rigs.iter().for_each(|rig| rig.iterate(1));
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(drained) = Pin::new(&mut draining).poll(&mut context) {
            break drained;
        }
    };
    change.make(&drained)
}

fn reopen(text: &str, rigs: &[&Rig]) -> Result<()> {
    let options = parse_dotted("driver", text).unwrap();
    let options = crate::schema::check(&crate::block::BLOCKDEV_OPTIONS, options)?;
    let node = Node::find(options.peek("node-name").unwrap()).unwrap();
    let mut change = GraphChange::new();
    change.reopen(&node, options)?;
    make(change, rigs)
}

/// The first byte, through a channel that was there before.
fn first_byte(rig: &Rig) -> u8 {
    let mut memory = vec![0; 512];
    let before = rig.finished().len();
    let shared = std::sync::Mutex::new(&mut memory);
    rig.submit([0], |channel: &mut Channel, tag| {
        let mut request = channel.request(Op::Read, 0, tag);
        request.set_memory(&mut shared.lock().unwrap()[..]);
        request
    });
    rig.wait(|| rig.finished().len() > before);
    assert_eq!(rig.finished()[before].1, 0);
    memory[0]
}

fn writer() -> Access {
    Access {
        needs: Permissions::CONSISTENT_READ.and(Permissions::WRITE),
        shares: Permissions::ALL.without(Permissions::WRITE),
    }
}

#[test]
fn a_filter_gets_another_child_and_its_channels_follow() {
    let (one, _one) = raw("change-one", 1);
    let (two, _two) = raw("change-two", 2);
    let filter = open("blkdebug,node-name=change-filter,image=change-one");
    let rig = Rig::over(&filter);
    assert_eq!(first_byte(&rig), 1);
    let mut change = GraphChange::new();
    change.set_child(&filter, "image", Some(&two)).unwrap();
    make(change, &[&rig]).unwrap();
    assert_eq!(first_byte(&rig), 2);
    assert!(one.parents().is_empty());
    drop((rig, filter));
    for name in ["change-filter", "change-one", "change-two"] {
        Node::remove(name).unwrap();
    }
}

#[test]
fn devices_and_nodes_use_another_node_and_jobs_stay() {
    let (old, _old) = raw("change-old", 1);
    let (new, _new) = raw("change-new", 2);
    let above = open("raw,node-name=change-above,file=change-old");
    let (device, through) = (Rig::over(&old), Rig::over(&above));
    let job = old.attach(Parent::new("job", "copy"), Access::NEUTRAL);
    let job = job.unwrap();
    let mut change = GraphChange::new();
    change.replace(&old, &new).unwrap();
    make(change, &[&device, &through]).unwrap();
    assert_eq!((first_byte(&device), first_byte(&through)), (2, 2));
    assert_eq!(device.edge.node().name(), "change-new");
    let names: Vec<_> = old.parents().iter().map(Parent::to_string).collect();
    assert_eq!(names, ["job 'copy'"]);
    drop((job, device, through, above));
    Node::remove("change-above").unwrap();
    for name in ["change-old", "change-new"] {
        Node::remove(name).unwrap();
    }
}

#[test]
fn a_conflict_of_permissions_leaves_everything_as_it_was() {
    let (one, _one) = raw("change-free", 1);
    let (two, _two) = raw("change-taken", 2);
    let filter = open("blkdebug,node-name=change-refused,image=change-free");
    let taken = two.attach(Parent::new("device", "disk1"), writer());
    let taken = taken.unwrap();
    let writes = filter.attach(Parent::new("device", "disk0"), writer());
    let writes = writes.unwrap();
    let mut change = GraphChange::new();
    change.set_child(&filter, "image", Some(&two)).unwrap();
    let error = make(change, &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Permission conflict on node 'change-taken': permissions 'write' are both required by node 'change-refused' (uses node \
         'change-taken' as 'image' child) and unshared by device 'disk1' (uses node 'change-taken' as 'root' child)."
    );
    assert_eq!(filter.children()[0].name(), "change-free");
    assert_eq!(one.parents().len(), 1);
    assert_eq!(two.parents().len(), 1);
    drop(taken);
    let mut again = GraphChange::new();
    again.set_child(&filter, "image", Some(&two)).unwrap();
    make(again, &[]).unwrap();
    assert!(
        two.attach(Parent::new("device", "disk2"), writer())
            .is_err()
    );
    drop((writes, filter));
    for name in ["change-refused", "change-free", "change-taken"] {
        Node::remove(name).unwrap();
    }
}

#[test]
fn a_node_is_not_below_itself_and_needs_its_drain() {
    let (bottom, _file) = raw("change-bottom", 1);
    let top = open("raw,node-name=change-top,file=change-bottom");
    let mut change = GraphChange::new();
    let error = change.set_child(&bottom, "file", Some(&top)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Making 'change-top' a file child of 'change-bottom' would create a cycle"
    );
    change.set_child(&top, "file", Some(&bottom)).unwrap();
    let mut nothing = drain([]);
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(drained) = Pin::new(&mut nothing).poll(&mut context) else {
        panic!("nothing is not quiet");
    };
    assert!(change.make(&drained).is_err());
    drop(top);
    Node::remove("change-top").unwrap();
    Node::remove("change-bottom").unwrap();
}

#[test]
fn a_file_becomes_read_only_and_back_with_its_locks() {
    let file = TestFile::new(&[7; 512], 1 << 20);
    let path = file.path().to_owned();
    let node = open(&format!("file,node-name=change-locks,filename={path}"));
    let other = |options: &str| {
        let text = format!("file,filename={path},node-name=change-other,{options}");
        crate::block::options::blockdev(parse_dotted("driver", &text).unwrap())
    };
    let rig = Rig::over(&node);
    let again = format!("file,node-name=change-locks,filename={path}");
    let error = reopen(&format!("{again},read-only=on"), &[&rig]).unwrap_err();
    assert_eq!(error.to_string(), "Block node is read-only");
    assert!(other("read-only=on").is_err(), "it is written");
    drop(rig);
    reopen(&format!("{again},read-only=on"), &[]).unwrap();
    assert!(node.is_read_only());
    let reader = other("read-only=on").unwrap();
    let locked = reopen(&again, &[]).unwrap_err();
    assert!(locked.to_string().contains("lock"), "{locked}");
    assert!(node.is_read_only());
    // The refused attempt has left no lock.
    assert!(other("read-only=on").is_ok());
    drop(reader);
    reopen(&again, &[]).unwrap();
    assert!(other("read-only=on").is_err());
    assert_eq!(first_byte(&Rig::over(&node)), 7);
    Node::remove("change-locks").unwrap();
}
