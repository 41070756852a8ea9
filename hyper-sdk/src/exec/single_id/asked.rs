//! A pending call of a step.

use super::calls::Known;
use super::ids::{Ids, KEEP};
use super::lookup::Caller;
use crate::exec::notify::Request;

/// One call with its decoded arguments.
pub(super) struct Asked<'a> {
    pub(super) request: &'a Request,
    pub(super) known: Known,
    pub(super) caller: Caller<'a>,
    pub(super) ids: Ids,
}

impl Asked<'_> {
    /// An argument that is a file, a set of flags or another number.
    pub(super) fn number(&self, index: usize) -> i32 {
        self.request.args[index] as i32
    }

    /// An argument that is an id.
    pub(super) fn id(&self, index: usize) -> u32 {
        let id = self.request.args[index] as u32;
        match self.known.short {
            true if id as u16 == u16::MAX => KEEP,
            true => u32::from(id as u16),
            false => id,
        }
    }

    /// An argument that is a path.
    pub(super) fn path(&self, index: usize) -> rustix::io::Result<Vec<u8>> {
        self.caller.path(self.request.args[index])
    }
}
