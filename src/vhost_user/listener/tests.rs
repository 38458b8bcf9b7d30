//! One socket, one front end at a time, and how both go.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use gsource::Wait;
use virtio_driver::ScmSocket;

use super::super::fake::{Asked, FakeDevice, bytes, eventfd, memfd, pair, words};
use super::super::protocol::RequestCode;
use super::*;
use crate::ErrorKind;

const DEADLINE: Duration = Duration::from_secs(20);

/// A directory of its own, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("qcontext-listener-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("disk0.sock")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Bench {
    dir: Dir,
    aio: AioContext,
    device: Arc<FakeDevice>,
    listener: Listener,
}

impl Bench {
    fn new() -> Bench {
        let (dir, aio) = (Dir::new(), AioContext::new().unwrap());
        let device = Arc::new(FakeDevice::new(1));
        let listener = Listener::new("disk0", &dir.socket(), &aio, device.offered()).unwrap();
        Bench {
            dir,
            aio,
            device,
            listener,
        }
    }

    fn connect(&self) -> UnixStream {
        let client = UnixStream::connect(self.dir.socket()).unwrap();
        client.set_nonblocking(true).unwrap();
        client
    }

    /// Drives the context until `done`.
    fn until(&self, mut done: impl FnMut() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < DEADLINE, "nothing happened in time");
            self.aio.poll(Wait::NoBlock).unwrap();
        }
    }

    /// Receives exactly `size` bytes.
    fn receive(&self, client: &UnixStream, size: usize) -> Vec<u8> {
        let mut got = Vec::new();
        self.until(|| {
            let mut chunk = [0; 512];
            if let Ok(count) = (&*client).read(&mut chunk) {
                got.extend_from_slice(&chunk[..count]);
            }
            got.len() >= size
        });
        assert_eq!(got.len(), size);
        got
    }

    fn send(&self, client: &UnixStream, request: RequestCode, payload: &[u8], fd: Option<OwnedFd>) {
        let data = bytes(request as u32, false, payload);
        let fds: Vec<_> = fd.iter().map(AsRawFd::as_raw_fd).collect();
        let sent = client
            .send_with_fds(&[io::IoSlice::new(&data)], &fds)
            .unwrap();
        assert_eq!(sent, data.len());
    }

    /// Features as the last sign that everything sent before was handled.
    fn features(&self, client: &UnixStream) -> u64 {
        self.send(client, RequestCode::GetFeatures, &[], None);
        let reply = self.receive(client, 20);
        u64::from_le_bytes(reply[12..].try_into().unwrap())
    }

    /// A client whose queue runs.
    fn running(&self) -> UnixStream {
        let client = self.connect();
        self.describe_queue(&client);
        self.features(&client);
        assert_eq!(self.device.calls().len(), 1);
        client
    }

    /// Sends all that queue 0 needs to start.
    fn describe_queue(&self, client: &UnixStream) {
        self.send(client, RequestCode::SetFeatures, &words(&[1 << 32]), None);
        let region = words(&[0, 0, 0x10000, 0, 0]);
        self.send(
            client,
            RequestCode::AddMemReg,
            &region,
            Some(memfd(0x10000)),
        );
        self.send(client, RequestCode::SetVringNum, &pair(0, 64), None);
        let mut addr = pair(0, 0);
        addr.extend(words(&[0x1000, 0x2000, 0x3000, 0]));
        self.send(client, RequestCode::SetVringAddr, &addr, None);
        self.send(
            client,
            RequestCode::SetVringKick,
            &words(&[0]),
            Some(eventfd()),
        );
    }

    fn is_closed(&self, client: &UnixStream) -> bool {
        matches!((&*client).read(&mut [0; 64]), Ok(0))
    }
}

#[test]
fn front_end_is_answered() {
    let bench = Bench::new();
    let client = bench.connect();
    assert_eq!(bench.features(&client), bench.device.features | 1 << 30);
    assert!(bench.listener.is_connected());
}

