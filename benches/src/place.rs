//! The location of the members: on this machine, with addresses used in turn, or each on its own machine.

use crate::Result;
use crate::args::Fabric;
use clap::Args;
use galerna::Verbs;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::net::{IpAddr, TcpListener, ToSocketAddrs};

/// The default port of an address of `--across`.
const PORT: u16 = 7700;

/// The flags of a member that concern this machine.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub(crate) struct HereArgs {
    /// tcp, verbs: addresses of this machine that the members use in turn. On verbs each member uses the device with
    /// its address, if there is one.
    #[arg(long, value_name = "IP,...", value_delimiter = ',', default_value = "127.0.0.1")]
    pub(crate) hosts: Vec<IpAddr>,
    /// verbs: use only this device.
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// verbs: use only this entry of the port's GID table.
    #[arg(long, value_name = "INDEX")]
    gid_index: Option<u8>,
    /// verbs: other keys of the configuration's table `verbs`, e.g. mtu=1024,send_queue_depth=512.
    #[arg(long, value_name = "KEY=VALUE,...", value_delimiter = ',')]
    verbs: Vec<String>,
}

impl HereArgs {
    /// The configuration's table `verbs`, with unchecked values.
    pub(crate) fn verbs(&self, fabric: Fabric) -> Result<Verbs> {
        let mut table = Map::new();
        for setting in &self.verbs {
            let (key, value) =
                setting.split_once('=').ok_or_else(|| format!("--verbs {setting}: expected KEY=VALUE"))?;
            let number = value.parse::<u64>().map(Value::from);
            table.insert(key.to_owned(), number.unwrap_or_else(|_| value.into()));
        }
        table.extend(self.device.iter().map(|name| ("device".to_owned(), name.as_str().into())));
        table.extend(self.gid_index.iter().map(|&index| ("gid_index".to_owned(), index.into())));
        if fabric != Fabric::Verbs && !table.is_empty() {
            return Err("--device, --gid-index and --verbs need --fabric verbs".into());
        }
        serde_json::from_value(Value::Object(table)).map_err(|e| format!("--verbs: {e}").into())
    }

    /// The flags that give another run the same settings. Flags for another fabric are left out.
    pub(crate) fn flags(&self, fabric: Fabric) -> Vec<String> {
        let hosts: Vec<_> = self.hosts.iter().map(IpAddr::to_string).collect();
        let mut flags = vec![format!("--hosts={}", hosts.join(","))];
        if fabric == Fabric::Verbs {
            flags.extend(self.device.iter().map(|name| format!("--device={name}")));
            flags.extend(self.gid_index.iter().map(|index| format!("--gid-index={index}")));
            flags.extend((!self.verbs.is_empty()).then(|| format!("--verbs={}", self.verbs.join(","))));
        }
        flags
    }
}

/// Members on other machines.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
pub(crate) struct AcrossArgs {
    /// Run one member at each of these addresses. Start the same command on each of the machines, in any order. The
    /// commands meet at the first address; the command there shows the result, and the others show their own part. The
    /// number of addresses replaces --members. The default port is 7700.
    #[arg(long, value_name = "HOST[:PORT],...", value_delimiter = ',')]
    pub(crate) across: Vec<String>,
    /// The position of this command's address in --across, from 1. Needed only if several of them belong to this
    /// machine.
    #[arg(long, value_name = "NUMBER", requires = "across", value_parser = clap::value_parser!(u64).range(1..=64))]
    index: Option<u64>,
}

impl AcrossArgs {
    /// Whether other machines take part.
    pub(crate) fn any(&self) -> bool {
        !self.across.is_empty()
    }

    /// The number of members. `members` is the number for a run on one machine.
    pub(crate) fn count(&self, members: u64) -> u64 {
        if self.any() { self.across.len() as u64 } else { members }
    }

    /// The addresses, each with its port.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.across.iter().map(|address| with_port(address)).collect()
    }

    /// The rank of this command's member. Returns an error if the setup cannot work across machines.
    pub(crate) fn rank(&self, fabric: Fabric) -> Result<usize> {
        let addresses = self.addresses();
        if fabric == Fabric::Shm {
            return Err("--across: --fabric shm connects members on one machine only".into());
        }
        if let Some(twice) = addresses.iter().enumerate().find(|(n, a)| addresses[..*n].contains(a)) {
            return Err(format!("--across names {} twice", twice.1).into());
        }
        if addresses.len() < 2 || addresses.len() > galerna::MEMBERS_MAX {
            let most = galerna::MEMBERS_MAX;
            return Err(format!("--across needs 2 to {most} addresses, not {}", addresses.len()).into());
        }
        if let Some(index) = self.index {
            return match index as usize <= addresses.len() {
                true => Ok(index as usize - 1),
                false => {
                    Err(format!("--index {index} exceeds the number of --across addresses, {}", addresses.len()).into())
                }
            };
        }
        let here: Vec<usize> = (0..addresses.len()).filter(|&rank| is_here(&addresses[rank])).collect();
        match here[..] {
            [rank] => Ok(rank),
            [] => Err("no --across address belongs to this machine: correct them, or give --index".into()),
            _ => Err("several of the --across addresses belong to this machine: give --index, from 1".into()),
        }
    }
}

fn with_port(address: &str) -> String {
    match address.rsplit_once(':') {
        _ if address.parse::<std::net::Ipv6Addr>().is_ok() => format!("[{address}]:{PORT}"),
        Some((_, port)) if port.parse::<u16>().is_ok() => address.to_owned(),
        _ => format!("{address}:{PORT}"),
    }
}

/// Whether a process can listen at this address on this machine. The port does not matter.
fn is_here(address: &str) -> bool {
    let found = address.to_socket_addrs().into_iter().flatten();
    found.into_iter().any(|at| TcpListener::bind((at.ip(), 0)).is_ok())
}

/// Addresses of the right form, for checks only: no member listens there.
pub(crate) fn sample_addresses(fabric: Fabric, members: usize) -> Vec<String> {
    let address = |rank| match fabric {
        Fabric::Tcp | Fabric::Verbs => format!("127.0.0.1:{}", 1 + rank),
        Fabric::Shm => format!("unix:/{rank}"),
    };
    (0..members).map(address).collect()
}

/// The IP address of `HOST:PORT`, if it can be resolved.
pub(crate) fn ip(address: &str) -> Option<IpAddr> {
    address.to_socket_addrs().ok()?.next().map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::with_port;

    #[test]
    fn addresses_get_a_port() {
        let found = ["10.0.0.1", "10.0.0.1:1", "node-3", "node-3:80", "::1", "[::1]:5", "[::1]"].map(with_port);
        let wanted = ["10.0.0.1:7700", "10.0.0.1:1", "node-3:7700", "node-3:80", "[::1]:7700", "[::1]:5", "[::1]:7700"];
        assert_eq!(found, wanted);
    }
}
