//! The next system call of a request, and what its result means.
//!
//! Used by every engine, so that short transfers, interruptions and missing abilities of the file system are treated
//! alike wherever the call is made.
#![forbid(unsafe_code)]

use std::ops::ControlFlow;
use std::os::fd::AsFd;

use gsource::{FileCall, IoMemory};

use crate::block::image::Image;
use crate::block::request::{Finished, Method, Op, Request};

const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO_RANGE: i32 = libc::FALLOC_FL_ZERO_RANGE;

/// Decides the next call.
#[inline]
pub(super) fn next_step<'a>(image: &Image, request: &'a mut Request) -> FileCall<'a> {
    let offset = request.offset + request.done;
    match request.op {
        Op::Flush => FileCall::DataSync,
        Op::Discard => allocate(PUNCH_HOLE, request),
        Op::Read => FileCall::Read(memory(request), offset),
        Op::Write => FileCall::Write(memory(request), offset),
        Op::WriteZeroes { unmap } => {
            if request.method == Method::Plain {
                let punch = unmap && image.discard && image.punch_hole.is_present();
                if punch {
                    return allocate(PUNCH_HOLE, request);
                }
                request.method = Method::ZeroRange;
            }
            if request.method == Method::ZeroRange && image.zero_range.is_present() {
                return allocate(ZERO_RANGE, request);
            }
            request.method = Method::WriteZeroes;
            request.borrow_zeroes();
            FileCall::Write(request.memory(), offset)
        }
    }
}

/// Whether the request is a discard that the file does not take: a hint without effect.
pub(super) fn is_ignored(image: &Image, request: &Request) -> bool {
    request.op == Op::Discard && (!image.discard || !image.punch_hole.is_present())
}

/// Carries out a request to its end, on the calling thread.
pub(super) fn run(image: &Image, mut request: Box<Request>) -> Finished {
    loop {
        let result = next_step(image, &mut request).run(image.as_fd(), 0);
        if let ControlFlow::Break(result) = take_result(image, &mut request, result) {
            return Finished { request, result };
        }
    }
}

/// Takes in the result of the last call, a count or a negative errno: breaks with the request's own result when it
/// is finished.
pub(super) fn take_result(image: &Image, request: &mut Request, result: i32) -> ControlFlow<i32> {
    match -result {
        libc::EINTR | libc::EAGAIN => return ControlFlow::Continue(()),
        _ => {}
    }
    match request.op {
        Op::Read | Op::Write => transferred(image, request, result),
        Op::WriteZeroes { .. } if request.method == Method::WriteZeroes => {
            transferred(image, request, result)
        }
        Op::Flush => {
            if result == 0 {
                image.count_data_sync();
            }
            ControlFlow::Break(result)
        }
        Op::Discard if is_unsupported(result) => {
            image.punch_hole.set_missing();
            ControlFlow::Break(0)
        }
        Op::WriteZeroes { .. } if is_unsupported(result) => {
            if request.method == Method::Plain {
                image.punch_hole.set_missing();
            } else {
                image.zero_range.set_missing();
            }
            ControlFlow::Continue(())
        }
        Op::Discard | Op::WriteZeroes { .. } => ControlFlow::Break(result),
    }
}

/// The memory of the next transfer: the bounce buffer, filled for a write, or the request's own.
fn memory(request: &mut Request) -> IoMemory<'_> {
    if let Some(mut bounce) = request.bounce.take() {
        bounce.set_remaining(request.remaining());
        if request.op == Op::Write {
            request.gather(bounce.bytes_mut());
        }
        return request.bounce.insert(bounce).memory();
    }
    request.memory()
}

fn allocate(mode: i32, request: &Request) -> FileCall<'static> {
    FileCall::Allocate {
        mode,
        offset: request.offset,
        length: request.length,
    }
}

fn is_unsupported(result: i32) -> bool {
    matches!(-result, libc::EOPNOTSUPP | libc::ENOSYS)
}

