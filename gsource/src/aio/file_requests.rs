//! The requests to one file that an io_uring has.
//!
//! Used by [`AsyncFile`](crate::AsyncFile), and by code that has an engine of its own for files. The table owns what the
//! kernel uses, so that it is not freed too early.
//!
//! # Invariants
//! 1. A slot owns the request whose entry carries its number until that entry's completion has arrived, and the table owns the
//!    file. A table that goes away earlier, because the ring ended first or because its owner made a mistake, leaves both
//!    allocated and open for ever.
#![allow(unsafe_code)] // an entry names memory of its request

use super::io_queue::IoBatch;
use crate::aio::file_call::FileCall;
use crate::poller::io_sink::IoCompletion;
use crate::{Error, Result};
use std::fmt;
use std::mem;
use std::os::fd::AsFd;
use std::sync::Arc;

/// The requests to one file that an io_uring has, and the file.
pub struct FileRequests<F, T> {
    file: Arc<F>,
    slots: Vec<Option<T>>,
    /// The numbers of the empty slots.
    free: Vec<usize>,
}

impl<F: AsFd, T> FileRequests<F, T> {
    /// No requests yet.
    pub fn new(file: Arc<F>) -> Self {
        FileRequests {
            file,
            slots: Vec::new(),
            free: Vec::new(),
        }
    }

    /// The file.
    pub fn file(&self) -> &Arc<F> {
        &self.file
    }

    /// Queues the system call that `call` says, and keeps `request` until it has completed.
    ///
    /// # Errors
    /// `LimitExceeded` when the kernel takes no more. The request comes back.
    ///
    /// # Safety
    /// The memory that the call names, its vectors included, belongs to the request or is static: it stays valid and where
    /// it is until the request is dropped, wherever that is moved meanwhile.
    pub unsafe fn push(
        &mut self,
        batch: &mut IoBatch<'_>,
        mut request: T,
        call: impl for<'a> FnOnce(&F, &'a mut T) -> FileCall<'a>,
    ) -> Result<(), (T, Error)> {
        let entry = call(&self.file, &mut request).entry(self.file.as_fd());
        let number = self.free.pop().unwrap_or(self.slots.len());
        // SAFETY: the slot owns the request from here on, and with it the memory; the table owns the file (invariant 1).
        if let Err(error) = unsafe { batch.push(number as u64, entry) } {
            self.put(number, None);
            return Err((request, error));
        }
        self.put(number, Some(request));
        Ok(())
    }

    fn put(&mut self, number: usize, request: Option<T>) {
        if request.is_none() {
            self.free.push(number);
        }
        match self.slots.get_mut(number) {
            Some(slot) => *slot = request,
            None => self.slots.push(request),
        }
    }

    /// Takes the request that has completed out of the table.
    pub fn complete(&mut self, completion: IoCompletion) -> Option<T> {
        let number = usize::try_from(completion.user).ok()?;
        let request = self.slots.get_mut(number)?.take()?;
        self.free.push(number);
        Some(request)
    }
}

impl<F, T> Drop for FileRequests<F, T> {
    fn drop(&mut self) {
        if self.slots.iter().any(Option::is_some) {
            // Invariant 1.
            mem::forget(mem::take(&mut self.slots));
            mem::forget(Arc::clone(&self.file));
        }
    }
}

impl<F, T> fmt::Debug for FileRequests<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileRequests")
            .field("in_flight", &(self.slots.len() - self.free.len()))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AioContext, IoMemory, IoSink, Wait};
    use std::io::{PipeReader, PipeWriter, pipe};
    use std::sync::Mutex;

    /// Memory, and a witness of whether it is still there.
    struct Request {
        memory: Box<[u8; 8]>,
        vector: [libc::iovec; 1],
        _alive: Arc<()>,
    }

    // SAFETY: the vector is about memory of its own.
    unsafe impl Send for Request {}

    impl Request {
        fn new(alive: &Arc<()>) -> Request {
            let mut memory = Box::new([0; 8]);
            let vector = libc::iovec {
                iov_base: memory.as_mut_ptr().cast(),
                iov_len: memory.len(),
            };
            Request {
                memory,
                vector: [vector],
                _alive: Arc::clone(alive),
            }
        }
    }

    struct Table(Mutex<Option<FileRequests<PipeReader, Request>>>);

    impl Table {
        fn complete_one(&self, completion: IoCompletion) -> Option<Request> {
            let mut table = self.0.lock().unwrap();
            table.as_mut()?.complete(completion)
        }
    }

    impl IoSink for Table {
        fn complete(&self, completions: &[IoCompletion]) {
            for completion in completions {
                let request = self.complete_one(*completion).unwrap();
                let start = &request.memory[..2];
                assert_eq!((completion.result, start), (2, &b"hi"[..]));
            }
        }
    }

    /// A table with a request that waits for the pipe's other end, and a witness of whether its memory is still there.
    fn read_from_pipe(aio: &AioContext) -> Option<(Arc<Table>, PipeWriter, Arc<()>)> {
        let (reader, writer) = pipe().unwrap();
        let table = Arc::new(Table(Mutex::new(Some(FileRequests::new(Arc::new(reader))))));
        let sink: Arc<dyn IoSink> = Arc::<Table>::clone(&table);
        let Ok(queue) = aio.register_io(sink) else {
            crate::skip::skip("this kernel allows no io_uring");
            return None;
        };
        let alive = Arc::new(());
        let request = Request::new(&alive);
        let pushed = queue.batch(|batch| {
            let mut requests = table.0.lock().unwrap();
            // SAFETY: the memory is the request's box.
            unsafe { requests.as_mut().unwrap().push(batch, request, read) }
        });
        assert!(pushed.unwrap().is_ok());
        Some((table, writer, alive))
    }

    fn read<'a>(_: &PipeReader, request: &'a mut Request) -> FileCall<'a> {
        // SAFETY: the vector describes the request's own memory, which nothing else uses.
        FileCall::Read(unsafe { IoMemory::new(&request.vector) }, 0)
    }

    #[test]
    fn a_completed_request_comes_back_with_its_memory() {
        let aio = AioContext::new().unwrap();
        let Some((_table, mut writer, alive)) = read_from_pipe(&aio) else {
            return;
        };
        std::io::Write::write_all(&mut writer, b"hi").unwrap();
        while Arc::strong_count(&alive) > 1 {
            aio.poll(Wait::Block).unwrap();
        }
    }

    #[test]
    fn memory_and_file_of_a_request_in_flight_outlive_the_table() {
        let aio = AioContext::new().unwrap();
        let Some((table, _writer, alive)) = read_from_pipe(&aio) else {
            return;
        };
        let requests = table.0.lock().unwrap().take().unwrap();
        let file = Arc::downgrade(requests.file());
        drop(requests);
        assert!(file.upgrade().is_some());
        assert_eq!(Arc::strong_count(&alive), 2);
    }
}
