//! Users and groups of an image: `/etc/passwd` and `/etc/group` are parsed here, never by the host's libraries.
//!
//! Two rules differ on purpose. An owner (`--chown`, the folder of WORKDIR) given as a single number has the same
//! number as its group. A process (USER) given as a single number has the group of its entry in the password file, or
//! 0.

use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// The owner of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// An owner and the names that could not be found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResolvedOwner {
    /// The owner; a name that is not found counts as 0.
    pub owner: Owner,
    /// The names that were not found. Other builders use 0 silently; callers should warn.
    pub missing: Vec<String>,
}

/// The user and groups of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessUser {
    /// The user.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// The supplementary groups; empty when a group was given.
    pub groups: Vec<u32>,
    /// The home folder, if the password file has one.
    pub home: Option<String>,
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: Vec<&'a str>,
}

fn lines(file: Option<&[u8]>) -> impl Iterator<Item = Vec<&str>> {
    file.unwrap_or_default()
        .split(|&b| b == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split(':').collect())
}

/// A missing or invalid field is 0, as with other builders.
fn number_field(fields: &[&str], at: usize) -> u32 {
    fields.get(at).and_then(|field| field.parse().ok()).unwrap_or(0)
}

fn users(passwd: Option<&[u8]>) -> impl Iterator<Item = User<'_>> {
    lines(passwd).filter_map(|fields| {
        Some(User {
            name: fields.first()?,
            uid: number_field(&fields, 2),
            gid: number_field(&fields, 3),
            home: fields.get(5).copied().unwrap_or_default(),
        })
    })
}

fn groups(group: Option<&[u8]>) -> impl Iterator<Item = Group<'_>> {
    lines(group).filter_map(|fields| {
        Some(Group {
            name: fields.first()?,
            gid: number_field(&fields, 2),
            members: fields.get(3).map(|m| m.split(',').map(str::trim).collect()).unwrap_or_default(),
        })
    })
}

/// A decimal id, at most `i32::MAX`.
fn number(text: &str) -> Option<u32> {
    text.parse::<i32>().ok().and_then(|n| u32::try_from(n).ok())
}

/// Finds the owner that `USER[:GROUP]` names, with the files of the destination's root file system.
///
/// A name has its primary group, a number is also the group, and `:GROUP` overrides both. `root` is always 0, and an
/// empty part is 0. Names that are not found become 0 and are listed in [`ResolvedOwner::missing`].
pub(crate) fn resolve_owner(spec: &str, passwd: Option<&[u8]>, group: Option<&[u8]>) -> ResolvedOwner {
    let (user_part, group_part) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    };
    let mut resolved = ResolvedOwner::default();
    if let Some(uid) = number(user_part) {
        resolved.owner = Owner { uid, gid: uid };
    } else if !user_part.is_empty() {
        match users(passwd).find(|u| u.name == user_part) {
            // `root` is user 0 even without a password file.
            _ if user_part == "root" => {}
            Some(user) => resolved.owner = Owner { uid: user.uid, gid: user.gid },
            None => resolved.missing.push(user_part.to_owned()),
        }
    }
    match group_part {
        None => {}
        Some("" | "root") => resolved.owner.gid = 0,
        Some(name) => match (number(name), groups(group).find(|g| g.name == name)) {
            (Some(gid), _) => resolved.owner.gid = gid,
            (None, Some(found)) => resolved.owner.gid = found.gid,
            (None, None) => resolved.missing.push(name.to_owned()),
        },
    }
    resolved
}

