//! Transfers that stop short, copies across segments, alignment.
#![allow(unsafe_code)] // requests of memory on the stack

use super::*;

fn request(buffers: &mut [Vec<u8>]) -> Request {
    let mut request = Request::new();
    request.reset(Op::Write, 0, 1);
    for buffer in buffers {
        // SAFETY: the buffers outlive the request in every test.
        unsafe { request.push_segment(buffer.as_mut_ptr(), buffer.len()) };
    }
    request
}

#[test]
fn short_transfers_go_on_where_they_stopped() {
    let mut buffers = [vec![1; 3], vec![], vec![2; 4], vec![3; 5]];
    let mut request = request(&mut buffers);
    let cases = [(2, 1, 4), (1, 4, 2), (4, 5, 1), (5, 0, 0)];
    for (count, next_len, vectors) in cases {
        request.advance(count);
        let lens: Vec<_> = request
            .memory()
            .vectors()
            .iter()
            .map(|v| v.iov_len)
            .collect();
        assert_eq!(lens.len(), vectors, "{lens:?}");
        assert_eq!(lens.first().copied().unwrap_or(0), next_len);
    }
    assert_eq!(request.remaining(), 0);
}

#[test]
fn a_request_that_is_restarted_has_all_of_its_memory_again() {
    for counts in [
        vec![],
        vec![1, 1],
        vec![3],
        vec![5],
        vec![4, 2, 1],
        vec![12],
    ] {
        let mut buffers = [vec![1; 3], vec![], vec![2; 4], vec![3; 5]];
        let mut request = request(&mut buffers);
        let whole = |of: &Request| -> Vec<_> {
            let vectors = of.segments.iter();
            vectors.map(|v| (v.iov_base.addr(), v.iov_len)).collect()
        };
        let before = whole(&request);
        counts.iter().for_each(|&count| request.advance(count));
        request.restart();
        assert_eq!(
            (request.remaining(), request.position()),
            (12, 0),
            "{counts:?}"
        );
        assert_eq!((whole(&request), request.first), (before, 0), "{counts:?}");
    }
    let mut zeroes = Request::new();
    zeroes.reset(Op::WriteZeroes { unmap: true }, 0, 1);
    zeroes.set_length(512);
    zeroes.borrow_zeroes();
    zeroes.advance(100);
    zeroes.restart();
    assert_eq!((zeroes.remaining(), zeroes.segments.len()), (512, 0));
}

#[test]
fn gather_and_scatter_cross_segments() {
    let mut buffers = [vec![1; 3], vec![2; 4]];
    let mut request = request(&mut buffers);
    request.advance(1);
    let mut copy = [0; 4];
    assert_eq!(request.gather(0, &mut copy), 4);
    assert_eq!(copy, [1, 1, 2, 2]);
    assert_eq!(request.scatter(&[9; 100][..5]), 5);
    request.advance(5);
    request.fill_rest_with_zeroes();
    assert_eq!(buffers, [vec![1, 9, 9], vec![9, 9, 9, 0]]);
}

#[test]
fn misalignment_is_seen_in_address_and_length() {
    let mut buffers = [vec![0; 4096]];
    let start = buffers[0].as_mut_ptr();
    let aligned = start.wrapping_add(start.align_offset(512));
    let cases = [
        (aligned, 512, false),
        (aligned.wrapping_add(1), 512, true),
        (aligned, 511, true),
    ];
    for (at, len, misaligned) in cases {
        let mut request = Request::new();
        // SAFETY: within the buffer, which outlives the request.
        unsafe { request.push_segment(at, len) };
        assert_eq!(request.is_misaligned(512), misaligned);
    }
}
