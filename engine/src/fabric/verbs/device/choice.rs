//! The choice of device, port and GID.

use super::{Device, Gid, GidType, LinkLayer, Port, PortState, Unavailable};
use serde::Serialize;
use std::net::IpAddr;

/// The conditions for the choice; the default accepts everything that works.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Only this device.
    pub device: Option<String>,
    /// Only this port of a device.
    pub port: Option<u8>,
    /// Only this entry of the port's GID table. On InfiniBand it makes connections use GIDs.
    pub gid_index: Option<u8>,
    /// The GID of this address, on any port, is preferred to all others.
    pub address: Option<IpAddr>,
}

/// The port and addresses for connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// The name of the device.
    pub device: String,
    /// The number of the port.
    pub port: u8,
    /// The GID; `None` within an InfiniBand subnet, where the LID suffices.
    pub gid: Option<Gid>,
    /// The port's LID; 0 on Ethernet.
    pub lid: u16,
    /// The maximum payload of a packet, in bytes.
    pub active_mtu: u32,
}

/// The quality of a GID; a smaller value is better.
type Rank = (bool, bool, u8);

/// Chooses the best port and GID that satisfy `wanted`.
///
/// The order of preference: a GID with the wanted address; RoCE v2 before v1; an IPv4 address, then a global IPv6
/// address, then a link-local one. Among equals the first is chosen.
///
/// # Errors
/// [`Unavailable`] if no port can be used, with the reason for each.
pub fn choose(devices: &[Device], wanted: &Wanted) -> Result<Choice, Unavailable> {
    let mut reasons = Vec::new();
    let mut best: Option<(Rank, Choice)> = None;
    for device in devices.iter().filter(|d| wanted.device.as_ref().is_none_or(|name| *name == d.name)) {
        let numbers = device.ports.iter().map(|port| port.number);
        if let Some(port) = wanted.port.filter(|port| !device.ports.is_empty() && !numbers.clone().any(|n| n == *port))
        {
            reasons.push(format!("{} has no port {port}", device.name));
        }
        if device.ports.is_empty() {
            reasons.push(format!("{}: {}", device.name, device.obstacle.as_deref().unwrap_or("it has no ports")));
        }
        for port in device.ports.iter().filter(|p| wanted.port.is_none_or(|number| number == p.number)) {
            match device.rate(port, wanted) {
                Ok((rank, _)) if best.as_ref().is_some_and(|(other, _)| *other <= rank) => {}
                Ok(found) => best = Some(found),
                Err(why) => reasons.push(format!("{} port {}: {why}", device.name, port.number)),
            }
        }
    }
    if let Some((_, choice)) = best {
        return Ok(choice);
    }
    let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
    Err(Unavailable(match &wanted.device {
        Some(name) if reasons.is_empty() => format!("there is no RDMA device {name}, only {}", names.join(", ")),
        _ => format!("no RDMA device can be used: {}", reasons.join("; ")),
    }))
}

impl Device {
    /// The choice that connections over `port` would use.
    ///
    /// # Errors
    /// [`Unavailable`] if the port cannot be used, with the reason.
    pub fn usable(&self, port: &Port, wanted: &Wanted) -> Result<Choice, Unavailable> {
        self.rate(port, wanted).map(|(_, choice)| choice).map_err(Unavailable)
    }

    fn rate(&self, port: &Port, wanted: &Wanted) -> Result<(Rank, Choice), String> {
        if let Some(obstacle) = &self.obstacle {
            return Err(obstacle.clone());
        }
        port.carries()?;
        let (rank, gid) = port.gid(wanted)?;
        let choice =
            Choice { device: self.name.clone(), port: port.number, gid, lid: port.lid, active_mtu: port.active_mtu };
        Ok((rank, choice))
    }
}

impl Port {
    /// Whether packets can pass at all.
    fn carries(&self) -> Result<(), String> {
        let infiniband = self.link_layer == LinkLayer::InfiniBand;
        match self.state {
            PortState::Active | PortState::ActiveDefer => {}
            PortState::Down if infiniband => return Err("the port is down; check the cable and the switch".into()),
            PortState::Down => {
                let netdev = self.gids.iter().find_map(|gid| gid.netdev.as_deref()).unwrap_or("INTERFACE");
                return Err(format!("the port is down; check the cable, and: ip link set {netdev} up"));
            }
            PortState::Initializing | PortState::Armed if infiniband => {
                return Err(
                    "the port waits for a subnet manager; start one in the subnet (opensm), or enable the switch's"
                        .into(),
                );
            }
            state => return Err(format!("the port is in the state {state:?}, not Active")),
        }
        match self.link_layer {
            LinkLayer::InfiniBand if self.lid == 0 && !self.grh_required => {
                Err("the port has no LID; start a subnet manager (opensm)".into())
            }
            LinkLayer::Unspecified => Err("the port is neither InfiniBand nor Ethernet".into()),
            _ if self.active_mtu == 0 => Err("the port's MTU is not an InfiniBand MTU".into()),
            _ => Ok(()),
        }
    }

