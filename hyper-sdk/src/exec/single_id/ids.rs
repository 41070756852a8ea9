//! Users and groups of a process, with the rules of the kernel (setuid(2) and related calls).

use rustix::io::Errno;

/// The user and the groups of a process as the step sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::exec) struct Ids {
    /// The real, effective, saved and file system user.
    pub(in crate::exec) user: [u32; 4],
    /// The same for the group.
    pub(in crate::exec) group: [u32; 4],
    /// The supplementary groups.
    pub(in crate::exec) groups: Vec<u32>,
    /// Whether it may become any user and change any file.
    capable: bool,
    /// Whether it keeps that right with another user (`PR_SET_KEEPCAPS`), until the next exec.
    keeps: bool,
}

const REAL: usize = 0;
const EFFECTIVE: usize = 1;
const SAVED: usize = 2;
const FILES: usize = 3;
/// The id that means "unchanged".
pub(super) const KEEP: u32 = u32::MAX;

/// Whether a call concerns the user or the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    User,
    Group,
}

impl Ids {
    /// A process whose ids are all the same.
    pub(in crate::exec) fn of(uid: u32, gid: u32, groups: Vec<u32>) -> Self {
        Self { user: [uid; 4], group: [gid; 4], groups, capable: uid == 0, keeps: false }
    }

    /// Whether it may become any user and change any file.
    pub(super) fn is_privileged(&self) -> bool {
        self.capable
    }

    /// `PR_SET_KEEPCAPS`.
    pub(super) fn keep(&mut self, keeps: bool) {
        self.keeps = keeps;
    }

    /// Updates the privileges after a change of user.
    fn changed(&mut self) {
        self.capable = self.user[EFFECTIVE] == 0 || (self.capable && self.keeps);
    }

    /// The owner of the files that it makes.
    pub(super) fn for_files(&self) -> (u32, u32) {
        (self.user[FILES], self.group[FILES])
    }

    /// Whether it has a group.
    pub(super) fn has_group(&self, gid: u32) -> bool {
        self.group[FILES] == gid || self.groups.contains(&gid)
    }

    pub(super) fn get(&self, kind: Kind) -> &[u32; 4] {
        match kind {
            Kind::User => &self.user,
            Kind::Group => &self.group,
        }
    }

    fn get_mut(&mut self, kind: Kind) -> &mut [u32; 4] {
        match kind {
            Kind::User => &mut self.user,
            Kind::Group => &mut self.group,
        }
    }

    /// `setuid` and `setgid`.
    pub(super) fn set(&mut self, kind: Kind, id: u32) -> Result<(), Errno> {
        let privileged = self.is_privileged();
        let ids = self.get_mut(kind);
        if id == KEEP {
            return Err(Errno::INVAL);
        } else if privileged {
            *ids = [id; 4];
        } else if id == ids[REAL] || id == ids[SAVED] {
            (ids[EFFECTIVE], ids[FILES]) = (id, id);
        } else {
            return Err(Errno::PERM);
        }
        self.changed();
        Ok(())
    }

    /// `setreuid` and `setregid`.
    pub(super) fn set_two(&mut self, kind: Kind, real: u32, effective: u32) -> Result<(), Errno> {
        let privileged = self.is_privileged();
        let ids = self.get_mut(kind);
        let old = *ids;
        let no_real = ![KEEP, old[REAL], old[EFFECTIVE]].contains(&real);
        let no_effective = ![KEEP, old[REAL], old[EFFECTIVE], old[SAVED]].contains(&effective);
        if !privileged && (no_real || no_effective) {
            return Err(Errno::PERM);
        }
        if real != KEEP {
            ids[REAL] = real;
        }
        if effective != KEEP {
            ids[EFFECTIVE] = effective;
        }
        if real != KEEP || (effective != KEEP && effective != old[REAL]) {
            ids[SAVED] = ids[EFFECTIVE];
        }
        ids[FILES] = ids[EFFECTIVE];
        self.changed();
        Ok(())
    }

