//! The containers that are not forgotten, and the slots of the register in which their records are.
use super::LaunchError;
use crate::{
    process::{Handle, Identity},
    shim::Register,
};
use bellows_model::ContainerId;
use std::{collections::HashMap, io, path::Path, sync::Arc};

const CONTAINERS_LIMIT: usize = 65_536;

/// Where a container's record is.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) register: Arc<Register>,
    pub(super) slot: u32,
}

/// All that are not forgotten.
pub(super) struct Containers {
    /// The file at the register's path; an earlier one that was deleted goes with the last container in it.
    pub(super) register: Arc<Register>,
    pub(super) slots: HashMap<ContainerId, Place>,
    /// Below `slots_end`.
    pub(super) free_slots: Vec<u32>,
    slots_end: u32,
    pub(super) running: HashMap<ContainerId, Arc<Shim>>,
}

impl Containers {
    /// Opens the register, or makes one.
    pub(super) fn open(register_path: &Path) -> io::Result<Self> {
        let register = Arc::new(Register::open(register_path)?);
        let (mut slots, mut free_slots, slots_end) = (HashMap::new(), Vec::new(), register.slots()?);
        for slot in 0..slots_end {
            match register.read(slot)? {
                Some(record) => {
                    let place = Place { register: register.clone(), slot };
                    slots.insert(record.container_id.into(), place);
                }
                None => free_slots.push(slot),
            }
        }
        Ok(Self { register, slots, free_slots, slots_end, running: HashMap::new() })
    }

    pub(super) fn take_slot(&mut self, id: &ContainerId) -> Result<Place, LaunchError> {
        if self.slots.contains_key(id) {
            return Err(LaunchError::Exists(id.clone()));
        }
        if self.slots.len() >= CONTAINERS_LIMIT {
            return Err(LaunchError::Shim(format!("there are {CONTAINERS_LIMIT} containers already")));
        }
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            self.slots_end += 1;
            self.slots_end - 1
        });
        let place = Place { register: self.register.clone(), slot };
        self.slots.insert(id.clone(), place.clone());
        Ok(place)
    }
}

/// A shim that was seen alive.
pub(super) struct Shim {
    pub(super) handle: Handle,
    pub(super) task: Identity,
}
