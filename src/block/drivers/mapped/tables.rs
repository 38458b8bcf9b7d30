//! The tables of an image, which say where its data is.
//!
//! A table may be larger than memory allows, so it is read a page at a time when it is needed. The pages that were read last are
//! kept, 4 MiB of them at most. The image is only read, so a page never changes.
//!
//! # Threads
//! All queues share the pages. The lock is held to look for one and to add one, not while one is read.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::file::ImageFile;
use crate::block::drivers::mapped::corrupt;

const PAGE: usize = 4096;
const PAGES_MAX: usize = 1024;

/// The file and the offset of a page.
type PageKey = (usize, u64);

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct TableCache(Mutex<Pages>);

#[derive(Debug, Default)]
struct Pages {
    pages: HashMap<PageKey, Arc<[u8]>>,
    /// The oldest first.
    order: VecDeque<PageKey>,
}

/// The tables, on the way of one queue.
#[derive(Debug)]
pub(in crate::block::drivers) struct ImageTables<'a> {
    cache: &'a TableCache,
    files: &'a [ImageFile],
}

impl<'a> ImageTables<'a> {
    pub(super) fn new(cache: &'a TableCache, files: &'a [ImageFile]) -> ImageTables<'a> {
        ImageTables { cache, files }
    }

    /// The little-endian number at `offset` of a file, a multiple of 4.
    pub(in crate::block::drivers) async fn u32(&self, file: usize, offset: u64) -> io::Result<u32> {
        self.number(file, offset).await.map(u32::from_le_bytes)
    }

    /// The little-endian number at `offset` of a file, a multiple of 8.
    pub(in crate::block::drivers) async fn u64(&self, file: usize, offset: u64) -> io::Result<u64> {
        self.number(file, offset).await.map(u64::from_le_bytes)
    }

    async fn number<const N: usize>(&self, file: usize, offset: u64) -> io::Result<[u8; N]> {
        let start = offset / PAGE as u64 * PAGE as u64;
        let page = self.page((file, start)).await?;
        let bytes = usize::try_from(offset - start).ok();
        let bytes = bytes.and_then(|at| page.get(at..)?.first_chunk());
        bytes
            .copied()
            .ok_or_else(|| corrupt("a table that is not aligned"))
    }

    async fn page(&self, key: PageKey) -> io::Result<Arc<[u8]>> {
        if let Some(page) = self.cache.pages().pages.get(&key) {
            return Ok(Arc::clone(page));
        }
        let file = self.files.get(key.0);
        let file = file.ok_or_else(|| corrupt("a table in no file of the image"))?;
        let page: Arc<[u8]> = file.read(key.1, PAGE).await?.into();
        self.cache.pages().add(key, &page);
        Ok(page)
    }
}

impl TableCache {
    /// The pages are consistent after every single operation on them.
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    fn add(&mut self, key: PageKey, page: &Arc<[u8]>) {
        if self.pages.insert(key, Arc::clone(page)).is_some() {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > PAGES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.pages.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_pages_go_first() {
        let cache = TableCache::default();
        let page: Arc<[u8]> = vec![0; PAGE].into();
        for number in 0..=PAGES_MAX as u64 {
            cache.pages().add((0, number), &page);
            cache.pages().add((0, number), &page);
        }
        let pages = cache.pages();
        assert_eq!(
            (pages.pages.len(), pages.order.len()),
            (PAGES_MAX, PAGES_MAX)
        );
        assert!(!pages.pages.contains_key(&(0, 0)) && pages.pages.contains_key(&(0, 1)));
        drop(pages);
    }
}
