//! The processors as objects: `/machine/cpu/0` and so on.
//!
//! The objects exist from the machine's start to its end. After a reset a processor has a new thread with the same affinity.
#![forbid(unsafe_code)]

use std::sync::{Arc, Weak};

use super::{MicroVm, MicroVmCore};
use crate::kvm::vcpu::{VcpuInfo, VcpuState};
use crate::object::tree::{self, CPUS};
use crate::object::types::{self, Type};
use crate::object::{AFFINITY, AFFINITY_TYPE, cpu_list, cpus_of};
use crate::object::{Object, Property, Value, not_found, not_writable};
use crate::{Error, ErrorKind, Result};

const TYPE: &str = "vcpu";

/// The properties with their types, in listing order. `thread_id` can be read too.
const PROPERTIES: [(&str, &str); 6] = [
    ("type", "string"),
    ("index", "int"),
    ("thread-id", "int"),
    ("thread-name", "string"),
    ("state", "string"),
    (AFFINITY, AFFINITY_TYPE),
];

/// What `query-cpus-fast` answers for a processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuInfo {
    /// Its number.
    pub index: u8,
    /// Its path in the object tree.
    pub path: String,
    /// The kernel's id of its thread, -1 while it has none.
    pub thread_id: i64,
}

impl MicroVm {
    /// The processors.
    pub fn cpus(&self) -> Vec<CpuInfo> {
        let cpus = 0..self.0.options.cpus;
        cpus.map(|index| CpuInfo {
            index,
            path: path(index),
            thread_id: self.0.vcpu(index).thread_id,
        })
        .collect()
    }
}

/// Registers the type for `qom-list-types` and `qom-list-properties`.
#[doc(hidden)] // for `qctx`
pub fn register_type() {
    types::register(Type {
        name: TYPE,
        parent: "object",
        properties: properties(),
        options: Vec::new(),
        option_types: &[],
        create: None,
    });
}

fn properties() -> Vec<Property> {
    let all = PROPERTIES.into_iter();
    all.map(|(name, type_name)| Property::new(name, type_name))
        .collect()
}

fn path(index: u8) -> String {
    format!("{CPUS}/{index}")
}

/// The processors of a machine in the object tree. Dropping it removes them.
pub(super) struct CpuObjects(Vec<String>);

impl CpuObjects {
    /// Adds them.
    pub(super) fn new(machine: &Arc<MicroVmCore>) -> Result<CpuObjects> {
        let mut added = CpuObjects(Vec::new());
        for index in 0..machine.options.cpus {
            let object = Arc::new(CpuObject {
                machine: Arc::downgrade(machine),
                index,
            });
            tree::add_child(&path(index), object)?;
            added.0.push(path(index));
        }
        Ok(added)
    }
}

impl Drop for CpuObjects {
    fn drop(&mut self) {
        for path in &self.0 {
            tree::remove_child(path);
        }
    }
}

struct CpuObject {
    machine: Weak<MicroVmCore>,
    index: u8,
}

impl MicroVmCore {
    fn vcpu(&self, index: u8) -> VcpuInfo {
        let state = self.lock();
        let vcpus = state.machine.as_ref().map(|machine| machine.vcpus());
        drop(state);
        let found = vcpus.and_then(|vcpus| vcpus.get(usize::from(index)).copied());
        found.unwrap_or(VcpuInfo {
            thread_id: -1,
            state: VcpuState::Gone,
        })
    }

    /// The host's CPUs that the processor's thread may run on.
    fn affinity(&self, index: u8) -> Result<Vec<usize>> {
        let state = self.lock();
        match &state.machine {
            Some(machine) => machine.affinity(index.into()),
            None => Ok(state.affinities[usize::from(index)]
                .clone()
                .unwrap_or_default()),
        }
    }

    fn set_affinity(&self, index: u8, mut cpus: Vec<usize>) -> Result<()> {
        cpus.sort_unstable();
        cpus.dedup();
        let mut state = self.lock();
        let machine = state.machine.as_ref().ok_or_else(|| {
            Error::new(
                ErrorKind::Busy,
                "the machine has no threads, it is being reset or has ended",
            )
        })?;
        machine.set_affinity(index.into(), &cpus)?;
        state.affinities[usize::from(index)] = Some(cpus);
        drop(state);
        Ok(())
    }
}

impl CpuObject {
    fn machine(&self) -> Result<Arc<MicroVmCore>> {
        let machine = self.machine.upgrade();
        machine.ok_or_else(|| Error::new(ErrorKind::Closed, "the machine is gone"))
    }
}

impl Object for CpuObject {
    fn type_name(&self) -> &'static str {
        TYPE
    }

    fn properties(&self) -> Vec<Property> {
        properties()
    }

    fn get(&self, name: &str) -> Result<Value> {
        Ok(match name {
            "type" => TYPE.into(),
            "index" => i64::from(self.index).into(),
            "thread-id" | "thread_id" => self.machine()?.vcpu(self.index).thread_id.into(),
            "thread-name" => crate::kvm::vcpu::thread_name(self.index.into())
                .as_str()
                .into(),
            "state" => self.machine()?.vcpu(self.index).state.name().into(),
            AFFINITY => {
                let cpus = self.machine()?.affinity(self.index)?;
                cpu_list(cpus)
            }
            _ => return Err(not_found(TYPE, name)),
        })
    }

    fn set(&self, name: &str, value: Value) -> Result<()> {
        if name != AFFINITY {
            return match PROPERTIES.iter().any(|(known, _)| *known == name) {
                true => Err(not_writable(TYPE, name)),
                false => Err(not_found(TYPE, name)),
            };
        }
        let set = self.machine()?.set_affinity(self.index, cpus_of(&value)?);
        set.map_err(|error| {
            let path = path(self.index);
            Error::new(
                error.kind(),
                format!("Property '{AFFINITY}' of '{path}': {error}"),
            )
        })
    }
}
