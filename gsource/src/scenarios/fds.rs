//! An AioContext moves between two homes while an fd fires, and while the fd's handler is removed, the number closed and had
//! again for another file, and a handler of that added.
#![allow(unsafe_code)] // dup3(2) gives a number to another file

use super::{Account, Home, assert_released, check};
use crate::eventfd::EventFd;
use crate::sync::{AtomicUsize, Ordering, thread};
use crate::{AioContext, FdHandler, Poller};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

/// A file that fires, and what its handler is held to.
#[derive(Clone)]
struct File {
    event: Arc<EventFd>,
    account: Arc<Account>,
    /// The signals that the handler has read.
    read: Arc<AtomicUsize>,
}

impl File {
    fn new() -> File {
        File {
            event: Arc::new(EventFd::new().unwrap()),
            account: Account::new(),
            read: Arc::default(),
        }
    }

    fn handler(&self) -> FdHandler {
        let (user, file) = (self.account.user(), self.clone());
        FdHandler::new().on_read(move || {
            user.call(|| match file.take() {
                0 => user.0.complain("called though its file was not readable"),
                count => drop(file.read.fetch_add(count, Ordering::SeqCst)),
            });
        })
    }

    fn take(&self) -> usize {
        usize::try_from(self.event.read()).unwrap()
    }

    fn read(&self) -> usize {
        self.read.load(Ordering::SeqCst)
    }
}

fn reuse(number: &OwnedFd, file: &File) {
    let (from, to) = (file.event.as_raw_fd(), number.as_raw_fd());
    // SAFETY: both numbers are ours.
    assert_eq!(unsafe { libc::dup3(from, to, libc::O_CLOEXEC) }, to);
}

fn replaced_while_it_moves(poller: Poller) {
    let homes = [Home::start(poller), Home::start(poller)];
    let aio = AioContext::new().unwrap();
    let files = [File::new(), File::new()];
    let number = Arc::new(files[0].event.as_fd().try_clone_to_owned().unwrap());
    let fd = number.as_raw_fd();
    aio.set_fd_handler(fd, files[0].handler()).unwrap();
    let firing = {
        let files = files.clone();
        thread::spawn(move || {
            for file in files {
                file.event.write();
                file.event.write();
            }
        })
    };
    let replacing = {
        let (aio, number, file) = (aio.clone(), Arc::clone(&number), files[1].clone());
        thread::spawn(move || {
            assert!(aio.remove_fd_handler(fd));
            reuse(&number, &file);
            aio.add_fd_handler(fd, file.handler()).unwrap();
        })
    };
    homes[0].attach(&aio);
    homes[0].detach(&aio);
    homes[1].attach(&aio);
    homes[1].detach(&aio);
    homes[0].attach(&aio);
    firing.join().unwrap();
    replacing.join().unwrap();
    files[1].account.wait_until(|_| files[1].read() == 2);
    assert_eq!(files[0].read() + files[0].take(), 2, "signals were lost");
    // Another turn finds nothing more.
    homes[0].run(|| ()).unwrap();
    homes[0].detach(&aio);
    drop(aio);
    for home in homes {
        assert_released(&home.stop());
    }
    for file in &files {
        file.account.assert_over(1);
        assert_eq!(file.take(), 0);
    }
}

#[test]
fn shuttle_an_fd_replaced_while_its_context_moves_reaches_its_handler() {
    check(replaced_while_it_moves);
}
