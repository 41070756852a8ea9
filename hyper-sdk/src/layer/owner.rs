//! Owners that a file system cannot hold, as an attribute of a file or folder: `user.hyper.owner` = `uid:gid`.
//!
//! An overlay copies the attribute up with its file. It is in no layer: whoever writes one takes it for the owner.

use super::entry::{Entry, EntryKind};
use std::collections::BTreeMap;

/// The attribute.
pub(crate) const OWNER_ATTRIBUTE: &str = "user.hyper.owner";

/// What to say of an owner that a user namespace does not map.
pub(crate) const BEYOND: &str = "the owner is beyond the ids of this user: give it a longer range in /etc/subuid and \
                                 /etc/subgid, or build as root";

/// The value for an owner.
pub(crate) fn format_owner((uid, gid): (u32, u32)) -> String {
    format!("{uid}:{gid}")
}

/// The owner that a value says; `None` for what is no such value. The last number is no id: the kernel takes it for "as it
/// is".
pub(crate) fn parse_owner(value: &[u8]) -> Option<(u32, u32)> {
    let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
    let id = |text: &str| text.parse().ok().filter(|id| *id != u32::MAX);
    Some((id(uid)?, id(gid)?))
}

/// The attributes that an unpacked entry gets: with `records` also its owner, and none that a layer brings as one.
pub(super) fn attributes(entry: &Entry, records: bool) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut attributes = entry.xattrs.clone();
    if records {
        let carries = matches!(entry.kind, EntryKind::File { .. } | EntryKind::Directory);
        attributes.remove(OWNER_ATTRIBUTE.as_bytes());
        if carries && (entry.uid, entry.gid) != (0, 0) {
            let value = format_owner((entry.uid, entry.gid)).into_bytes();
            attributes.insert(OWNER_ATTRIBUTE.as_bytes().to_vec(), value);
        }
    }
    attributes
}

/// Takes the attribute away from the others.
pub(super) fn take_owner(attributes: &mut BTreeMap<Vec<u8>, Vec<u8>>) -> Option<(u32, u32)> {
    attributes.remove(OWNER_ATTRIBUTE.as_bytes()).and_then(|value| parse_owner(&value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_come_back_and_nonsense_is_none() {
        assert_eq!(parse_owner(format_owner((4_294_967_294, 7)).as_bytes()), Some((4_294_967_294, 7)));
        for text in ["", "1", "1:", "a:1", "1:2:3", "-1:2", "4294967296:1", "4294967295:1", "1:4294967295"] {
            assert_eq!(parse_owner(text.as_bytes()), None, "{text}");
        }
    }
}
