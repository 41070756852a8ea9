//! The ports of EXPOSE: numbers, ranges and protocols.

use crate::{Error, Result};

/// The ports of an expanded EXPOSE.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// `PORT/PROTOCOL` for every port, in the order of the instruction.
    pub exposed: Vec<String>,
    /// The words whose protocol is not in lower case.
    pub odd_case: Vec<String>,
    /// The words with an address or a host port, which have no effect.
    pub with_host: Vec<String>,
}

/// Parses expanded words: `80`, `80/udp`, `8000-8010/tcp`, and `[IP:][HOST:]PORT`.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] that names the word.
pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Ports> {
    let mut ports = Ports::default();
    for word in words {
        one(word, &mut ports)
            .map_err(|why| Error::invalid(format!("invalid port `{word}` of EXPOSE: {why}")))?;
    }
    Ok(ports)
}

fn one(word: &str, ports: &mut Ports) -> std::result::Result<(), String> {
    let (host, container) = match word.rsplit_once(':') {
        Some((host, container)) => (Some(host), container),
        None => (None, word),
    };
    let (port, protocol) = container.split_once('/').unwrap_or((container, ""));
    let lower = protocol.to_ascii_lowercase();
    let protocol_name = match lower.as_str() {
        "" => "tcp",
        known @ ("tcp" | "udp" | "sctp") => known,
        other => return Err(format!("unknown protocol `{other}`: it is `tcp`, `udp` or `sctp`")),
    };
    let (first, last) = range(port)?;
    if let Some(host) = host {
        let (address, host_port) = host.rsplit_once(':').unwrap_or(("", host));
        let address = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
        if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
            return Err(format!("`{address}` is not an IP address"));
        }
        if !host_port.is_empty() {
            let (host_first, host_last) = range(host_port)?;
            if last - first != host_last - host_first && first != last {
                return Err("the ranges of both sides differ in length".to_owned());
            }
        }
        ports.with_host.push(word.to_owned());
    }
    if lower != protocol {
        ports.odd_case.push(word.to_owned());
    }
    ports.exposed.extend((first..=last).map(|n| format!("{n}/{protocol_name}")));
    Ok(())
}

fn range(text: &str) -> std::result::Result<(u16, u16), String> {
    let number = |part: &str| {
        if part.is_empty() {
            return Err("a port number is missing".to_owned());
        }
        part.parse::<u16>().map_err(|_| format!("`{part}` is not a number between 0 and 65535"))
    };
    match text.split_once('-') {
        None => number(text).map(|n| (n, n)),
        Some((first, last)) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                Err(format!("range `{text}` ends before it starts"))
            } else {
                Ok((first, last))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_ports() {
        let ports = parse(["80", "53/UDP", "8000-8002", "1.2.3.4:1:2", "[::1]::9/sctp"]).unwrap();
        assert_eq!(
            ports.exposed,
            ["80/tcp", "53/udp", "8000/tcp", "8001/tcp", "8002/tcp", "2/tcp", "9/sctp"]
        );
        assert_eq!(ports.odd_case, ["53/UDP"]);
        assert_eq!(ports.with_host.len(), 2);
        for bad in ["", "x", "80/foo", "9-8", "70000", "80/", "x:80:80", "1-2:3-5", "-1"] {
            assert_eq!(parse([bad]).is_err(), bad != "80/", "{bad}");
        }
    }
}
