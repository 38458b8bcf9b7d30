//! What is replaced, what is not, and from when on a socket can be found.
#![forbid(unsafe_code)]

use std::os::unix::net::UnixDatagram;
use std::sync::Barrier;
use std::thread;

use support::directory::TestDir;

use super::*;

fn open(path: &Path) -> Result<ListeningSocket, ListenError> {
    ListeningSocket::open(path, SocketAccess::Umask)
}

fn names(directory: &TestDir) -> Vec<String> {
    let entries = fs::read_dir(directory.path()).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// A socket whose process is gone.
fn leave_dead_socket(path: &Path) {
    drop(UnixListener::bind(path).unwrap());
}

#[test]
fn nothing_but_the_socket_is_left_in_the_directory() {
    let directory = TestDir::in_memory();
    let socket = open(&directory.socket("s")).unwrap();
    assert_eq!(names(&directory), ["s"]);
    drop(socket);
    assert!(names(&directory).is_empty());
}

#[test]
fn a_dead_socket_is_replaced() {
    let directory = TestDir::in_memory();
    let path = directory.socket("s");
    leave_dead_socket(&path);
    let _socket = open(&path).unwrap();
    UnixStream::connect(&path).unwrap();
}

#[test]
fn a_live_socket_stays() {
    let directory = TestDir::in_memory();
    let path = directory.socket("s");
    let _first = open(&path).unwrap();
    assert!(matches!(open(&path), Err(ListenError::InUse)));
    UnixStream::connect(&path).unwrap();
}

#[test]
fn a_server_with_a_full_queue_is_alive() {
    let directory = TestDir::in_memory();
    let path = directory.socket("s");
    let _first = open(&path).unwrap();
    let mut clients = Vec::new();
    loop {
        let client = address::stream_socket().unwrap();
        match address::connect(client.as_fd(), &path) {
            Ok(()) => clients.push(client),
            Err(error) => break assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    }
    assert!(matches!(open(&path), Err(ListenError::InUse)));
}

#[test]
fn a_bound_socket_of_another_kind_is_alive() {
    let directory = TestDir::in_memory();
    let path = directory.socket("s");
    let _owner = UnixDatagram::bind(&path).unwrap();
    assert!(matches!(open(&path), Err(ListenError::InUse)));
}

#[test]
fn another_file_is_not_replaced() {
    let directory = TestDir::in_memory();
    fs::write(directory.file("file"), "precious").unwrap();
    let error = open(&directory.socket("file")).unwrap_err();
    assert!(matches!(error, ListenError::NotASocket));
    assert_eq!(fs::read(directory.file("file")).unwrap(), b"precious");
}

#[test]
fn a_socket_that_takes_the_path_meanwhile_stays() {
    let directory = TestDir::in_memory();
    let (hidden, path) = (directory.socket("hidden"), directory.socket("s"));
    let _ours = listen(&hidden, SocketAccess::Umask).unwrap();
    let theirs = UnixListener::bind(&path).unwrap();
    assert!(matches!(place(&hidden, &path), Err(ListenError::InUse)));
    UnixStream::connect(&path).unwrap();
    theirs.accept().unwrap();
}

#[test]
fn a_server_that_is_starting_keeps_others_away() {
    let directory = TestDir::in_memory();
    let path = directory.socket("s");
    leave_dead_socket(&path);
    let lock = PathLock::take(&directory.file(".s.lock")).unwrap().unwrap();
    assert!(matches!(open(&path), Err(ListenError::Starting)));
    assert!(path.exists());
    drop(lock);
    open(&path).unwrap();
}

#[test]
fn of_many_that_replace_a_dead_socket_one_listens() {
    const STARTERS: usize = 4;
    const ROUNDS: usize = 50;
    let directory = TestDir::in_memory();
    let (begin, end) = (Barrier::new(STARTERS), Barrier::new(STARTERS));
    let paths: Vec<PathBuf> = (0..ROUNDS)
        .map(|round| directory.socket(&format!("s{round}")))
        .collect();
    paths.iter().for_each(|path| leave_dead_socket(path));
    let start = || {
        let mut alive = Vec::new();
        for path in &paths {
            begin.wait();
            let socket = open(path);
            end.wait();
            alive.extend(socket);
            // While all that have started hold their sockets, the path leads to one of them.
            UnixStream::connect(path).unwrap();
        }
        alive
    };
    let alive: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..STARTERS).map(|_| scope.spawn(start)).collect();
        let results = threads.into_iter().map(|thread| thread.join().unwrap());
        results.collect()
    });
    assert_eq!(alive.iter().map(Vec::len).sum::<usize>(), ROUNDS);
}

#[test]
fn what_a_killed_server_left_half_done_is_no_obstacle() {
    let directory = TestDir::in_memory();
    leave_dead_socket(&directory.socket(".s.new"));
    fs::write(directory.file(".s.lock"), "").unwrap();
    let _socket = open(&directory.socket("s")).unwrap();
    assert_eq!(names(&directory), ["s"]);
}

#[test]
fn a_path_of_the_greatest_length_is_served_and_a_longer_one_refused() {
    let directory = TestDir::in_memory();
    let short = directory.socket("");
    let room = PATH_LIMIT - short.as_os_str().len();
    let path = directory.socket(&"n".repeat(room));
    let _socket = open(&path).unwrap();
    UnixStream::connect(&path).unwrap();
    let longer = directory.socket(&"n".repeat(room + 1));
    assert!(matches!(open(&longer), Err(ListenError::TooLong)));
}

#[test]
fn a_path_that_names_no_file_is_an_error() {
    for path in ["", "/", "..", "a\0b"] {
        assert!(
            matches!(open(Path::new(path)), Err(ListenError::Os(_))),
            "{path:?}"
        );
    }
}

#[test]
fn the_end_of_a_socket_removes_no_other_one() {
    let directory = TestDir::in_memory();
    let path = directory.socket("s");
    let socket = open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(socket);
    assert!(path.exists());
}

#[test]
fn a_socket_for_its_owner_has_no_other_mode() {
    let directory = TestDir::in_memory();
    let path = directory.socket("s");
    let _socket = ListeningSocket::open(&path, SocketAccess::Owner).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
}
