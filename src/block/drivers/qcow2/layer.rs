//! One queue's part of a qcow2 image.
#![forbid(unsafe_code)]

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::home::HomeBound;
use super::image::Qcow2Image;
use super::scope::{Scoped, WaysBelow};
use crate::block::gate::Gate;
use crate::block::request::{Finished, Request};
use crate::block::way::Way;
use crate::block::way::task::{Layer, Task, TaskWay};

/// One queue's part of an image.
#[derive(Debug)]
pub(super) struct Qcow2Layer {
    image: Arc<Qcow2Image>,
    ways: Arc<WaysBelow>,
}

impl Qcow2Layer {
    pub(super) fn open(image: &Arc<Qcow2Image>, gate: &Arc<Gate>) -> Way {
        TaskWay::open(gate, |new| {
            Arc::new(Qcow2Layer {
                image: Arc::clone(image),
                ways: image.nodes().open(new),
            })
        })
    }
}

impl Layer for Qcow2Layer {
    fn run(self: Arc<Self>, mut request: Box<Request>) -> Task {
        let image = Arc::clone(&self.image);
        let work = async move {
            let result = image.carry_out(&mut request).await;
            Finished { request, result }
        };
        let scoped = Scoped::new(Arc::clone(&self.ways), work);
        Box::pin(ImageTask(HomeBound::new(scoped)))
    }
}

/// A request to the image.
struct ImageTask(HomeBound<Scoped<Finished>>);

impl Future for ImageTask {
    type Output = Finished;

    /// On another thread than its own the request waits. Only a program that iterates one AioContext by turns on several
    /// threads while it has requests in flight can see that.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Finished> {
        match self.0.get_mut() {
            Some(future) => Pin::new(future).poll(context),
            None => Poll::Pending,
        }
    }
}

impl fmt::Debug for ImageTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageTask").finish_non_exhaustive()
    }
}
