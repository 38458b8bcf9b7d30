//! Permissions: what a parent does with a node, and what it lets others do with it. They are QEMU's.
//!
//! Used by [`super::graph`], which compares the permissions of all parents of a node.
#![forbid(unsafe_code)]

use std::fmt;

/// A set of things that a parent does with a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions(u8);

impl Permissions {
    /// Nothing.
    pub const NONE: Permissions = Permissions(0);
    /// Reads, and expects that the data make sense: they are not another parent's half-done work.
    pub const CONSISTENT_READ: Permissions = Permissions(1);
    /// Changes what is read.
    pub const WRITE: Permissions = Permissions(1 << 1);
    /// Writes without changing what is read, as a copy to a faster place does.
    pub const WRITE_UNCHANGED: Permissions = Permissions(1 << 2);
    /// Changes the length.
    pub const RESIZE: Permissions = Permissions(1 << 3);
    /// Everything.
    pub const ALL: Permissions = Permissions(0xf);

    const NAMES: [(Permissions, &'static str); 4] = [
        (Permissions::CONSISTENT_READ, "consistent read"),
        (Permissions::WRITE, "write"),
        (Permissions::WRITE_UNCHANGED, "write unchanged"),
        (Permissions::RESIZE, "resize"),
    ];

    /// What is in this set or in `other`.
    #[must_use]
    pub const fn and(self, other: Permissions) -> Permissions {
        Permissions(self.0 | other.0)
    }

    /// What is in this set and in `other`.
    #[must_use]
    pub(crate) const fn common(self, other: Permissions) -> Permissions {
        Permissions(self.0 & other.0)
    }

    /// What is in this set and not in `other`.
    #[must_use]
    pub(crate) const fn without(self, other: Permissions) -> Permissions {
        Permissions(self.0 & !other.0)
    }

    /// Whether all of `other` is in this set.
    pub(crate) const fn contains(self, other: Permissions) -> bool {
        other.without(self).0 == 0
    }

    /// The names of what is in the set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let contained = move |(one, _): &(Permissions, &str)| self.contains(*one);
        Self::NAMES
            .into_iter()
            .filter(contained)
            .map(|(_, name)| name)
    }

    /// Whether the set has nothing in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Permissions {
    /// The names, separated by commas.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.names().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{name}")?;
        }
        Ok(())
    }
}

/// What a parent needs of a node, and what it shares: lets the node's other parents do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// What the parent does.
    pub needs: Permissions,
    /// What others may do meanwhile.
    pub shares: Permissions,
}

impl Access {
    /// Needs nothing and shares everything.
    pub const NEUTRAL: Access = Access {
        needs: Permissions::NONE,
        shares: Permissions::ALL,
    };

    /// Needs what either needs and shares what both share.
    #[must_use]
    pub const fn and(self, other: Access) -> Access {
        Access {
            needs: self.needs.and(other.needs),
            shares: self.shares.common(other.shares),
        }
    }

    /// What this access needs and `other` does not share.
    pub(crate) const fn unshared_by(self, other: Access) -> Permissions {
        self.needs.without(other.shares)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_qemu() {
        let cases = [
            (Permissions::NONE, ""),
            (Permissions::RESIZE, "resize"),
            (
                Permissions::ALL,
                "consistent read, write, write unchanged, resize",
            ),
        ];
        for (set, expected) in cases {
            assert_eq!(set.to_string(), expected);
        }
    }
}
