//! The types of QMP: what commands take and return, what events carry, and what `-blockdev` and `--export` describe.
//!
//! A command stands beside its [`CommandType`], a block driver beside its members. From these descriptions arguments are
//! [checked](check()) before a command runs, with QEMU's error texts, and [`describe()`] makes the answer of
//! `query-qmp-schema`. So the answer is what the program does.
//!
//! * `check`: values against types
//! * `nest`: dotted keys as nested objects
//! * `describe`: the types as `query-qmp-schema` shows them
//!
//! # Threads
//! Types are constants. Any thread may use them.
#![forbid(unsafe_code)]

mod check;
mod describe;
mod nest;
#[cfg(test)]
mod tests;

pub use check::{check, check_value};
pub use describe::describe;

/// The type of a value.
#[derive(Clone, Copy, Debug)]
pub enum ValueType {
    /// A string.
    Str,
    /// A boolean.
    Bool,
    /// A signed integer of 64 bits.
    Int,
    /// An unsigned integer that fits into this many bits.
    Uint(u32),
    /// A number of bytes. In an option string it may have a suffix.
    Size,
    /// Any number.
    Number,
    /// JSON's null.
    Null,
    /// Any value.
    Any,
    /// One of several strings.
    Enum(EnumType),
    /// A list of values of one type.
    Array(&'static ValueType),
    /// An object.
    Object(&'static ObjectType),
    /// A value of one of several types, which JSON tells apart.
    Alternate(&'static AlternateType),
}

/// One of several strings.
#[derive(Clone, Copy, Debug)]
pub struct EnumType {
    /// The type's name.
    pub name: &'static str,
    values: EnumValues,
}

#[derive(Clone, Copy, Debug)]
enum EnumValues {
    Listed(&'static [&'static str]),
    /// Separated by `|`.
    Joined(&'static str),
    /// The tags of the cases.
    Tags(fn() -> Vec<Case>),
}

impl EnumType {
    /// A type with this name and these values.
    pub const fn new(name: &'static str, values: &'static [&'static str]) -> EnumType {
        EnumType {
            name,
            values: EnumValues::Listed(values),
        }
    }

    /// A type whose values are given as `a|b|c`, which is its name, too.
    pub const fn joined(values: &'static str) -> EnumType {
        EnumType {
            name: values,
            values: EnumValues::Joined(values),
        }
    }

    /// What the string may be.
    fn values(&self) -> Vec<&'static str> {
        match self.values {
            EnumValues::Listed(values) => values.to_vec(),
            EnumValues::Joined(values) => values.split('|').collect(),
            EnumValues::Tags(cases) => cases().iter().map(|case| case.tag).collect(),
        }
    }
}

/// A member of an object.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// The member's name.
    pub name: &'static str,
    /// The type of its value.
    pub value: ValueType,
    /// Whether it may be absent.
    pub is_optional: bool,
}

impl Member {
    /// A member that must be there.
    pub const fn new(name: &'static str, value: ValueType) -> Member {
        Member {
            name,
            value,
            is_optional: false,
        }
    }

    /// A member that may be absent.
    pub const fn optional(name: &'static str, value: ValueType) -> Member {
        Member {
            name,
            value,
            is_optional: true,
        }
    }
}

/// An object.
#[derive(Debug)]
pub struct ObjectType {
    /// The type's name.
    pub name: &'static str,
    /// The members of every such object.
    pub members: &'static [Member],
    /// Members that depend on one member's value.
    pub variants: Option<Variants>,
    /// Whether an object may have members that are not described.
    pub is_open: bool,
}

impl ObjectType {
    /// An object with these members.
    pub const fn new(name: &'static str, members: &'static [Member]) -> ObjectType {
        ObjectType {
            name,
            members,
            variants: None,
            is_open: false,
        }
    }

    /// An object whose member `tag` comes first and says which other members there are besides `members`.
    pub const fn tagged(
        name: &'static str,
        members: &'static [Member],
        variants: Variants,
    ) -> ObjectType {
        ObjectType {
            name,
            members,
            variants: Some(variants),
            is_open: false,
        }
    }
}

/// The arguments of a command without arguments.
pub static NOTHING: ObjectType = ObjectType::new("q_empty", &[]);

/// Members that depend on the value of the member `tag`.
#[derive(Debug)]
pub struct Variants {
    /// The name of the member that decides.
    pub tag: &'static str,
    /// The name of that member's type.
    pub tag_type: &'static str,
    /// The cases that there are now.
    pub cases: fn() -> Vec<Case>,
}

impl Variants {
    /// The member that decides.
    fn tag_member(&self) -> Member {
        let values = EnumType {
            name: self.tag_type,
            values: EnumValues::Tags(self.cases),
        };
        Member::new(self.tag, ValueType::Enum(values))
    }
}

/// The members of an object whose tag has a certain value.
#[derive(Clone, Debug)]
pub struct Case {
    /// The value.
    pub tag: &'static str,
    /// The members.
    pub members: Vec<Member>,
}

impl Case {
    /// A case with these members.
    pub fn new(tag: &'static str, members: &[Member]) -> Case {
        Case {
            tag,
            members: members.to_vec(),
        }
    }
}

/// A value of one of several types.
#[derive(Debug)]
pub struct AlternateType {
    /// The type's name.
    pub name: &'static str,
    /// The types.
    pub branches: &'static [ValueType],
}

/// A command.
#[derive(Debug)]
pub struct CommandType {
    /// Its name.
    pub name: &'static str,
    /// Its arguments.
    pub arguments: &'static ObjectType,
    /// What it answers.
    pub returns: ValueType,
}

impl CommandType {
    /// A command that answers an empty object.
    pub const fn new(name: &'static str, arguments: &'static ObjectType) -> CommandType {
        CommandType::returning(name, arguments, ValueType::Object(&NOTHING))
    }

    /// A command that answers a value.
    pub const fn returning(
        name: &'static str,
        arguments: &'static ObjectType,
        returns: ValueType,
    ) -> CommandType {
        CommandType {
            name,
            arguments,
            returns,
        }
    }
}

/// An event.
#[derive(Debug)]
pub struct EventType {
    /// Its name.
    pub name: &'static str,
    /// What it carries.
    pub data: &'static ObjectType,
}

impl EventType {
    /// An event that carries `data`.
    pub const fn new(name: &'static str, data: &'static ObjectType) -> EventType {
        EventType { name, data }
    }
}