#[test]
fn busy_socket_is_an_error_that_names_device_and_path() {
    let bench = Bench::new();
    let path = bench.dir.socket();
    let device = bench.device.offered();
    let error = Listener::new("disk1", &path, &bench.aio, device).unwrap_err();
    let expected = format!(
        "device 'disk1': vhost-user='{}' is in use: another server listens there",
        path.display()
    );
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.kind(), ErrorKind::Busy);
    bench.features(&bench.connect());
}

#[test]
fn socket_goes_with_the_listener() {
    let bench = Bench::new();
    let path = bench.dir.socket();
    drop(bench.listener);
    assert!(!path.exists());
}

#[test]
fn next_front_end_is_served_when_the_first_has_gone_and_its_queue_has_stopped() {
    let bench = Bench::new();
    let first = bench.running();
    let second = bench.connect();
    bench.send(&second, RequestCode::GetFeatures, &[], None);
    drop(first);
    bench.until(|| bench.device.calls() == [Asked::Stop(0)]);
    (0..50).for_each(|_| {
        bench.aio.poll(Wait::NoBlock).unwrap();
    });
    assert!((&second).read(&mut [0; 64]).is_err());
    assert!(bench.device.finish_stops(3));
    assert_eq!(bench.receive(&second, 20).len(), 20);
}

#[test]
fn messages_behind_a_queue_stop_wait_for_it() {
    let bench = Bench::new();
    let client = bench.running();
    bench.send(&client, RequestCode::GetVringBase, &pair(0, 0), None);
    bench.send(&client, RequestCode::GetFeatures, &[], None);
    bench.until(|| bench.device.calls() == [Asked::Stop(0)]);
    (0..50).for_each(|_| {
        bench.aio.poll(Wait::NoBlock).unwrap();
    });
    assert!((&client).read(&mut [0; 64]).is_err());
    bench.device.finish_stops(77);
    let replies = bench.receive(&client, 40);
    assert_eq!(replies[12..20], pair(0, 77));
    assert_eq!(replies[20], 1);
}

#[test]
fn refused_message_closes_the_connection_and_the_next_is_served() {
    let bench = Bench::new();
    for garbage in [
        bytes(2, false, &[0; 7]),
        bytes(99, false, &[]),
        bytes(2, false, &u64::MAX.to_le_bytes()),
        vec![0xff; 64],
    ] {
        let client = bench.connect();
        (&client).write_all(&garbage).unwrap();
        bench.until(|| bench.is_closed(&client));
    }
    bench.features(&bench.connect());
}

#[test]
fn refused_message_and_failed_connection_are_reported_with_their_reason() {
    let bench = Bench::new();
    let client = bench.connect();
    let bits = words(&[1 << 3]);
    bench.send(&client, RequestCode::SetProtocolFeatures, &bits, None);
    let unknown = u64::MAX.to_le_bytes();
    (&client).write_all(&bytes(2, true, &unknown)).unwrap();
    assert_eq!(bench.receive(&client, 20)[12], 1);
    let what = "SetFeatures acknowledges 0xfffffffe8efffdb9, which we do not offer";
    assert_eq!(
        bench.device.faults(),
        [format!("vhost-user: refused a message: {what}")]
    );
    (&client).write_all(&bytes(2, false, &unknown)).unwrap();
    bench.until(|| bench.is_closed(&client));
    assert_eq!(
        bench.device.faults(),
        [format!("vhost-user: ended the connection: {what}")]
    );
}

#[test]
fn queue_that_the_host_refuses_to_start_is_reported_with_its_index() {
    let bench = Bench::new();
    bench.device.refuse_start(true);
    let client = bench.connect();
    bench.describe_queue(&client);
    bench.until(|| bench.is_closed(&client));
    let reason = "queue 0 cannot start: refused";
    assert_eq!(
        bench.device.faults(),
        [format!("vhost-user: ended the connection: {reason}")]
    );
}

