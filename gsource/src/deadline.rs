//! Deadlines in order: a 4-ary heap of (deadline, sequence) pairs whose items know their place.
//!
//! Arm, re-arm and cancel are O(log n); equal deadlines leave in the order in which they were armed. The place of an item is
//! kept by its owner through [`Item::set_place`], so nothing is searched.
#![forbid(unsafe_code)]

/// A thing in a queue that remembers its place.
pub(crate) trait Item {
    /// Records the item's index in the heap; [`NOWHERE`] when it left.
    fn set_place(&self, place: usize);
    fn place(&self) -> usize;
}

/// The place of an item that is in no queue.
pub(crate) const NOWHERE: usize = usize::MAX;

const ARITY: usize = 4;

struct QueuedItem<T> {
    deadline: i64,
    sequence: u64,
    item: T,
}

impl<T> QueuedItem<T> {
    fn key(&self) -> (i64, u64) {
        (self.deadline, self.sequence)
    }
}

/// A queue of items ordered by deadline.
pub(crate) struct DeadlineQueue<T> {
    heap: Vec<QueuedItem<T>>,
    next_sequence: u64,
}

impl<T: Item> DeadlineQueue<T> {
    pub(crate) const fn new() -> Self {
        DeadlineQueue {
            heap: Vec::new(),
            next_sequence: 0,
        }
    }

    /// The earliest deadline.
    pub(crate) fn first(&self) -> Option<i64> {
        self.heap.first().map(|entry| entry.deadline)
    }

