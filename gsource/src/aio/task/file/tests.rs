//! Files without io_uring. The usual way is tested from outside, in `tests/loop_task_waits.rs`.
#![forbid(unsafe_code)]

use super::{AsyncFile, Way};
use crate::{AioContext, Wait};
use std::fs::File;
use std::sync::Arc;

#[test]
fn without_io_uring_the_worker_pool_serves_files() {
    let aio = AioContext::new().unwrap();
    let path = std::env::temp_dir().join(format!("gsource-file-{}", std::process::id()));
    let options = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path);
    std::fs::remove_file(&path).unwrap();
    let file = AsyncFile::new(Arc::new(options.unwrap()), Way::Pool(aio.clone()));
    let task = aio.spawn_local(async move {
        let (written, hello) = file.write_at(b"hello".to_vec(), 3).await;
        assert_eq!((written.unwrap(), hello.as_slice()), (5, &b"hello"[..]));
        file.fsync().await.unwrap();
        let (read, buffer) = file.read_at(vec![9; 10], 0).await;
        (read.unwrap(), buffer)
    });
    let task = task.unwrap();
    while !task.is_finished() {
        aio.poll(Wait::Block).unwrap();
    }
    let (count, buffer) = task.try_take().unwrap().unwrap();
    assert_eq!((count, &buffer[..8]), (8, &b"\0\0\0hello"[..]));
}