    /// `setresuid` and `setresgid`.
    pub(super) fn set_three(&mut self, kind: Kind, new: [u32; 3]) -> Result<(), Errno> {
        let privileged = self.is_privileged();
        let ids = self.get_mut(kind);
        let allowed = |id: &u32| *id == KEEP || ids[..3].contains(id);
        if !privileged && !new.iter().all(allowed) {
            return Err(Errno::PERM);
        }
        for (place, id) in ids.iter_mut().zip(new) {
            if id != KEEP {
                *place = id;
            }
        }
        ids[FILES] = ids[EFFECTIVE];
        self.changed();
        Ok(())
    }

    /// `setfsuid` and `setfsgid`, which never fail. Returns the previous id.
    pub(super) fn set_for_files(&mut self, kind: Kind, id: u32) -> u32 {
        let privileged = self.is_privileged();
        let ids = self.get_mut(kind);
        let before = ids[FILES];
        if id != KEEP && (privileged || ids.contains(&id)) {
            ids[FILES] = id;
        }
        before
    }

    /// `setgroups`.
    pub(super) fn set_groups(&mut self, groups: Vec<u32>) -> Result<(), Errno> {
        if !self.is_privileged() {
            return Err(Errno::PERM);
        }
        self.groups = groups;
        Ok(())
    }

    /// The start of a program: `user` is the owner of a set-user-id one, `group` the group of a set-group-id one.
    pub(super) fn start(&mut self, user: Option<u32>, group: Option<u32>) {
        for (ids, new) in [(&mut self.user, user), (&mut self.group, group)] {
            if let Some(id) = new {
                ids[EFFECTIVE] = id;
            }
            (ids[SAVED], ids[FILES]) = (ids[EFFECTIVE], ids[EFFECTIVE]);
        }
        self.keeps = false;
        self.changed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_can_take_any_id_and_others_only_their_own() {
        let mut ids = Ids::of(0, 0, vec![0]);
        ids.set_groups(vec![7]).unwrap();
        ids.set(Kind::Group, 100).unwrap();
        ids.set(Kind::User, 1000).unwrap();
        assert_eq!(ids, Ids::of(1000, 100, vec![7]));
        assert_eq!(ids.set(Kind::User, 0), Err(Errno::PERM));
        assert_eq!(ids.set(Kind::Group, 0), Err(Errno::PERM));
        assert_eq!(ids.set_groups(vec![]), Err(Errno::PERM));
        assert_eq!(ids.set_two(Kind::User, KEEP, 0), Err(Errno::PERM));
        assert_eq!(ids.set_three(Kind::User, [KEEP, 0, KEEP]), Err(Errno::PERM));
        assert_eq!(ids.set_for_files(Kind::User, 5), 1000);
        assert_eq!(ids.for_files(), (1000, 100));
        ids.set(Kind::User, 1000).unwrap();
    }

    #[test]
    fn the_saved_id_can_be_restored() {
        let mut ids = Ids::of(0, 0, Vec::new());
        ids.set_two(Kind::User, KEEP, 1000).unwrap();
        assert_eq!(ids.user, [0, 1000, 1000, 1000]);
        ids.set_two(Kind::User, KEEP, 0).unwrap();
        ids.set_three(Kind::User, [KEEP, 1000, 0]).unwrap();
        assert_eq!(ids.user, [0, 1000, 0, 1000]);
        ids.set(Kind::User, 0).unwrap();
        assert_eq!(ids.user, [0, 0, 0, 0]);
        assert_eq!(ids.set(Kind::User, KEEP), Err(Errno::INVAL));
    }

    #[test]
    fn kept_privileges_end_with_the_next_exec() {
        let mut ids = Ids::of(0, 0, Vec::new());
        ids.keep(true);
        ids.set_three(Kind::User, [1000; 3]).unwrap();
        ids.set_three(Kind::Group, [1001; 3]).unwrap();
        ids.start(None, None);
        assert_eq!(ids.set(Kind::User, 0), Err(Errno::PERM));
        assert_eq!(ids, Ids::of(1000, 1001, Vec::new()));
    }

    #[test]
    fn a_setuid_program_has_the_privileges_of_its_owner() {
        let mut ids = Ids::of(1000, 1000, Vec::new());
        ids.start(Some(0), None);
        assert_eq!((ids.user, ids.group), ([1000, 0, 0, 0], [1000; 4]));
        ids.set(Kind::User, 0).unwrap();
        assert_eq!(ids.user, [0; 4]);
    }
}
