//! The next system call of a request, and what its result means.
//!
//! Used by every engine, so that short transfers, interruptions and missing abilities of the file system are treated
//! alike wherever the call is made.
//!
//! Discarding and zeroing by `fallocate` are short cuts. Whatever the errno with which the kernel refuses one, the request
//! goes on without it: zeroes are written, and a discard, which is a hint, is done. The guest sees errors of plain reads,
//! writes and flushes only.
#![forbid(unsafe_code)]

use std::ops::{ControlFlow, Range};
use std::os::fd::AsFd;

use gsource::{FileCall, IoMemory};

use crate::block::image::{Capability, Image};
use crate::block::request::{Finished, Method, Op, Request};

const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO_RANGE: i32 = libc::FALLOC_FL_ZERO_RANGE;

/// Decides the next call.
#[inline]
pub(super) fn next_step<'a>(image: &Image, request: &'a mut Request) -> FileCall<'a> {
    let offset = request.offset + request.done;
    match request.op {
        Op::Flush => FileCall::DataSync,
        Op::Discard => punch(image.discard_range(request.offset, request.length)),
        Op::Read => FileCall::Read(memory(request), offset),
        Op::Write => FileCall::Write(memory(request), offset),
        Op::WriteZeroes { unmap } => {
            if request.method == Method::Plain {
                if unmap && image.discard && image.punch_hole.is_present() {
                    return punch(whole(request));
                }
                request.method = Method::ZeroRange;
            }
            if request.method == Method::ZeroRange && image.zero_range.is_present() {
                return allocate(ZERO_RANGE, whole(request));
            }
            request.method = Method::WriteZeroes;
            request.borrow_zeroes();
            FileCall::Write(request.memory(), offset)
        }
    }
}

/// Whether the request is a discard that the file does not take: a hint without effect.
pub(super) fn is_ignored(image: &Image, request: &Request) -> bool {
    request.op == Op::Discard
        && (!image.discard
            || !image.punch_hole.is_present()
            || image
                .discard_range(request.offset, request.length)
                .is_empty())
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
    if result == -libc::EINTR {
        return ControlFlow::Continue(());
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
        Op::Discard => {
            note_refusal(&image.punch_hole, result);
            ControlFlow::Break(0)
        }
        Op::WriteZeroes { .. } if result == 0 => ControlFlow::Break(0),
        Op::WriteZeroes { .. } => {
            request.method = if request.method == Method::Plain {
                note_refusal(&image.punch_hole, result);
                Method::ZeroRange
            } else {
                note_refusal(&image.zero_range, result);
                Method::WriteZeroes
            };
            ControlFlow::Continue(())
        }
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

fn whole(request: &Request) -> Range<u64> {
    request.offset..request.offset + request.length
}

fn punch(range: Range<u64>) -> FileCall<'static> {
    allocate(PUNCH_HOLE, range)
}

fn allocate(mode: i32, range: Range<u64>) -> FileCall<'static> {
    FileCall::Allocate {
        mode,
        offset: range.start,
        length: range.end - range.start,
    }
}

/// Remembers an ability that is missing for good. Other errors may be about this range or this moment.
pub(super) fn note_refusal(ability: &Capability, result: i32) {
    if matches!(
        -result,
        libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY | libc::ENODEV
    ) {
        ability.set_missing();
    }
}

fn transferred(image: &Image, request: &mut Request, result: i32) -> ControlFlow<i32> {
    if result == -libc::EAGAIN {
        return ControlFlow::Continue(());
    }
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

    /// With what the kernel, a file system or a driver refuses `fallocate`.
    const REFUSALS: [i32; 14] = [
        libc::EOPNOTSUPP,
        libc::ENOSYS,
        libc::ENOTTY,
        libc::ENODEV,
        libc::EINVAL,
        libc::EPERM,
        libc::EACCES,
        libc::EBUSY,
        libc::EFBIG,
        libc::ENOSPC,
        libc::EAGAIN,
        libc::EIO,
        libc::ETXTBSY,
        libc::EREMOTEIO,
    ];

    #[test]
    fn zeroes_are_written_whatever_the_errno_that_refuses_the_short_cuts() {
        for errno in REFUSALS {
            let file = file();
            let mut request = request(Op::WriteZeroes { unmap: true }, &mut []);
            request.set_length(4096);
            for _ in 0..2 {
                next_step(&file, &mut request);
                assert!(take_result(&file, &mut request, -errno).is_continue());
            }
            let write = next_step(&file, &mut request);
            assert!(matches!(write, FileCall::Write(_, 0)), "{errno}");
            // This is not a short cut.
            let failed = take_result(&file, &mut request, -libc::ENOSPC);
            assert_eq!(failed, ControlFlow::Break(-libc::ENOSPC), "{errno}");
        }
    }

    #[test]
    fn a_discard_is_a_hint_whatever_the_errno_that_refuses_it() {
        for errno in REFUSALS {
            let file = file();
            let mut request = request(Op::Discard, &mut []);
            request.set_length(4096);
            let result = take_result(&file, &mut request, -errno);
            assert_eq!(result, ControlFlow::Break(0), "{errno}");
        }
    }

    #[test]
    fn only_an_ability_that_is_missing_for_good_is_not_tried_again() {
        for (errno, ignored) in [(libc::EOPNOTSUPP, true), (libc::EINVAL, false)] {
            let file = file();
            let mut request = request(Op::Discard, &mut []);
            request.set_length(4096);
            let _ = take_result(&file, &mut request, -errno);
            assert_eq!(is_ignored(&file, &request), ignored, "{errno}");
        }
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
