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
use std::os::fd::{AsFd, BorrowedFd};

use gsource::FileCall;

use super::admission::is_admitted;
use super::bounced::{self, next_transfer};
use crate::block::image::{Capability, Direct, Image};
use crate::block::request::{Finished, Method, Op, Request};

const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO_RANGE: i32 = libc::FALLOC_FL_ZERO_RANGE;

/// How often a request is repeated because of EAGAIN. Some drivers and io_uring answer so for a moment; a file system in user
/// space could do so for ever.
const DELAYS_MAX: u16 = 1000;

/// Decides the next call.
#[inline]
pub(super) fn next_step<'a>(image: &Image, request: &'a mut Request) -> FileCall<'a> {
    if matches!(request.op, Op::Read | Op::Write)
        && let Some(bounce) = request.bounce.take()
    {
        return next_transfer(request, bounce);
    }
    let offset = request.position();
    match request.op {
        Op::BlockStatus => unreachable!("`run` answers it"),
        Op::Populate => unreachable!("ignored"),
        Op::Flush => FileCall::DataSync,
        Op::Discard => punch(image.discard_range(request.offset, request.length)),
        Op::Read => FileCall::Read(request.memory(), offset),
        Op::Write => FileCall::Write(request.memory(), offset),
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
            if let Some(bounce) = request.bounce.take() {
                return next_transfer(request, bounce);
            }
            request.borrow_zeroes();
            FileCall::Write(request.memory(), offset)
        }
    }
}

/// Whether the request has no effect on the file: a discard is a hint, and a file has no backing file.
pub(super) fn is_ignored(image: &Image, request: &Request) -> bool {
    match request.op {
        Op::Populate => true,
        Op::Discard => {
            !image.discard
                || !image.punch_hole.is_present()
                || image
                    .discard_range(request.offset, request.length)
                    .is_empty()
        }
        _ => false,
    }
}

/// Whether the request is for zeroes that must be written, but should not be.
pub(super) fn is_too_slow(image: &Image, request: &Request) -> bool {
    request.is_fast && must_write_zeroes(image, request)
}

/// Whether there is no short cut for zeroes, or no other one.
fn must_write_zeroes(image: &Image, request: &Request) -> bool {
    let Op::WriteZeroes { unmap } = request.op else {
        return false;
    };
    let can_punch =
        request.method == Method::Plain && unmap && image.discard && image.punch_hole.is_present();
    let can_zero = request.method != Method::WriteZeroes && image.zero_range.is_present();
    !can_punch && !can_zero
}

/// The result of a flush that cannot succeed any more, because an earlier one has failed.
pub(super) fn lost_result(image: &Image, request: &Request) -> Option<i32> {
    let lost = image.lost().filter(|_| request.op == Op::Flush);
    lost.map(|errno| -errno)
}

/// Carries out a request to its end, on the calling thread; or gives it back if direct I/O does not take the rest as it is.
pub(super) fn run(image: &Image, mut request: Box<Request>) -> Result<Finished, Box<Request>> {
    if request.op == Op::BlockStatus {
        request.set_status(image.block_status(request.offset, request.length));
        return Ok(Finished { request, result: 0 });
    }
    loop {
        let file = file_of(image, &request);
        let result = next_step(image, &mut request).run(file, 0);
        if let ControlFlow::Break(result) = take_result(image, &mut request, result) {
            return Ok(Finished { request, result });
        }
        if let Some(direct) = &image.direct
            && !is_admitted(direct, &request)
        {
            return Err(request);
        }
    }
}

fn file_of<'a>(image: &'a Image, request: &Request) -> BorrowedFd<'a> {
    match image.cached() {
        Some(cached) if request.is_cached() => cached,
        _ => image.as_fd(),
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
            match result {
                0 => image.count_data_sync(),
                _ => image.note_failed_sync(-result),
            }
            ControlFlow::Break(result)
        }
        Op::BlockStatus | Op::Populate => ControlFlow::Break(result),
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
            match must_write_zeroes(image, request) && request.is_fast {
                true => ControlFlow::Break(-libc::ENOTSUP),
                false => ControlFlow::Continue(()),
            }
        }
    }
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
    let Ok(count) = u64::try_from(result) else {
        return failed(image, request, result);
    };
    if let Some(bounce) = request.bounce.take() {
        return bounced::transferred(image, request, bounce, count);
    }
    match request.op {
        Op::Read => request.has_read(count),
        _ => request.has_written(count),
    }
}

/// Breaks with the error, unless another try may be better.
fn failed(image: &Image, request: &mut Request, result: i32) -> ControlFlow<i32> {
    let is_misaligned = |direct: &Direct| !is_admitted(direct, request) || direct.raise();
    let go_on = match -result {
        libc::EAGAIN => {
            request.delays += 1;
            request.delays < DELAYS_MAX
        }
        libc::EINVAL => image.direct.as_ref().is_some_and(is_misaligned),
        _ => false,
    };
    match go_on {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(result),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::image::OpenImage;
    use crate::block::test_file::TestFile;

    fn file() -> Image {
        opened(false)
    }

    fn opened(direct: bool) -> Image {
        let file = TestFile::new(b"", 4096);
        let open = OpenImage {
            path: file.path().to_owned(),
            discard: true,
            direct,
            ..OpenImage::default()
        };
        open.open(None).unwrap()
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
    fn a_file_that_is_never_ready_fails_the_request() {
        let file = file();
        let mut memory = [1; 512];
        for _ in 0..2 {
            let mut request = request(Op::Read, &mut memory);
            let mut results =
                (0..DELAYS_MAX).map(|_| take_result(&file, &mut request, -libc::EAGAIN));
            let last = results.by_ref().find(ControlFlow::is_break);
            assert_eq!(last, Some(ControlFlow::Break(-libc::EAGAIN)));
            assert_eq!(results.next(), None, "not before the last try");
        }
    }

    #[test]
    fn a_read_that_fails_behind_its_first_part_says_how_long_that_is() {
        let file = file();
        let mut memory = [1; 512];
        let mut request = request(Op::Read, &mut memory);
        for result in [100, 50, -libc::EIO] {
            let _ = take_result(&file, &mut request, result);
        }
        assert_eq!(request.transferred(), 150);
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

    /// The kernel reports pages that it has lost to one fdatasync only.
    #[test]
    fn a_failed_flush_of_the_page_cache_fails_all_later_ones() {
        for (direct, later) in [(false, Some(-libc::EIO)), (true, None)] {
            let file = opened(direct);
            let mut flush = request(Op::Flush, &mut []);
            assert_eq!(lost_result(&file, &flush), None);
            let failed = take_result(&file, &mut flush, -libc::EIO);
            assert_eq!(failed, ControlFlow::Break(-libc::EIO));
            assert_eq!(lost_result(&file, &flush), later);
            assert_eq!(lost_result(&file, &request(Op::Write, &mut [])), None);
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
