//! A node's length: it changes for users, for the node's parent, and with the node below.
#![forbid(unsafe_code)]

use super::*;

impl Node {
    /// Makes the node longer, with zeroes, or shorter, and calls all parents that want to know; see [`Edge::on_resize`]. It waits
    /// for the end of drains of the node and those below, and for a qcow2 image's requests, so the thread may not be the home of a
    /// queue, and not one that has drained the node.
    ///
    /// # Errors
    /// `Busy` if a parent does not let others resize the node, `InvalidArgument` if it is read-only or `length` is not
    /// a multiple of the block size; `Os` or `Unsupported` if the host cannot do it.
    pub fn set_length(&self, length: u64) -> Result<()> {
        let pass = ResizePass::wait(self);
        let (name, unit) = (&self.name, self.block_size());
        if self.is_read_only() {
            let message = "Image is read-only";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        if !length.is_multiple_of(unit) {
            let message = format!("Node '{name}': length {length} is not a multiple of {unit}");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        graph::check_shared(self, Permissions::RESIZE, None)?;
        let resized = self.resize_image(length);
        drop(pass);
        self.follow_resize(resized)
    }

    /// The same for a parent with the permission to resize it, which no parent may do at the same time.
    pub(in crate::block) fn set_length_for_parent(&self, length: u64) -> Result<()> {
        let resized = self.resize_image(length);
        self.follow_resize(resized)
    }

    /// Bitmaps that the image keeps become longer or shorter with it. One that is busy, or lacks something, stays as it is.
    fn resize_image(&self, length: u64) -> Result<()> {
        let bitmaps = self.persistent_bitmaps();
        bitmaps
            .iter()
            .try_for_each(|bitmap| bitmap.check_usable())?;
        self.state().driver.set_length(length)
    }

    /// A driver that fails may have another length all the same.
    fn follow_resize(&self, resized: Result<()>) -> Result<()> {
        let updated = self.update_length();
        resized.and(updated)
    }

    /// Looks whether the file below has another length, and calls the parents as above if it has.
    ///
    /// # Errors
    /// `Os` if the host does not say how long it is.
    pub fn refresh_length(&self) -> Result<()> {
        for child in self.state().driver.children() {
            child.node().refresh_length()?;
        }
        self.update_length()
    }

    pub(in crate::block) fn update_length(&self) -> Result<()> {
        let updating = lock(&self.length_update);
        let length = self.state().driver.length()?;
        let before = self.length();
        if length > before {
            self.bitmaps.resize(length);
        }
        self.length.store(length, Ordering::Relaxed);
        if length < before {
            self.bitmaps.resize(length);
        }
        drop(updating);
        if before != length {
            graph::tell_resized(self.id);
        }
        Ok(())
    }
}
