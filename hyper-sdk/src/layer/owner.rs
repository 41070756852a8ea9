//! Owners that cannot be set, as an attribute of a file or folder: `user.hyper.owner` = `uid:gid`.
//!
//! An overlay copies the attribute up with its file. Layers do not contain it: a layer has the owner itself.

use super::entry::{Entry, EntryKind};
use std::collections::BTreeMap;

/// The attribute.
pub(crate) const OWNER_ATTRIBUTE: &str = "user.hyper.owner";

/// The message about an owner that a user namespace does not map.
pub(crate) const UNMAPPED_OWNER: &str = "the owner is beyond the ids of this user: give it a longer range in /etc/subuid and \
                                 /etc/subgid, or build as root";

/// The value of the attribute for an owner.
pub(crate) fn format_owner((uid, gid): (u32, u32)) -> String {
    format!("{uid}:{gid}")
}

/// The owner in a value; `None` for an invalid value. The largest number is not an id: it means "unchanged" to the
/// kernel.
pub(crate) fn parse_owner(value: &[u8]) -> Option<(u32, u32)> {
    let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
    let id = |text: &str| text.parse().ok().filter(|id| *id != u32::MAX);
    Some((id(uid)?, id(gid)?))
}

/// The attributes of an unpacked entry. With `records` they include its owner. An owner attribute in the layer is
/// dropped.
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

/// Removes the owner attribute from the others and returns its value.
pub(super) fn take_owner(attributes: &mut BTreeMap<Vec<u8>, Vec<u8>>) -> Option<(u32, u32)> {
    attributes.remove(OWNER_ATTRIBUTE.as_bytes()).and_then(|value| parse_owner(&value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_round_trip_and_invalid_values_are_none() {
        assert_eq!(parse_owner(format_owner((4_294_967_294, 7)).as_bytes()), Some((4_294_967_294, 7)));
        for text in ["", "1", "1:", "a:1", "1:2:3", "-1:2", "4294967296:1", "4294967295:1", "1:4294967295"] {
            assert_eq!(parse_owner(text.as_bytes()), None, "{text}");
        }
    }
}
