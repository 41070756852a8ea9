//! Functions of IP networks.

use super::{Arguments, Outcome, Table, Value};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) const TABLE: Table = &[
    ("cidrhost", |a| {
        a.exactly(2)?;
        let (network, host) = (Network::parse(&a.text(0)?)?, a.whole(1)?);
        let hosts = network.bits - network.prefix;
        let last = if hosts >= 127 { i128::MAX } else { (1 << hosts) - 1 };
        let host = if host < 0 { last + 1 + host } else { host };
        if !(0..=last).contains(&host) {
            return Err("the network has no such host".into());
        }
        Ok(Value::string(network.address_text(network.address | host.unsigned_abs())))
    }),
    ("cidrnetmask", |a| {
        a.exactly(1)?;
        let network = Network::parse(&a.text(0)?)?;
        if network.bits != 32 {
            return Err("only IPv4 networks have a netmask".into());
        }
        Ok(Value::string(network.address_text(u128::from(mask32(network.prefix)))))
    }),
    ("cidrsubnet", |a| {
        a.exactly(3)?;
        let network = Network::parse(&a.text(0)?)?;
        let (more, number) = (bits(a, 1)?, a.whole(2)?);
        let number = u128::try_from(number).map_err(|_| "argument 3: expected a number from 0")?;
        Ok(Value::string(network.subnet(more, number)?.text()))
    }),
    ("cidrsubnets", |a| {
        a.count(1, usize::MAX)?;
        let network = Network::parse(&a.text(0)?)?;
        let (mut next, mut subnets) = (network.address, Vec::new());
        for index in 1..a.values.len() {
            let more = bits(a, index)?;
            let size = network.size_below(more)?;
            let start = next.checked_add(size - 1).ok_or("the network is full")? / size * size;
            let subnet = Network { address: start, prefix: network.prefix + more, ..network };
            if start & network.mask() != network.address {
                return Err("the network is full".into());
            }
            subnets.push(Value::string(subnet.text()));
            next = start.checked_add(size).ok_or("the network is full")?;
        }
        Ok(Value::list(subnets))
    }),
];

fn bits(a: &Arguments<'_>, index: usize) -> Outcome<u32> {
    u32::try_from(a.size(index)?).map_err(|_| "expected a number of bits".into())
}

fn mask32(prefix: u32) -> u32 {
    u32::MAX.checked_shl(32 - prefix).unwrap_or(0)
}

#[derive(Clone, Copy)]
struct Network {
    address: u128,
    prefix: u32,
    /// The bits of an address.
    bits: u32,
}

impl Network {
    fn parse(text: &str) -> Outcome<Self> {
        let parts = text.split_once('/').and_then(|(address, prefix)| {
            Some((address.parse::<IpAddr>().ok()?, prefix.parse::<u32>().ok()?))
        });
        let network = match parts {
            Some((IpAddr::V4(address), prefix)) if prefix <= 32 => {
                Self { address: u128::from(u32::from(address)), prefix, bits: 32 }
            }
            Some((IpAddr::V6(address), prefix)) if prefix <= 128 => {
                Self { address: u128::from(address), prefix, bits: 128 }
            }
            _ => return Err(format!("`{text}` is not a network such as 10.0.0.0/8").into()),
        };
        Ok(Self { address: network.address & network.mask(), ..network })
    }

    /// The bits of an address that name the network.
    fn mask(&self) -> u128 {
        match self.bits {
            32 => u128::from(mask32(self.prefix)),
            _ => u128::MAX.checked_shl(128 - self.prefix).unwrap_or(0),
        }
    }

    /// The number of addresses of a network with so many more bits.
    fn size_below(&self, more: u32) -> Outcome<u128> {
        let prefix = self.prefix.checked_add(more).filter(|prefix| *prefix <= self.bits);
        let prefix = prefix.ok_or("the network has not so many bits")?;
        1u128.checked_shl(self.bits - prefix).ok_or_else(|| "the network is too large".into())
    }

    fn subnet(&self, more: u32, number: u128) -> Outcome<Self> {
        let size = self.size_below(more)?;
        if more < 128 && number >= 1 << more {
            return Err("the network has no such subnet".into());
        }
        Ok(Self { address: self.address | (number * size), prefix: self.prefix + more, ..*self })
    }

    fn address_text(&self, address: u128) -> String {
        match self.bits {
            32 => Ipv4Addr::from(u32::try_from(address).unwrap_or_default()).to_string(),
            _ => Ipv6Addr::from(address).to_string(),
        }
    }

    fn text(&self) -> String {
        format!("{}/{}", self.address_text(self.address), self.prefix)
    }
}
