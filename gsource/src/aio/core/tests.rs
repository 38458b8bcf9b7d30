//! What a context keeps of the places where it was.
#![forbid(unsafe_code)]

use crate::{AioContext, Reactor};

#[test]
fn places_are_not_kept_however_often_a_context_comes_and_goes() {
    let reactor = Reactor::new().unwrap();
    let aio = AioContext::new().unwrap();
    for _ in 0..100 {
        aio.attach_to(&reactor).unwrap();
        aio.detach().unwrap();
    }
    let kept = aio.tenant().attachments();
    assert!(kept <= 2, "{kept} places");
}
