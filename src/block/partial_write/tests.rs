//! Writes of parts of blocks beside writes of whole ones; which queues have the layer, and how long.
#![forbid(unsafe_code)]

use std::time::Instant;

use gsource::JoinHandle;

use super::*;
use crate::block::BlockBackend;
use crate::block::range_lock::RangeLock;
use crate::block::test_file::TestFile;
use crate::block::test_filter::{HELD, holding};
use crate::block::test_rig::Rig;
use crate::block::test_waker::{WakeCount, is_ready};
use crate::object::options::parse_dotted;

const SECTOR: usize = 512;

fn open(text: &str) -> Arc<Node> {
    Node::open_blockdev(parse_dotted("driver", text).unwrap()).unwrap()
}

/// A node of sectors over a file, in which writes of [`HELD`] wait for `hold`.
fn sectors(name: &str, hold: &Arc<RangeLock>) -> (Arc<Node>, TestFile) {
    let file = TestFile::new(b"", 1 << 20);
    let below = open(&format!("file,node-name={name},filename={}", file.path()));
    (holding(&below, hold), file)
}

/// Lets both homes go round until `condition` is true.
fn wait(rigs: [&Rig; 2], mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed().as_secs() < 60, "a request hangs");
        rigs.iter().for_each(|rig| rig.iterate(1));
    }
}

/// A guest's write, of whole sectors or not.
fn submit(rig: &Rig, tag: u64, offset: usize, bytes: &'static [u8]) {
    rig.submit([tag], |channel, tag| {
        let mut request = channel.request(Op::Write, offset as u64, tag);
        request.own(IoBuffer::copy_of(bytes));
        request
    });
}

fn result(rigs: [&Rig; 2], tag: u64) -> i32 {
    let find = || {
        let finished = rigs[0].finished();
        finished
            .iter()
            .find(|done| done.0 == tag)
            .map(|done| done.1)
    };
    wait(rigs, || find().is_some());
    find().unwrap()
}

/// A client's write.
fn start(rig: &Rig, backend: &BlockBackend, offset: u64, bytes: &[u8]) -> JoinHandle<()> {
    let (backend, bytes) = (backend.clone(), IoBuffer::copy_of(bytes));
    let work = async move { backend.write(offset, bytes, false).await.0.unwrap() };
    rig.aio.spawn_local(work).unwrap()
}

#[test]
fn a_guests_sector_is_written_before_or_after_the_cycle_around_it() {
    let hold: Arc<RangeLock> = Arc::default();
    let (node, file) = sectors("parts-cycle", &hold);
    let (guest, client) = (Rig::over(&node), Rig::over(&node));
    let rigs = [&guest, &client];
    let backend = client.backend();
    submit(&guest, 1, 0, &[HELD; SECTOR]);
    assert_eq!(result(rigs, 1), 0);

    let mut held = hold.ticket(0..1);
    assert!(is_ready(&mut held, &Arc::<WakeCount>::default()));
    let write = start(&client, &backend, 100, &[5; 100]);
    wait(rigs, || node.partial_writes().is_ordered());
    guest.iterate(10);
    client.iterate(10);
    // The cycle has read the sector and cannot write it.
    submit(&guest, 2, 0, &[1; SECTOR]);
    submit(&guest, 3, SECTOR, &[2; SECTOR]);
    assert_eq!(result(rigs, 3), 0, "a sector beside it is written");
    assert!(!write.is_finished() && guest.finished().len() == 2);
    drop(held);
    assert_eq!(result(rigs, 2), 0);
    wait(rigs, || write.is_finished());
    let image = std::fs::read(file.path()).unwrap();
    assert!(image[..SECTOR] == [1; SECTOR] && image[SECTOR..2 * SECTOR] == [2; SECTOR]);
}

#[test]
fn zeroes_of_parts_of_sectors_leave_the_rest() {
    let hold: Arc<RangeLock> = Arc::default();
    let (node, file) = sectors("parts-zeroes", &hold);
    let rig = Rig::over(&node);
    let backend = rig.backend();
    rig.run(async move {
        let data = IoBuffer::copy_of(&[7; 4 * SECTOR]);
        backend.write(0, data, false).await.0.unwrap();
        for (offset, length) in [(500, 1100), (1700, 10), (1800, 0)] {
            let zeroed = backend.write_zeroes(offset, length, true, false);
            zeroed.await.unwrap();
        }
    });
    let mut expected = [7; 4 * SECTOR];
    expected[500..1600].fill(0);
    expected[1700..1710].fill(0);
    assert!(std::fs::read(file.path()).unwrap()[..4 * SECTOR] == expected);
}

#[test]
fn queues_have_the_layer_while_someone_writes_parts() {
    let (node, _file) = sectors("parts-while", &Arc::default());
    let (guest, client) = (Rig::over(&node), Rig::over(&node));
    let rigs = [&guest, &client];
    let mut tag = 0;
    let mut guest_writes_a_byte = || {
        tag += 1;
        submit(&guest, tag, 100, &[1]);
        result(rigs, tag)
    };
    for _ in 0..2 {
        let backends = [client.backend(), client.backend()];
        let whole = start(&client, &backends[0], 512, &[1; SECTOR]);
        wait(rigs, || whole.is_finished());
        assert_eq!(guest_writes_a_byte(), -libc::EINVAL, "there is no layer");
        for backend in &backends {
            let part = start(&client, backend, 512, &[1; 100]);
            wait(rigs, || part.is_finished());
            assert_eq!(guest_writes_a_byte(), 0);
        }
        drop(backends);
        wait(rigs, || !node.partial_writes().is_ordered());
        guest.iterate(10);
        client.iterate(10);
        assert_eq!(guest_writes_a_byte(), -libc::EINVAL, "the layer stays");
    }
}

#[test]
fn filters_leave_parts_of_blocks_to_the_node_below() {
    let below = open("null-co,node-name=parts-below");
    let cases = [
        ("raw,file=parts-below", true),
        ("raw,offset=512,file=parts-below", true),
        ("raw,offset=512,detect-zeroes=on,file=parts-below", true),
        ("copy-on-read,file=parts-below", true),
        ("blkdebug,image=parts-below", true),
        ("blkdebug,align=1024,image=parts-below", false),
    ];
    for (text, is_below) in cases {
        let filter = open(&format!("{text},node-name=parts-filter"));
        let above = open("raw,node-name=parts-above,file=parts-filter");
        let rig = Rig::over(&above);
        let backend = rig.backend();
        let write = start(&rig, &backend, 100, &[1; 1000]);
        wait([&rig, &rig], || write.is_finished());
        assert_eq!(below.partial_writes().is_ordered(), is_below, "{text}");
        assert_eq!(filter.partial_writes().is_ordered(), !is_below, "{text}");
        assert!(!above.partial_writes().is_ordered(), "{text}");
        drop((write, backend));
        rig.iterate(10);
        assert!(!below.partial_writes().is_ordered(), "{text}");
        drop((rig, above, filter));
        Node::remove("parts-above").unwrap();
        Node::remove("parts-filter").unwrap();
    }
}
