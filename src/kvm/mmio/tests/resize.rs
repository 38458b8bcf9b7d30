//! A disk that gets longer, from its node to the driver's interrupt.
#![forbid(unsafe_code)]

use gsource::AioContext;

use super::rig::Panel;
use super::{AGREED, BusDevice, READY};
use crate::block::Node;
use crate::object::options;
use crate::virtio::F_VERSION_1;
use crate::virtio::blk::{Blk, BlockSizes};
use crate::virtio::memory::GuestMemory;

use std::sync::Arc;

const CONFIG_SPACE: u64 = 0x100;

/// The size in sectors, as the driver reads it.
fn capacity(panel: &Panel) -> u64 {
    let mut bytes = [0; 8];
    panel.mmio.read(CONFIG_SPACE, &mut bytes);
    u64::from_le_bytes(bytes)
}

#[test]
fn driver_of_a_disk_that_grows_is_interrupted_and_reads_the_new_size() {
    let described = options::parse_dotted("driver", "null-co,node-name=mmio-grows,size=1M");
    let node = Node::open_blockdev(described.unwrap()).unwrap();
    let [control, first, second] = [(); 3].map(|()| AioContext::new().unwrap());
    let disk = Blk::new(
        "disk0",
        &node,
        vec![first, second],
        "serial",
        BlockSizes::default(),
    )
    .unwrap();
    let panel = Panel::new(Arc::new(disk), GuestMemory::new(), &control);
    panel.agree(F_VERSION_1);
    panel.write(0x70, READY);
    assert_eq!((panel.status() & AGREED, capacity(&panel)), (AGREED, 2048));
    assert_eq!((panel.read(0x60), panel.interrupts()), (0, 0));
    node.set_length(2 << 20).unwrap();
    // Bit 1: the configuration has changed.
    assert_eq!((panel.read(0x60), panel.interrupts()), (2, 1));
    assert_eq!(capacity(&panel), 4096);
    drop(panel);
    Node::remove("mmio-grows").unwrap();
}
