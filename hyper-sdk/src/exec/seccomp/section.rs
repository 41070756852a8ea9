//! The policy of a step as the section `linux.seccomp` of an OCI runtime's configuration, for runtimes that make the filter
//! themselves.
//!
//! The section has names where the filter has numbers, and says only what is allowed: the runtime answers everything else
//! with EPERM. Two things are not as in the filter. What a call newer than the runtime's library returns is for the runtime
//! to say. And no program of 32-bit x86 runs: there `socketcall` makes sockets of families that no section can tell apart,
//! because the libraries of the runtimes allow it whole wherever `socket` is allowed for some family.

use super::{ABSENT, ALLOW, Case, DENY, KIND_MASK, Rule, When, policy};
use crate::exec::syscalls::{Abi, SOCKETCALL};
use crate::{Error, Result};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// A condition: the argument of this index, masked, is this value.
type Is = (u8, u32, u32);

/// The section for steps on the host's network or without it.
///
/// # Errors
/// [`crate::ErrorKind::Unsupported`] on a machine without a list of system calls.
pub(in crate::exec) fn section(host_network: bool) -> Result<Value> {
    let (names, abis): (&[&str], &[Abi]) = match std::env::consts::ARCH {
        "x86_64" => (&["SCMP_ARCH_X86_64"], &[Abi::X86_64]),
        "aarch64" => (&["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"], &[Abi::Aarch64, Abi::Arm]),
        "riscv64" => (&["SCMP_ARCH_RISCV64"], &[Abi::Riscv64]),
        _ => return Err(Error::unsupported("a system call filter cannot be made for this machine")),
    };
    let policy = policy(host_network, false);
    let known = policy
        .rules
        .iter()
        .filter(|rule| rule.call != SOCKETCALL && abis.iter().any(|abi| rule.call.number(*abi).is_some()));
    let mut always = Vec::new();
    let mut calls = Vec::new();
    for rule in known {
        let name = rule.call.name;
        match (rule.cases.as_slice(), rule.otherwise) {
            ([], ALLOW) => always.push(name),
            ([], DENY) => {}
            ([], ABSENT) => {
                calls.push(json!({
                    "names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS,
                }));
            }
            _ => calls.extend(allowed(rule)?.iter().map(|conditions| allow(name, conditions))),
        }
    }
    calls.push(json!({ "names": always, "action": "SCMP_ACT_ALLOW" }));
    Ok(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": names,
        "syscalls": calls,
    }))
}

fn allow(name: &str, conditions: &[Is]) -> Value {
    let args: Vec<Value> = conditions
        .iter()
        .map(|(index, mask, value)| {
            json!({ "index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ" })
        })
        .collect();
    json!({ "names": [name], "action": "SCMP_ACT_ALLOW", "args": args })
}

/// The conditions under which a rule allows its call: any of the lists, all of a list.
fn allowed(rule: &Rule) -> Result<Vec<Vec<Is>>> {
    if let ([(conditions, DENY)], ALLOW) = (rule.cases.as_slice(), rule.otherwise)
        && let [When::HasAnyOf(index, bits)] = conditions.as_slice()
    {
        return Ok(vec![vec![(*index, *bits, 0)]]);
    }
    if rule.otherwise != DENY {
        return Err(unknown(rule));
    }
    let firsts = values(rule, 0)?;
    let seconds = values(rule, 1)?;
    let mut all = Vec::new();
    for (mask, first) in firsts {
        let first = (0, mask, first);
        let with: Vec<Vec<Is>> = seconds
            .iter()
            .map(|(mask, second)| vec![first, (1, *mask, *second)])
            .filter(|conditions| action(rule, conditions) == ALLOW)
            .collect();
        match with.len() {
            // Whatever the second argument is.
            n if n == seconds.len() && action(rule, &[first]) == ALLOW => all.push(vec![first]),
            _ => all.extend(with),
        }
    }
    Ok(all)
}

