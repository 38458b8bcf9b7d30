//! The orders of real front ends.
#![forbid(unsafe_code)]

use super::*;

/// QEMU 10 with CONFIGURE_MEM_SLOTS, two queues: connect, start, stop, start again.
#[test]
fn qemu_10_sequence() {
    let mut bench = Bench::new(2);
    bench.get(RequestCode::GetFeatures);
    bench.get(RequestCode::GetProtocolFeatures);
    bench.ok(RequestCode::SetProtocolFeatures, &words(&[0x8229]));
    bench.get(RequestCode::GetQueueNum);
    bench.get(RequestCode::GetMaxMemSlots);
    let _channel = config::with_backend_channel(&mut bench);
    bench.ok(RequestCode::SetOwner, &[]);
    bench.get(RequestCode::GetFeatures);
    for queue in 0..2 {
        bench.ok_fd(RequestCode::SetVringCall, &words(&[queue]), eventfd());
        bench.ok_fd(RequestCode::SetVringErr, &words(&[queue]), eventfd());
    }
    let mut window = pair(0, 57);
    window.extend([0; 4 + 57]);
    bench.ok(RequestCode::GetConfig, &window);
    assert_eq!(bench.reply(RequestCode::GetConfig).len(), 12 + 57);
    qemu_start(&mut bench, true, 0);
    assert_eq!(
        bench.device.calls(),
        [started(0, 0, F_VERSION_1, 1), started(1, 0, F_VERSION_1, 1)]
    );
    qemu_stop(&mut bench);
    qemu_start(&mut bench, false, 17);
    assert_eq!(
        bench.device.calls(),
        [
            started(0, 17, F_VERSION_1, 1),
            started(1, 17, F_VERSION_1, 1)
        ]
    );
}

fn qemu_start(bench: &mut Bench, first: bool, base: u32) {
    bench.ok(RequestCode::SetFeatures, &words(&[FEATURES]));
    for queue in 0..2 {
        bench.ok_fd(RequestCode::SetVringCall, &words(&[queue]), eventfd());
    }
    bench.ok(RequestCode::SetFeatures, &words(&[FEATURES]));
    if first {
        assert_eq!(
            bench.acked(RequestCode::AddMemReg, &ram(0), vec![memfd(RAM)]),
            0
        );
    }
    for queue in 0..2 {
        bench.describe(queue, base);
    }
    assert_eq!(bench.device.calls(), []);
    for queue in 0..2 {
        assert_eq!(
            bench.acked(RequestCode::SetVringEnable, &pair(queue, 1), Vec::new()),
            0
        );
    }
}

fn qemu_stop(bench: &mut Bench) {
    for queue in 0..2 {
        let disable = message(
            RequestCode::SetVringEnable,
            true,
            &pair(queue, 0),
            Vec::new(),
        );
        bench.try_send(disable).unwrap();
        assert!(bench.session.is_waiting());
        assert_eq!(bench.out, []);
        bench.finish_stops(17);
        assert_eq!(bench.u64_reply(RequestCode::SetVringEnable), 0);
    }
    for queue in 0..2 {
        bench.ok(RequestCode::GetVringBase, &pair(queue, 0));
        assert_eq!(bench.reply(RequestCode::GetVringBase), pair(queue, 17));
    }
    assert_eq!(bench.device.calls(), [Asked::Stop(0), Asked::Stop(1)]);
}

/// SeaBIOS: only queue 0 is set up, but all are enabled; then the guest's own driver starts over.
#[test]
fn seabios_then_linux() {
    let mut bench = Bench::negotiated(2);
    bench.describe(0, 0);
    bench.ok(RequestCode::SetVringEnable, &pair(0, 1));
    bench.ok(RequestCode::SetVringEnable, &pair(1, 1));
    assert_eq!(bench.device.calls(), [started(0, 0, F_VERSION_1, 1)]);
    bench.ok(RequestCode::GetVringBase, &pair(0, 0));
    assert!(bench.session.is_waiting());
    bench.finish_stops(3);
    assert_eq!(bench.reply(RequestCode::GetVringBase), pair(0, 3));
    assert_eq!(bench.device.calls(), [Asked::Stop(0)]);
    bench.ok(RequestCode::SetFeatures, &words(&[FEATURES]));
    bench.describe(0, 0);
    bench.describe(1, 0);
    bench.ok(RequestCode::SetVringEnable, &pair(0, 1));
    bench.ok(RequestCode::SetVringEnable, &pair(1, 1));
    assert_eq!(
        bench.device.calls(),
        [started(0, 0, F_VERSION_1, 1), started(1, 0, F_VERSION_1, 1)]
    );
}

