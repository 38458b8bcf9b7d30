//! Futures of tests, and tasks that are driven to their end.
#![forbid(unsafe_code)]

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use gsource::JoinHandle;

use super::{Count, Driven};

/// Iterates until the task is over; its outcome.
pub fn finish<T>(driven: &Driven, task: &JoinHandle<T>) -> gsource::Result<T> {
    driven.until(|| task.is_finished());
    task.try_take().unwrap()
}

/// Is pending once, and wakes its task at once.
#[derive(Default)]
pub struct Yield(bool);

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Is never ready; counts its polls and shows its waker.
pub struct Never(Count, Arc<Mutex<Option<Waker>>>);

impl Future for Never {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.hit();
        let earlier = self.1.lock().unwrap().replace(context.waker().clone());
        drop(earlier);
        Poll::Pending
    }
}

pub fn never() -> (Never, Count, Arc<Mutex<Option<Waker>>>) {
    let (polls, waker) = (Count::new(), Arc::default());
    (Never(polls.clone(), Arc::clone(&waker)), polls, waker)
}