#[test]
fn second_front_end_that_waits_is_reported_once_and_served_next() {
    let bench = Bench::new();
    let first = bench.running();
    let second = bench.connect();
    let third = bench.connect();
    bench.send(&second, RequestCode::GetFeatures, &[], None);
    let mut reports = Vec::new();
    bench.until(|| {
        reports.extend(bench.device.faults());
        !reports.is_empty()
    });
    assert_eq!(reports, [format!("vhost-user: {SECOND_WAITS}")]);
    assert!((&second).read(&mut [0; 64]).is_err());
    bench.features(&first);
    drop((first, third));
    bench.until(|| bench.device.finish_stops(3));
    assert_eq!(bench.receive(&second, 20).len(), 20);
    assert!(bench.device.faults().is_empty());
}

#[test]
fn front_end_that_comes_again_at_once_is_not_reported() {
    let bench = Bench::new();
    for _ in 0..3 {
        let client = bench.connect();
        assert_eq!(bench.features(&client), bench.device.features | 1 << 30);
    }
    assert!(bench.device.faults().is_empty());
}

#[test]
fn front_end_that_ends_before_it_reads_its_answer_is_no_failure() {
    let bench = Bench::new();
    let client = bench.connect();
    bench.until(|| bench.listener.is_connected());
    bench.send(&client, RequestCode::GetFeatures, &[], None);
    drop(client);
    bench.until(|| !bench.listener.is_connected());
    assert_eq!(bench.device.faults(), [""; 0]);
}

#[test]
fn peer_that_never_reads_is_not_read_from() {
    let bench = Bench::new();
    let client = bench.connect();
    let mut request = pair(0, 256);
    request.extend([0; 4]);
    let request = bytes(RequestCode::GetConfig as u32, false, &request);
    let mut sent = 0;
    let mut quiet = 0;
    while quiet < 1000 {
        let before = sent;
        while let Ok(count) = (&client).write(&request[sent % request.len()..]) {
            sent += count;
        }
        bench.aio.poll(Wait::NoBlock).unwrap();
        quiet = if sent == before { quiet + 1 } else { 0 };
        assert!(sent < 4 << 20, "an unlimited number of requests is taken");
    }
    let complete = sent / request.len();
    let replies = bench.receive_all(&client);
    assert!(replies <= complete * 280 && replies > 0);
}

impl Bench {
    fn receive_all(&self, client: &UnixStream) -> usize {
        let mut total = 0;
        let mut quiet = 0;
        while quiet < 100 {
            let mut chunk = [0; 4096];
            match (&*client).read(&mut chunk) {
                Ok(count) => {
                    total += count;
                    quiet = 0;
                }
                Err(_) => quiet += 1,
            }
            self.aio.poll(Wait::NoBlock).unwrap();
        }
        total
    }
}

#[test]
fn shutdown_finishes_requests_in_flight_and_removes_the_socket() {
    let bench = Bench::new();
    let client = bench.running();
    let done = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&done);
    bench
        .listener
        .shutdown(move || told.store(true, Ordering::Relaxed));
    bench.until(|| bench.is_closed(&client));
    assert!(!bench.dir.socket().exists());
    assert!(!done.load(Ordering::Relaxed));
    bench.device.finish_stops(0);
    bench.until(|| done.load(Ordering::Relaxed));
    assert!(!bench.listener.is_connected());
}

#[test]
fn shutdown_without_a_front_end_is_done_at_once() {
    let bench = Bench::new();
    let done = Arc::new(AtomicUsize::new(0));
    for _ in 0..2 {
        let told = Arc::clone(&done);
        bench.listener.shutdown(move || {
            told.fetch_add(1, Ordering::Relaxed);
        });
    }
    bench.until(|| done.load(Ordering::Relaxed) == 2);
}