    /// The best GID, if one is needed.
    fn gid(&self, wanted: &Wanted) -> Result<(Rank, Option<Gid>), String> {
        if self.link_layer == LinkLayer::InfiniBand && wanted.gid_index.is_none() && !self.grh_required {
            return Ok(((true, false, 0), None));
        }
        let allowed = self.gids.iter().filter(|gid| wanted.gid_index.is_none_or(|index| index == gid.index));
        let best = allowed.map(|gid| (rank(gid, wanted), gid)).min_by_key(|(rank, _)| *rank);
        match (best, wanted.gid_index) {
            (Some((rank, gid)), _) => Ok((rank, Some(gid.clone()))),
            (None, Some(index)) => Err(format!("the port's GID table has no entry at index {index}{}", self.table())),
            (None, None) => {
                Err("the port has no GID: its network interface has no address; give it one (ip address add)".into())
            }
        }
    }

    fn table(&self) -> String {
        let entries: Vec<String> = self.gids.iter().map(|gid| format!("{} is {}", gid.index, gid.address)).collect();
        if entries.is_empty() { "; it is empty".into() } else { format!("; {}", entries.join(", ")) }
    }
}

fn rank(gid: &Gid, wanted: &Wanted) -> Rank {
    let kind = match gid.address {
        IpAddr::V4(_) => 0,
        IpAddr::V6(address) if !address.is_unicast_link_local() => 1,
        IpAddr::V6(_) => 2,
    };
    let matches = wanted.address.is_some_and(|address| address.to_canonical() == gid.address);
    (!matches, gid.gid_type == GidType::RoceV1, kind)
}

#[cfg(test)]
mod tests {
    use super::super::{Device, Gid, GidType, LinkLayer, Port, PortState};
    use super::{Choice, Wanted, choose};

    fn gid(index: u8, gid_type: GidType, address: &str) -> Gid {
        Gid { index, gid_type, address: address.parse().unwrap(), netdev: Some("eth7".into()) }
    }

    /// A port as a RoCE card has it: each address as v1 and as v2, the link-local address first.
    fn ethernet(number: u8, addresses: &[&str]) -> Port {
        let types = [GidType::RoceV1, GidType::RoceV2];
        let entries = addresses.iter().flat_map(|address| types.map(|gid_type| (gid_type, *address)));
        Port {
            number,
            link_layer: LinkLayer::Ethernet,
            state: PortState::Active,
            lid: 0,
            grh_required: false,
            active_mtu: 4096,
            max_mtu: 4096,
            rate: None,
            gids: (0..).zip(entries).map(|(index, (gid_type, address))| gid(index, gid_type, address)).collect(),
        }
    }

    fn infiniband(lid: u16) -> Port {
        let gids = vec![gid(0, GidType::InfiniBand, "fe80::2:c903:1:2")];
        Port { link_layer: LinkLayer::InfiniBand, lid, gids, ..ethernet(1, &[]) }
    }

    fn device(name: &str, ports: Vec<Port>) -> Device {
        Device { name: name.into(), firmware: String::new(), obstacle: None, limits: None, ports }
    }

    /// The name, port and GID index of the choice, or why there is none.
    fn chosen(devices: &[Device], wanted: &Wanted) -> Result<(String, u8, Option<u8>), String> {
        let choice = choose(devices, wanted).map_err(|e| e.to_string())?;
        Ok((choice.device, choice.port, choice.gid.map(|gid| gid.index)))
    }

    fn refused(devices: &[Device], wanted: &Wanted, why: &str) {
        let text = chosen(devices, wanted).unwrap_err();
        assert!(text.contains(why), "expected `{why}` in: {text}");
    }

    fn at(address: &str) -> Wanted {
        Wanted { address: Some(address.parse().unwrap()), ..Wanted::default() }
    }