    /// The earliest deadline that is later than `time`.
    pub(crate) fn first_after(&self, time: i64) -> Option<i64> {
        let deadlines = self.heap.iter().map(|entry| entry.deadline);
        deadlines.filter(|&deadline| deadline > time).min()
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    /// The sequence number the next armed item gets.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Adds an item that is in no queue.
    pub(crate) fn insert(&mut self, deadline: i64, item: T) {
        debug_assert_eq!(item.place(), NOWHERE);
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.heap.push(QueuedItem {
            deadline,
            sequence,
            item,
        });
        self.sift_up(self.heap.len() - 1);
    }

    /// Arms the item at `place` anew; false when nothing is there.
    pub(crate) fn change(&mut self, place: usize, deadline: i64) -> bool {
        let Some(entry) = self.heap.get_mut(place) else {
            return false;
        };
        let is_later = deadline >= entry.deadline;
        entry.deadline = deadline;
        entry.sequence = self.next_sequence;
        self.next_sequence += 1;
        // A later arming goes behind its equals.
        if is_later {
            self.sift_down(place);
        } else {
            self.sift_up(place);
        }
        true
    }

    /// The deadline of the item at `place`.
    pub(crate) fn deadline(&self, place: usize) -> Option<i64> {
        self.heap.get(place).map(|entry| entry.deadline)
    }

    /// Takes out the item at `place`; `None` when nothing is there.
    pub(crate) fn remove(&mut self, place: usize) -> Option<T> {
        if place >= self.heap.len() {
            return None;
        }
        let entry = self.heap.swap_remove(place);
        entry.item.set_place(NOWHERE);
        if place < self.heap.len() {
            let moved = self.sift_up(place);
            self.sift_down(moved);
        }
        Some(entry.item)
    }

    /// Takes out the first item if it is due at `now` and was armed before `sequence`.
    pub(crate) fn pop_due(&mut self, now: i64, sequence: u64) -> Option<T> {
        let first = self.heap.first()?;
        if first.deadline > now || first.sequence >= sequence {
            return None;
        }
        self.remove(0)
    }

    /// Takes out every item that `wanted` accepts, with its deadline, in order.
    pub(crate) fn extract(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Vec<(i64, T)> {
        let (mut out, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.heap)
            .into_iter()
            .partition(|entry| wanted(&entry.item));
        for entry in rest {
            self.heap.push(entry);
            self.sift_up(self.heap.len() - 1);
        }
        out.sort_by_key(QueuedItem::key);
        out.into_iter()
            .map(|entry| {
                entry.item.set_place(NOWHERE);
                (entry.deadline, entry.item)
            })
            .collect()
    }

    fn sift_up(&mut self, mut place: usize) -> usize {
        while place > 0 {
            let parent = (place - 1) / ARITY;
            if self.heap[parent].key() <= self.heap[place].key() {
                break;
            }
            self.heap.swap(parent, place);
            self.heap[place].item.set_place(place);
            place = parent;
        }
        self.heap[place].item.set_place(place);
        place
    }

    fn sift_down(&mut self, mut place: usize) {
        loop {
            let children = place * ARITY + 1..(place * ARITY + 1 + ARITY).min(self.heap.len());
            let Some(least) = children.min_by_key(|&child| self.heap[child].key()) else {
                break;
            };
            if self.heap[place].key() <= self.heap[least].key() {
                break;
            }
            self.heap.swap(place, least);
            self.heap[place].item.set_place(place);
            place = least;
        }
        self.heap[place].item.set_place(place);
    }
}

#[cfg(test)]
mod tests {
    use super::{DeadlineQueue, Item, NOWHERE};
    use std::cell::Cell;
    use std::rc::Rc;

    struct TestItem {
        id: u64,
        place: Cell<usize>,
    }

    impl Item for Rc<TestItem> {
        fn set_place(&self, place: usize) {
            self.place.set(place);
        }
        fn place(&self) -> usize {
            self.place.get()
        }
    }

    fn entry(id: u64) -> Rc<TestItem> {
        Rc::new(TestItem {
            id,
            place: Cell::new(NOWHERE),
        })
    }

    fn drain(queue: &mut DeadlineQueue<Rc<TestItem>>) -> Vec<u64> {
        std::iter::from_fn(|| queue.pop_due(i64::MAX, u64::MAX))
            .map(|item| item.id)
            .collect()
    }

    #[test]
    fn equal_deadlines_leave_in_arming_order() {
        let mut queue = DeadlineQueue::new();
        for id in 0..20 {
            queue.insert(5, entry(id));
        }
        queue.insert(4, entry(99));
        assert_eq!(
            drain(&mut queue),
            std::iter::once(99).chain(0..20).collect::<Vec<_>>()
        );
    }

    #[test]
    fn random_arm_cancel_rearm_matches_a_sorted_model() {
        let mut random = 88_172_645_463_325_252u64;
        let mut next = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let mut queue = DeadlineQueue::new();
        let items: Vec<_> = (0..200).map(entry).collect();
        let mut model = Vec::new();
        for step in 0..5_000u64 {
            let item = &items[usize::try_from(next() % 200).unwrap()];
            let deadline = i64::try_from(next() % 50).unwrap();
            let is_armed = item.place.get() != NOWHERE;
            if is_armed {
                model.retain(|&(_, _, id)| id != item.id);
            }
            if is_armed && step % 2 == 0 {
                assert!(queue.remove(item.place.get()).is_some());
            } else if is_armed {
                assert!(queue.change(item.place.get(), deadline));
                model.push((deadline, step, item.id));
            } else {
                queue.insert(deadline, Rc::clone(item));
                model.push((deadline, step, item.id));
            }
            model.sort_unstable();
            assert_eq!(queue.first(), model.first().map(|&(first, ..)| first));
        }
        assert_eq!(
            drain(&mut queue),
            model.iter().map(|&(.., id)| id).collect::<Vec<_>>()
        );
    }

    #[test]
    fn pop_due_leaves_what_was_armed_during_the_pass() {
        let mut queue = DeadlineQueue::new();
        queue.insert(1, entry(1));
        let pass = queue.next_sequence();
        queue.insert(0, entry(2));
        assert!(
            queue.pop_due(10, pass).is_none(),
            "the later one is first and must wait for the next pass"
        );
        assert_eq!(drain(&mut queue), [2, 1]);
    }

    #[test]
    fn extract_takes_some_and_keeps_the_order_of_the_rest() {
        let mut queue = DeadlineQueue::new();
        for id in 0..30 {
            queue.insert(i64::try_from((id * 7) % 30).unwrap(), entry(id));
        }
        let out = queue.extract(|item| item.id % 3 == 0);
        assert!(out.is_sorted_by_key(|&(deadline, _)| deadline));
        assert_eq!(out.len(), 10);
        assert!(out.iter().all(|(_, item)| item.place.get() == NOWHERE));
        let rest = drain(&mut queue);
        assert_eq!(rest.len(), 20);
        assert!(rest.is_sorted_by_key(|id| (id * 7) % 30));
    }
}
