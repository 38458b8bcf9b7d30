//! The list by itself, and modelled: no node is lost, none is taken twice, a closed list refuses.
#![allow(unsafe_code)] // nodes are raw pointers, as for the real users

use super::{Link, Linked, List, Pushed, Taken};

struct Node {
    link: Link<Node>,
    value: u32,
}

// SAFETY: the field never changes place.
unsafe impl Linked for Node {
    fn link(&self) -> &Link<Node> {
        &self.link
    }
}

fn push(list: &List<Node>, value: u32) -> Pushed {
    let node = Box::into_raw(Box::new(Node {
        link: Link::new(),
        value,
    }));
    // SAFETY: a fresh node is queued nowhere.
    let pushed = unsafe { list.push(node) };
    if pushed == Pushed::Closed {
        // SAFETY: a refused node is still ours.
        drop(unsafe { Box::from_raw(node) });
    }
    pushed
}

fn values(mut taken: Taken<Node>) -> Vec<u32> {
    let mut values = Vec::new();
    loop {
        let node = taken.pop();
        if node.is_null() {
            return values;
        }
        // SAFETY: a taken node is ours.
        values.push(unsafe { Box::from_raw(node) }.value);
    }
}

#[cfg(not(loom))]
mod plain {
    use super::*;

    #[test]
    fn taken_nodes_come_oldest_first() {
        let list = List::new();
        assert_eq!(push(&list, 1), Pushed::First);
        assert_eq!(push(&list, 2), Pushed::Behind);
        let taken = list.take();
        assert_eq!(push(&list, 3), Pushed::First);
        assert_eq!(values(taken), [1, 2]);
        assert_eq!(values(list.take()), [3]);
    }

    #[test]
    fn a_closed_list_refuses_and_gives_up_what_it_had() {
        let list = List::new();
        push(&list, 1);
        assert_eq!(values(list.close()), [1]);
        assert_eq!(push(&list, 2), Pushed::Closed);
        assert!(list.is_empty());
        assert!(list.close().is_empty());
    }
}

#[cfg(loom)]
mod model {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    #[test]
    fn loom_every_pushed_node_is_taken_once() {
        loom::model(|| {
            let list = Arc::new(List::new());
            let pushers: Vec<_> = (0..2)
                .map(|value| {
                    let list = Arc::clone(&list);
                    thread::spawn(move || push(&list, value))
                })
                .collect();
            let mut seen = values(list.take());
            for pusher in pushers {
                pusher.join().unwrap();
            }
            seen.extend(values(list.take()));
            seen.sort_unstable();
            assert_eq!(seen, [0, 1]);
        });
    }

    #[test]
    fn loom_a_push_against_close_is_taken_or_refused() {
        loom::model(|| {
            let list = Arc::new(List::new());
            let pusher = {
                let list = Arc::clone(&list);
                thread::spawn(move || push(&list, 5))
            };
            let taken = values(list.close());
            let pushed = pusher.join().unwrap();
            assert_eq!(taken.is_empty(), pushed == Pushed::Closed);
        });
    }

    #[test]
    fn loom_exactly_one_pusher_per_batch_is_first() {
        loom::model(|| {
            let list = Arc::new(List::new());
            let other = {
                let list = Arc::clone(&list);
                thread::spawn(move || push(&list, 1))
            };
            let mine = push(&list, 2);
            let theirs = other.join().unwrap();
            assert_ne!(mine, theirs);
            assert_eq!(values(list.take()).len(), 2);
        });
    }
}
