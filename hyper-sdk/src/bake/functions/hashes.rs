//! Functions that hash, and unique identifiers.

use super::{Arguments, Outcome, Table, Value};
use sha2::Digest as _;
use std::fmt::Write as _;

pub(super) const TABLE: Table = &[
    ("md5", |a| hash(a, |text| hex(&md5::Md5::digest(text)))),
    ("sha1", |a| hash(a, |text| hex(&sha1::Sha1::digest(text)))),
    ("sha256", |a| hash(a, |text| hex(&sha2::Sha256::digest(text)))),
    ("sha512", |a| hash(a, |text| hex(&sha2::Sha512::digest(text)))),
    ("uuidv4", |a| {
        a.exactly(0)?;
        Ok(Value::string(uuid((a.world.random)(), 4)))
    }),
    ("uuidv5", name_based),
];

fn hash(a: &Arguments<'_>, f: impl Fn(&[u8]) -> String) -> Outcome<Value> {
    a.exactly(1)?;
    Ok(Value::string(f(a.text(0)?.as_bytes())))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// An identifier of a version, with the other bits from a number.
fn uuid(bits: u128, version: u128) -> String {
    let bits = bits & !(0xf << 76) & !(0b11 << 62) | version << 76 | 0b10 << 62;
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

fn name_based(a: &Arguments<'_>) -> Outcome<Value> {
    a.exactly(2)?;
    let namespace = match &*a.text(0)? {
        "dns" | "" => 0x6ba7_b810_9dad_11d1_80b4_00c0_4fd4_30c8_u128,
        "url" => 0x6ba7_b811_9dad_11d1_80b4_00c0_4fd4_30c8,
        "oid" => 0x6ba7_b812_9dad_11d1_80b4_00c0_4fd4_30c8,
        "x500" => 0x6ba7_b814_9dad_11d1_80b4_00c0_4fd4_30c8,
        other => u128::from_str_radix(&other.replace('-', ""), 16)
            .map_err(|_| "argument 1: expected dns, url, oid, x500 or a UUID")?,
    };
    let digest = sha1::Sha1::digest([&namespace.to_be_bytes()[..], a.text(1)?.as_bytes()].concat());
    let bits = digest.iter().take(16).fold(0, |bits, byte| bits << 8 | u128::from(*byte));
    Ok(Value::string(uuid(bits, 5)))
}