/// Finds the identity that `USER[:GROUP]` names for a process, with the files of its root file system.
///
/// An empty text is root. A number without an entry in the password file is used as it is, with group 0.
///
/// # Errors
/// [`ErrorKind::NotFound`] when a name is in neither file, [`ErrorKind::Invalid`] for a number out of range.
pub fn resolve_user(spec: &str, passwd: Option<&[u8]>, group: Option<&[u8]>) -> Result<ProcessUser> {
    let spec = if spec.is_empty() { "0" } else { spec };
    let (user_part, group_part) = spec.split_once(':').unwrap_or((spec, ""));
    let user_part = if user_part.is_empty() { "0" } else { user_part };
    let uid = id_or_name(user_part, "user")?;
    let found = users(passwd).find(|u| match uid {
        Some(uid) => u.uid == uid,
        None => u.name == user_part,
    });
    let mut identity = ProcessUser::default();
    match (&found, uid) {
        (Some(user), _) => {
            identity.uid = user.uid;
            identity.gid = user.gid;
            identity.home = (!user.home.is_empty()).then(|| user.home.to_owned());
        }
        (None, Some(uid)) => identity.uid = uid,
        (None, None) if user_part == "root" => {}
        (None, None) => return Err(unknown("user", user_part, "/etc/passwd")),
    }
    if group_part.is_empty() {
        if let Some(user) = found {
            identity.groups =
                groups(group).filter(|g| g.members.contains(&user.name)).map(|g| g.gid).collect();
        }
        return Ok(identity);
    }
    identity.gid = match id_or_name(group_part, "group")? {
        Some(gid) => gid,
        None => match groups(group).find(|g| g.name == group_part) {
            Some(found) => found.gid,
            None if group_part == "root" => 0,
            None => return Err(unknown("group", group_part, "/etc/group")),
        },
    };
    Ok(identity)
}

fn id_or_name(text: &str, what: &str) -> Result<Option<u32>> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match number(text) {
        Some(id) => Ok(Some(id)),
        None => Err(Error::invalid(format!("the {what} number `{text}` is not between 0 and {}", i32::MAX))),
    }
}

fn unknown(what: &str, name: &str, file: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("no {what} `{name}` in {file} of the image: create it in an earlier step or give its number"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] =
        b"root:x:0:0:root:/root:/bin/sh\n# c\nbroken\nlp:x:7:8:lp:/var/spool:/sbin/nologin\nbin:x:2:3::/bin:\nodd:x:xx:14\n";
    const GROUP: &[u8] = b"root:x:0:\nadm:x:4:lp,bin\nmail:x:12:lp\nlp:x:8:\n";

    #[test]
    fn owners_are_resolved_by_name_and_number() {
        for (spec, uid, gid) in [
            ("1:2", 1, 2),
            ("1:adm", 1, 4),
            ("1", 1, 1),
            ("lp", 7, 8),
            ("lp:adm", 7, 4),
            ("bin", 2, 3),
            ("root", 0, 0),
            ("lp:", 7, 0),
            (":adm", 0, 4),
            ("odd", 0, 14),
            ("broken", 0, 0),
        ] {
            let resolved = resolve_owner(spec, Some(PASSWD), Some(GROUP));
            assert_eq!(resolved.owner, Owner { uid, gid }, "{spec}");
            assert!(resolved.missing.is_empty(), "{spec}");
        }
        let resolved = resolve_owner("nobody:nogroup", None, None);
        assert_eq!((resolved.owner, resolved.missing.len()), (Owner::default(), 2));
    }

    #[test]
    fn users_of_processes_are_resolved_with_their_groups() {
        let of = |spec: &str| resolve_user(spec, Some(PASSWD), Some(GROUP));
        let lp = of("lp").unwrap();
        assert_eq!((lp.uid, lp.gid, lp.groups, lp.home.as_deref()), (7, 8, vec![4, 12], Some("/var/spool")));
        assert_eq!(of("7").unwrap().groups, [4, 12]);
        let lp = of("lp:adm").unwrap();
        assert_eq!((lp.uid, lp.gid, lp.groups), (7, 4, vec![]));
        let numbers = of("66:67").unwrap();
        assert_eq!((numbers.uid, numbers.gid, numbers.home), (66, 67, None));
        assert_eq!(of("66").unwrap().gid, 0);
        assert_eq!(of("").unwrap().home.as_deref(), Some("/root"));
        assert_eq!(of("nobody").unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(of("lp:nogroup").unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(of("4294967295").unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(of("-1").unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(resolve_user("root:root", None, None).unwrap(), ProcessUser::default());
    }
}
