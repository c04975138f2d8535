//! Resolves an address of the configuration, `HOST:PORT`, to socket addresses.

use crate::config::Config;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};

/// An address to listen on, and the configuration key from which it comes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ListenAt<'c> {
    pub(crate) address: &'c str,
    pub(crate) key: &'static str,
}

/// The socket addresses of `HOST:PORT`, to be tried in turn, since a name may have several.
///
/// In a link-local address, `[fe80::1%eth0]:7001`, the interface is one of this host, given by name or number.
pub(crate) fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    match scoped(address) {
        Some(found) => Ok(vec![found?]),
        None => Ok(address.to_socket_addrs()?.collect()),
    }
}

/// Whether HOST is a name that a name service has to resolve.
pub(crate) fn is_name(address: &str) -> bool {
    address.parse::<SocketAddr>().is_err() && scoped(address).is_none()
}

fn scoped(address: &str) -> Option<io::Result<SocketAddr>> {
    let (host, port) = address.strip_prefix('[')?.split_once("]:")?;
    let (ip, interface) = host.split_once('%')?;
    let (ip, port): (Ipv6Addr, u16) = (ip.parse().ok()?, port.parse().ok()?);
    let number = interface.parse::<u32>().or_else(|_| {
        let unknown = |_: nix::errno::Errno| {
            io::Error::new(io::ErrorKind::NotFound, format!("this host has no interface `{interface}`"))
        };
        nix::net::if_::if_nametoindex(interface).map_err(unknown)
    });
    Some(number.map(|number| SocketAddrV6::new(ip, port, 0, number).into()))
}

/// Why no other host can reach HOST, if that is evident, and how to correct a member's own address.
pub(crate) fn unreachable(address: &str) -> Option<(&'static str, &'static str)> {
    let ip = match scoped(address) {
        Some(_) => return None,
        None => address.parse::<SocketAddr>().ok()?.ip(),
    };
    let is_link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    match () {
        () if ip.is_unspecified() => Some((
            "it means all interfaces of a host, so no other host can reach it",
            "give an address at which the other members reach this one, and set `listen` to listen on all interfaces",
        )),
        () if is_link_local => {
            Some(("a link-local address needs an interface", "give it, for example [fe80::1%eth0]:7001"))
        }
        () if ip.is_multicast() || is_broadcast => {
            Some(("it is the address of many hosts", "give an address of this member's host"))
        }
        () => None,
    }
}

/// The hint for a host name that leads only to this host's loopback interface; `localhost` is assumed to be intended.
pub(crate) fn loopback_hint(address: &str, found: &[SocketAddr]) -> Option<String> {
    let (host, _) = address.rsplit_once(':')?;
    let ip = found.first().filter(|_| found.iter().all(|found| found.ip().is_loopback()))?.ip();
    let is_meant = !is_name(address) || host == "localhost";
    (!is_meant).then(|| {
        format!(
            "the name `{host}` resolves to {ip} on this host, which no other host can reach: correct /etc/hosts, or give an IP address instead of the name"
        )
    })
}

/// The same hint for the address on which a process listens, unless all members are on one host.
pub(crate) fn own_loopback_hint(config: &Config, own: &str) -> Option<String> {
    let is_local = |address: &str| match address.parse::<SocketAddr>() {
        Ok(address) => address.ip().is_loopback(),
        Err(_) => address.starts_with("localhost:") || address.starts_with("unix:"),
    };
    let others = config.members.iter().map(|member| &*member.address).filter(|&address| address != own);
    if config.listen.is_some() || !is_name(own) || others.clone().all(is_local) {
        return None;
    }
    loopback_hint(own, &resolve(own).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_found_by_name_and_by_number() {
        let lo = nix::net::if_::if_nametoindex("lo").unwrap();
        let expected = SocketAddr::from(SocketAddrV6::new("fe80::7".parse().unwrap(), 7001, 0, lo));
        assert_eq!(resolve("[fe80::7%lo]:7001").unwrap(), [expected]);
        assert_eq!(resolve(&format!("[fe80::7%{lo}]:7001")).unwrap(), [expected]);
        let unknown = resolve("[fe80::7%nowhere0]:7001").unwrap_err().to_string();
        assert_eq!(unknown, "this host has no interface `nowhere0`");
        assert_eq!(resolve("127.0.0.1:7001").unwrap(), ["127.0.0.1:7001".parse().unwrap()]);
        assert!(!is_name("[fe80::7%lo]:7001") && !is_name("[::1]:1") && is_name("lo:1") && is_name("[fe80::x%lo]:1"));
    }

    #[test]
    fn names_that_lead_to_loopback_are_explained() {
        let found = ["127.0.1.1:7001".parse().unwrap()];
        let hint = loopback_hint("host-a:7001", &found).unwrap();
        assert!(hint.contains("`host-a` resolves to 127.0.1.1"), "{hint}");
        for address in ["localhost:7001", "127.0.1.1:7001"] {
            assert_eq!(loopback_hint(address, &found), None, "meant so");
        }
        assert_eq!(loopback_hint("host-a:7001", &[found[0], "10.0.0.1:7001".parse().unwrap()]), None);
        assert_eq!(loopback_hint("host-a:7001", &[]), None);
    }
}
