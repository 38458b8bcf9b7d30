//! A bare 4-ary heap of deadlines, the keys in the array, with the place of each timer on the side.
#![forbid(unsafe_code)]

const ARITY: usize = 4;
const NOWHERE: usize = usize::MAX;

#[derive(Default)]
pub(crate) struct Heap {
    /// Deadline and timer.
    entries: Vec<(i64, usize)>,
    places: Vec<usize>,
}

impl Heap {
    pub(crate) fn timer(&mut self) -> usize {
        self.places.push(NOWHERE);
        self.places.len() - 1
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.places.clear();
    }

    pub(crate) fn first(&self) -> Option<i64> {
        self.entries.first().map(|entry| entry.0)
    }

    pub(crate) fn arm(&mut self, timer: usize, deadline: i64) {
        let place = self.places[timer];
        if place == NOWHERE {
            self.entries.push((deadline, timer));
            self.sift_up(self.entries.len() - 1);
        } else {
            let earlier = deadline < self.entries[place].0;
            self.entries[place].0 = deadline;
            if earlier {
                self.sift_up(place);
            } else {
                self.sift_down(place);
            }
        }
    }

    /// Takes the first timer if it is due.
    pub(crate) fn pop(&mut self, now: i64) -> Option<usize> {
        let &(deadline, timer) = self.entries.first()?;
        if deadline > now {
            return None;
        }
        self.places[timer] = NOWHERE;
        let last = self.entries.pop()?;
        if let Some(first) = self.entries.first_mut() {
            *first = last;
            self.sift_down(0);
        }
        Some(timer)
    }

    fn put(&mut self, place: usize, entry: (i64, usize)) {
        self.entries[place] = entry;
        self.places[entry.1] = place;
    }

    fn sift_up(&mut self, mut place: usize) {
        let entry = self.entries[place];
        while place > 0 {
            let parent = (place - 1) / ARITY;
            if self.entries[parent].0 <= entry.0 {
                break;
            }
            self.put(place, self.entries[parent]);
            place = parent;
        }
        self.put(place, entry);
    }

    fn sift_down(&mut self, mut place: usize) {
        let entry = self.entries[place];
        loop {
            let first = place * ARITY + 1;
            let end = (first + ARITY).min(self.entries.len());
            let Some(least) = (first..end).min_by_key(|&child| self.entries[child].0) else {
                break;
            };
            if entry.0 <= self.entries[least].0 {
                break;
            }
            self.put(place, self.entries[least]);
            place = least;
        }
        self.put(place, entry);
    }
}