/// The values of an argument that the rule tells apart. Of the kind of a socket they are all, since some are denied.
fn values(rule: &Rule, index: u8) -> Result<BTreeSet<(u32, u32)>> {
    let mut found = BTreeSet::new();
    for condition in rule.cases.iter().flat_map(|(conditions, _)| conditions) {
        match condition {
            When::IsOneOf(of, KIND_MASK, _) if *of == index => {
                found.extend((0..=KIND_MASK).map(|value| (KIND_MASK, value)));
            }
            When::IsOneOf(of, mask, values) if *of == index => {
                found.extend(values.iter().map(|value| (*mask, *value)));
            }
            When::IsOneOf(0 | 1, ..) => {}
            _ => return Err(unknown(rule)),
        }
    }
    Ok(found)
}

/// What the rule does when arguments have these values. An argument that is not there has none that a case asks for.
fn action(rule: &Rule, arguments: &[Is]) -> u32 {
    let holds = |condition: &When| match condition {
        When::IsOneOf(index, mask, values) => {
            arguments.iter().any(|(of, _, value)| of == index && values.contains(&(value & mask)))
        }
        When::HasAnyOf(index, bits) => {
            arguments.iter().any(|(of, _, value)| of == index && value & bits != 0)
        }
    };
    let case = rule.cases.iter().find(|(conditions, _): &&Case| conditions.iter().all(holds));
    case.map_or(rule.otherwise, |(_, action)| *action)
}

fn unknown(rule: &Rule) -> Error {
    Error::internal(format!("the rule of `{}` has no form in a runtime's configuration", rule.call.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a section does with a call: whether it allows it.
    fn allows(section: &Value, name: &str, args: [u64; 2]) -> bool {
        section["syscalls"].as_array().unwrap().iter().any(|entry| {
            let named = entry["names"].as_array().unwrap().iter().any(|other| other == name);
            let holds = entry["args"].as_array().is_none_or(|conditions| {
                conditions.iter().all(|condition| {
                    let value = args[condition["index"].as_u64().unwrap() as usize];
                    value & condition["value"].as_u64().unwrap() == condition["valueTwo"].as_u64().unwrap()
                })
            });
            named && holds && entry["action"] == "SCMP_ACT_ALLOW"
        })
    }

    /// What the policy does with a call.
    fn permitted(policy: &super::super::Policy, name: &str, args: [u64; 2]) -> bool {
        let rule = policy.rules.iter().find(|rule| rule.call.name == name);
        let arguments = [(0, u32::MAX, args[0] as u32), (1, u32::MAX, args[1] as u32)];
        rule.is_some_and(|rule| action(rule, &arguments) == ALLOW)
    }

    #[test]
    fn the_section_allows_what_the_policy_allows() {
        for host_network in [false, true] {
            let (section, policy) = (section(host_network).unwrap(), policy(host_network, false));
            let calls = ["read", "mount", "bpf", "ptrace", "clone", "clone3", "personality", "socket"];
            let all = policy.rules.iter().map(|rule| rule.call).filter(|call| {
                *call != SOCKETCALL && call.number(Abi::of_machine(std::env::consts::ARCH)[0]).is_some()
            });
            let mut names: BTreeSet<&str> = all.map(|call| call.name).collect();
            names.extend(calls);
            for name in names {
                for first in (0..48).chain([0x2_0000, 0x2_0008, 0x1000_0000, 0x7e02_0011, 0xffff_ffff]) {
                    for second in (0..20).chain([0x8_0001, 0x8_0003, 0x80803]) {
                        let args = [first, second];
                        assert_eq!(
                            allows(&section, name, args),
                            permitted(&policy, name, args),
                            "{name} {args:x?}, host network {host_network}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_raw_socket_is_for_steps_without_the_network_of_the_host() {
        let (raw, inet) = (libc::SOCK_RAW as u64, libc::AF_INET as u64);
        assert!(!allows(&section(true).unwrap(), "socket", [inet, raw]));
        assert!(allows(&section(true).unwrap(), "socket", [inet, 0x8_0002]));
        assert!(allows(&section(false).unwrap(), "socket", [inet, raw]));
        for host_network in [false, true] {
            assert!(!allows(&section(host_network).unwrap(), "socket", [libc::AF_VSOCK as u64, 1]));
        }
    }

    #[test]
    fn what_is_newer_than_libraries_look_for_is_absent() {
        let section = section(true).unwrap();
        let clone3 = section["syscalls"].as_array().unwrap().iter().find(|e| e["names"] == json!(["clone3"]));
        assert_eq!(clone3.unwrap()["errnoRet"], libc::ENOSYS);
    }
}
