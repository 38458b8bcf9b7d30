//! A node's dirty bitmaps, and those of them that its image keeps.
#![forbid(unsafe_code)]

use super::*;

impl Node {
    /// Its dirty bitmaps, in the order of their making.
    #[doc(hidden)] // for the monitor
    pub fn dirty_bitmaps(&self) -> Vec<Arc<DirtyBitmap>> {
        self.bitmaps.all()
    }

    /// Its dirty bitmaps that the image keeps.
    pub(in crate::block) fn persistent_bitmaps(&self) -> Vec<Arc<DirtyBitmap>> {
        let mut bitmaps = self.bitmaps.all();
        bitmaps.retain(|bitmap| bitmap.is_persistent());
        bitmaps
    }

    /// Whether its image can keep bitmaps.
    pub(in crate::block) fn can_store_bitmaps(&self) -> bool {
        self.state().driver.can_store_bitmaps()
    }

    /// The image is closed. What fails is warned about: its bitmaps are then in use when it is opened again.
    pub(super) fn store_bitmaps(&self) {
        let state = self.state();
        if let Err(error) = state.driver.store_bitmaps(&self.persistent_bitmaps()) {
            let name = &self.name;
            glib::g_warning!(
                "qcontext",
                "Lost persistent bitmaps of node '{name}': {error}"
            );
        }
    }

    /// Its dirty bitmaps.
    pub(in crate::block) fn bitmaps(&self) -> &NodeBitmaps {
        &self.bitmaps
    }

    /// Gives the node the bitmap that `make` makes for its length. The node is drained.
    pub(in crate::block) fn add_bitmap(
        &self,
        make: impl FnOnce(u64) -> Result<DirtyBitmap>,
    ) -> Result<Arc<DirtyBitmap>> {
        // Its length is that of the node until it is in the list.
        let updating = lock(&self.length_update);
        let bitmap = Arc::new(make(self.length())?);
        self.bitmaps.add(&bitmap);
        drop(updating);
        Ok(bitmap)
    }
}