    #[test]
    fn the_gid_is_chosen_by_type_and_address() {
        let port = ethernet(1, &["fe80::1", "2001:db8::1", "10.9.0.1", "10.9.0.2"]);
        let devices = [device("mlx5_0", vec![port])];
        let index = |wanted: &Wanted| chosen(&devices, wanted).unwrap().2;
        assert_eq!(index(&Wanted::default()), Some(5), "RoCE v2 of the first IPv4 address");
        assert_eq!(index(&at("10.9.0.2")), Some(7), "the address that is asked for");
        assert_eq!(index(&at("::ffff:10.9.0.2")), Some(7), "the same in other words");
        assert_eq!(index(&at("2001:db8::1")), Some(3), "also one of IPv6");
        assert_eq!(index(&at("192.0.2.1")), Some(5), "an address of another network is no obstacle");
        assert_eq!(index(&Wanted { gid_index: Some(4), ..Wanted::default() }), Some(4), "the index decides, v1 too");
        let nowhere = Wanted { gid_index: Some(9), ..Wanted::default() };
        refused(&devices, &nowhere, "mlx5_0 port 1: the port's GID table has no entry at index 9; 0 is fe80::1, 1 is");
    }

    #[test]
    fn what_is_left_without_an_ipv4_address() {
        let index =
            |addresses: &[&str]| chosen(&[device("a", vec![ethernet(1, addresses)])], &Wanted::default()).unwrap().2;
        assert_eq!(index(&["fe80::1", "2001:db8::1"]), Some(3));
        assert_eq!(index(&["fe80::1"]), Some(1));
        let mut old = ethernet(1, &["fe80::1", "10.9.0.1"]);
        old.gids.retain(|gid| gid.gid_type == GidType::RoceV1);
        assert_eq!(
            chosen(&[device("a", vec![old])], &Wanted::default()).unwrap().2,
            Some(2),
            "RoCE v1, if that is all"
        );
        refused(
            &[device("a", vec![ethernet(1, &[])])],
            &Wanted::default(),
            "has no GID: its network interface has no address",
        );
    }

    #[test]
    fn the_port_is_that_of_the_address_or_the_first_that_works() {
        let mut down = ethernet(1, &["10.1.0.1"]);
        down.state = PortState::Down;
        let devices =
            [device("a", vec![down, ethernet(2, &["10.2.0.1"])]), device("b", vec![ethernet(1, &["10.3.0.1"])])];
        assert_eq!(chosen(&devices, &Wanted::default()).unwrap(), ("a".into(), 2, Some(1)));
        assert_eq!(chosen(&devices, &at("10.3.0.1")).unwrap(), ("b".into(), 1, Some(1)));
        assert_eq!(chosen(&devices, &at("10.1.0.1")).unwrap(), ("a".into(), 2, Some(1)), "a port that is down is none");
        let named = |device: &str, port| Wanted { device: Some(device.into()), port, ..Wanted::default() };
        assert_eq!(chosen(&devices, &named("b", None)).unwrap().0, "b");
        refused(
            &devices,
            &named("a", Some(1)),
            "a port 1: the port is down; check the cable, and: ip link set eth7 up",
        );
        refused(&devices, &named("a", Some(3)), "a has no port 3");
        refused(&devices, &named("c", None), "there is no RDMA device c, only a, b");
    }

    #[test]
    fn infiniband_needs_a_lid_and_no_gid() {
        let devices = [device("ib0", vec![infiniband(7)])];
        let choice = choose(&devices, &Wanted::default()).unwrap();
        assert_eq!(choice, Choice { device: "ib0".into(), port: 1, gid: None, lid: 7, active_mtu: 4096 });
        let by_gid = Wanted { gid_index: Some(0), ..Wanted::default() };
        assert_eq!(chosen(&devices, &by_gid).unwrap().2, Some(0), "unless the configuration says so");
        let mut virtual_port = infiniband(0);
        virtual_port.grh_required = true;
        assert_eq!(chosen(&[device("ib0", vec![virtual_port])], &Wanted::default()).unwrap().2, Some(0), "or the port");
        refused(&[device("ib0", vec![infiniband(0)])], &Wanted::default(), "no LID; start a subnet manager");
        let mut waiting = infiniband(0);
        waiting.state = PortState::Initializing;
        refused(&[device("ib0", vec![waiting])], &Wanted::default(), "waits for a subnet manager");
    }

    #[test]
    fn every_obstacle_is_named() {
        let mut closed = device("mlx5_0", vec![]);
        closed.obstacle = Some("ibv_open_device: Permission denied".into());
        let mut iwarp = device("siw0", vec![ethernet(1, &["10.9.0.1"])]);
        iwarp.obstacle = Some("it is an iWARP device".into());
        let devices = [closed, iwarp];
        refused(
            &devices,
            &Wanted::default(),
            "mlx5_0: ibv_open_device: Permission denied; siw0 port 1: it is an iWARP",
        );
        let why = devices[1].usable(&devices[1].ports[0], &Wanted::default()).unwrap_err();
        assert_eq!(why.to_string(), "it is an iWARP device");
    }
}