/// QEMU without CONFIGURE_MEM_SLOTS: the whole table at once, again with one more region.
#[test]
fn memory_table_replaces_memory_and_restarts_running_queues() {
    let mut bench = Bench::negotiated(1);
    let table = |slots: u64| {
        let mut payload = pair(u32::try_from(slots).unwrap(), 0);
        (0..slots).for_each(|slot| payload.extend(&ram(slot)[8..]));
        payload
    };
    assert_eq!(
        bench.acked(RequestCode::SetMemTable, &table(1), vec![memfd(RAM)]),
        0
    );
    bench.describe(0, 5);
    bench.ok(RequestCode::SetVringEnable, &pair(0, 1));
    assert_eq!(bench.device.calls(), [started(0, 5, F_VERSION_1, 1)]);
    let two = vec![memfd(RAM), memfd(RAM)];
    bench
        .try_send(message(RequestCode::SetMemTable, true, &table(2), two))
        .unwrap();
    assert!(bench.session.is_waiting());
    bench.finish_stops(9);
    assert_eq!(bench.u64_reply(RequestCode::SetMemTable), 0);
    assert_eq!(
        bench.device.calls(),
        [Asked::Stop(0), started(0, 9, F_VERSION_1, 2)]
    );
}

/// virtio-driver: features before protocol features, NEED_REPLY on everything after, memory added while queues run.
#[test]
fn virtio_driver_sequence() {
    let mut bench = Bench::new(1);
    bench.ok(RequestCode::SetOwner, &[]);
    bench.get(RequestCode::GetFeatures);
    bench.ok(RequestCode::SetFeatures, &words(&[FEATURES]));
    bench.get(RequestCode::GetProtocolFeatures);
    bench.ok(RequestCode::SetProtocolFeatures, &words(&[0x8209]));
    assert_eq!(bench.acked(RequestCode::GetQueueNum, &[], Vec::new()), 1);
    assert_eq!(
        bench.acked(RequestCode::GetMaxMemSlots, &[], Vec::new()),
        509
    );
    let odd = words(&[0, DESC & !0xffff, 0xf780, DESC & !0xffff, 0]);
    assert_eq!(
        bench.acked(RequestCode::AddMemReg, &odd, vec![memfd(0xf780)]),
        0
    );
    for (request, payload, fd) in [
        (RequestCode::SetVringNum, pair(0, 128), None),
        (RequestCode::SetVringBase, pair(0, 0), None),
        (RequestCode::SetVringAddr, addr(0, DESC, USED, AVAIL), None),
        (RequestCode::SetVringKick, words(&[0]), Some(eventfd())),
        (RequestCode::SetVringCall, words(&[0]), Some(eventfd())),
        (RequestCode::SetVringEnable, pair(0, 1), None),
    ] {
        assert_eq!(bench.acked(request, &payload, fd.into_iter().collect()), 0);
    }
    assert_eq!(bench.device.calls().len(), 1);
    let data = words(&[0, 0x1000, 512, 0x1000, 0]);
    bench
        .try_send(message(
            RequestCode::AddMemReg,
            true,
            &data,
            vec![memfd(512)],
        ))
        .unwrap();
    bench.finish_stops(4);
    assert_eq!(bench.u64_reply(RequestCode::AddMemReg), 0);
    assert_eq!(bench.device.calls().len(), 2);
}

/// QEMU's network front end enables rings before it acknowledges features, and repeats it.
#[test]
fn enable_before_features_is_kept() {
    let mut bench = Bench::new(2);
    bench.ok(RequestCode::SetVringEnable, &pair(0, 1));
    bench.ok(RequestCode::SetFeatures, &words(&[FEATURES]));
    bench.ok_fd(RequestCode::AddMemReg, &ram(0), memfd(RAM));
    bench.describe(0, 0);
    bench.ok(RequestCode::SetVringEnable, &pair(0, 1));
    assert_eq!(bench.device.calls(), [started(0, 0, F_VERSION_1, 1)]);
}