fn transferred(image: &Image, request: &mut Request, result: i32) -> ControlFlow<i32> {
    let Ok(count) = u64::try_from(result) else {
        return ControlFlow::Break(result);
    };
    if count == 0 && request.op != Op::Read {
        return ControlFlow::Break(-libc::EIO);
    }
    if let Some(bounce) = request.bounce.take() {
        if request.op == Op::Read {
            let len = usize::try_from(count).unwrap_or(0);
            request.scatter(&bounce.bytes()[..len.min(bounce.bytes().len())]);
        }
        request.bounce = Some(bounce);
    }
    request.advance(count);
    let unit = image.alignment.map_or(1, |alignment| alignment.offset);
    if request.op == Op::Read && (count == 0 || !count.is_multiple_of(unit)) {
        // The end of the file, which may lie inside of the last sector.
        request.fill_rest_with_zeroes();
    }
    if request.remaining() == 0 {
        return ControlFlow::Break(0);
    }
    ControlFlow::Continue(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::image::OpenImage;
    use crate::block::test_file::TestFile;

    fn file() -> Image {
        let file = TestFile::new(b"", 4096);
        let open = OpenImage {
            path: file.path().to_owned(),
            discard: true,
            ..OpenImage::default()
        };
        open.open().unwrap()
    }

    fn request(op: Op, memory: &mut [u8]) -> Request {
        let mut request = Request::new();
        request.reset(op, 0, 0);
        // The memory outlives the request in every test.
        request.set_memory(memory);
        request
    }

    #[test]
    fn results_of_transfers_end_or_go_on() {
        let file = file();
        let go_on = ControlFlow::Continue(());
        // (operation, results in turn, what the last one means)
        let cases: [(Op, &[i32], ControlFlow<i32>); 8] = [
            (Op::Read, &[512], ControlFlow::Break(0)),
            (Op::Read, &[100], go_on),
            (
                Op::Read,
                &[100, -libc::EINTR, -libc::EAGAIN, 412],
                ControlFlow::Break(0),
            ),
            (Op::Read, &[100, 0], ControlFlow::Break(0)),
            (Op::Read, &[100, -libc::EIO], ControlFlow::Break(-libc::EIO)),
            (Op::Write, &[511, 1], ControlFlow::Break(0)),
            (Op::Write, &[511, 0], ControlFlow::Break(-libc::EIO)),
            (
                Op::Write,
                &[-libc::ENOSPC],
                ControlFlow::Break(-libc::ENOSPC),
            ),
        ];
        for (op, results, expected) in cases {
            let mut memory = [1; 512];
            let mut request = request(op, &mut memory);
            let last = results
                .iter()
                .map(|&result| take_result(&file, &mut request, result));
            assert_eq!(last.last(), Some(expected), "{op:?} {results:?}");
        }
    }

    #[test]
    fn zeroing_falls_back_step_by_step() {
        let file = file();
        let mut request = request(Op::WriteZeroes { unmap: true }, &mut []);
        request.set_length(4096);
        let is = |step: FileCall<'_>, expected: i32| matches!(step, FileCall::Allocate { mode, .. } if mode == expected);
        assert!(is(next_step(&file, &mut request), PUNCH_HOLE));
        assert!(take_result(&file, &mut request, -libc::EOPNOTSUPP).is_continue());
        assert!(is(next_step(&file, &mut request), ZERO_RANGE));
        assert!(take_result(&file, &mut request, -libc::EOPNOTSUPP).is_continue());
        assert!(
            matches!(next_step(&file, &mut request), FileCall::Write(memory, 0) if memory.vectors().len() == 1)
        );
        assert!(take_result(&file, &mut request, 4000).is_continue());
        assert!(matches!(
            next_step(&file, &mut request),
            FileCall::Write(_, 4000)
        ));
        assert_eq!(take_result(&file, &mut request, 96), ControlFlow::Break(0));
    }

    #[test]
    fn discards_are_hints() {
        let file = file();
        let mut request = request(Op::Discard, &mut []);
        request.set_length(4096);
        let result = take_result(&file, &mut request, -libc::EOPNOTSUPP);
        assert_eq!(result, ControlFlow::Break(0));
        assert!(is_ignored(&file, &request));
    }

    #[test]
    fn only_flushes_that_worked_count() {
        let file = file();
        let mut request = request(Op::Flush, &mut []);
        assert!(matches!(next_step(&file, &mut request), FileCall::DataSync));
        let failed = take_result(&file, &mut request, -libc::EIO);
        assert_eq!(
            (failed, file.data_syncs()),
            (ControlFlow::Break(-libc::EIO), 0)
        );
        assert!(take_result(&file, &mut request, 0).is_break());
        assert_eq!(file.data_syncs(), 1);
    }
}
