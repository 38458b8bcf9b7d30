//! A throttle group as an object: `-object throttle-group,id=tg0,limits.iops-total=100`.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::group::ThrottleGroup;
use super::limits::{Limits, SINGLES, THROTTLE_LIMITS};
use crate::Result;
use crate::object::types::{self, Type};
use crate::object::{Object, Options, Property, Value, expected, not_found, not_writable, tree};
use crate::schema::ObjectType;

static OPTION_TYPES: [&ObjectType; 1] = [&THROTTLE_LIMITS];

const TYPE: &str = "throttle-group";

/// The spelling of a limit as an option or property of its own.
const SINGLE: &str = "x-";

/// Makes the type known to `-object` and `object-add`.
pub(crate) fn register() {
    types::register(Type {
        name: TYPE,
        parent: "object",
        properties: properties(),
        options: [&[("limits", THROTTLE_LIMITS.name)][..], &SINGLES].concat(),
        option_types: &OPTION_TYPES,
        create: Some(create),
    });
}

fn properties() -> Vec<Property> {
    let fixed = [("type", "string"), ("limits", THROTTLE_LIMITS.name)];
    fixed
        .into_iter()
        .chain(SINGLES)
        .map(|(name, kind)| Property::new(name, kind))
        .collect()
}

fn create(id: &str, mut options: Options) -> Result<Arc<dyn Object>> {
    let mut limits = Limits::default();
    let mut given = match options.take("limits") {
        Some(Value::Dict(members)) => Options::from_dict(members),
        Some(_) => return Err(expected("limits", "object")),
        None => options.take_group("limits")?,
    };
    limits.take(&mut given, "")?;
    given.finish()?;
    limits.take(&mut options, SINGLE)?;
    options.finish()?;
    let group = Arc::new(GroupObject(ThrottleGroup::create(id, limits)?));
    let object: Arc<dyn Object> = Arc::<GroupObject>::clone(&group);
    tree::add_child(&format!("/objects/{id}"), Arc::clone(&object))?;
    Ok(object)
}

struct GroupObject(Arc<ThrottleGroup>);

impl GroupObject {
    fn change(&self, mut keys: Options, prefix: &str) -> Result<()> {
        let mut limits = self.0.limits();
        limits.take(&mut keys, prefix)?;
        keys.finish()?;
        self.0.set_limits(limits);
        Ok(())
    }
}

impl Object for GroupObject {
    fn type_name(&self) -> &'static str {
        TYPE
    }

    fn properties(&self) -> Vec<Property> {
        properties()
    }

    fn get(&self, name: &str) -> Result<Value> {
        let limits = || self.0.limits().to_value();
        match name {
            "type" => Ok(TYPE.into()),
            "limits" => Ok(limits()),
            _ => name
                .strip_prefix(SINGLE)
                .and_then(|name| limits().member(name).cloned())
                .ok_or_else(|| not_found(TYPE, name)),
        }
    }

    fn set(&self, name: &str, value: Value) -> Result<()> {
        let before = self.get(name)?;
        match (name, value) {
            ("type", _) => Err(not_writable(TYPE, name)),
            ("limits", Value::Dict(members)) => self.change(Options::from_dict(members), ""),
            ("limits", _) => Err(expected(name, "object")),
            (_, value) if matches!(before, Value::Int(_)) => {
                let one = vec![(name.to_owned(), value)];
                self.change(Options::from_dict(one), SINGLE)
            }
            _ => Err(expected(name, "integer")),
        }
    }

    fn retire(&self) -> Result<()> {
        self.0.retire()
    }
}
