//! The network of a run. Over tcp the members have hosts with a switch between them; where this machine allows no
//! namespaces, they share one host and have a proxy in front of each member. On shared memory there is neither.

use crate::netns::Host;
use crate::proxy::Network;
use crate::switch::{Rule, Switch};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

const PORT: u16 = 7001;

pub(crate) enum World {
    /// One host per member, in the order of the member ids.
    Hosts {
        hosts: Arc<Vec<Host>>,
        switch: Switch,
    },
    Proxies(Network),
    OneHost,
}

impl World {
    /// Makes the network for members 1 to `count`.
    pub(crate) fn new(fabric: &str, count: u32, mtu: i32, seed: u64) -> World {
        if fabric == "shm" {
            return World::OneHost;
        }
        let ids: Vec<u32> = (1..=count).collect();
        if fabric != "tcp" {
            return World::Proxies(Network::start(&ids));
        }
        match ids.iter().map(|&id| Host::new(id as u8, mtu)).collect::<Result<Vec<_>, _>>() {
            Ok(hosts) => {
                let hosts = Arc::new(hosts);
                World::Hosts { switch: Switch::start(hosts.clone(), seed), hosts }
            }
            Err(error) => {
                assert!(std::env::var_os("CI").is_none(), "no network namespaces or tap devices: {error}");
                say_once(&format!(
                    "SKIPPED: network namespaces ({error}; they need root and /dev/net/tun): the network is cut by proxies, and loses, delays and reorders nothing"
                ));
                World::Proxies(Network::start(&ids))
            }
        }
    }

    /// Whether the network can lose, delay, duplicate and reorder frames.
    pub(crate) fn has_weather(&self) -> bool {
        matches!(self, World::Hosts { .. })
    }

    /// Whether directions can be cut. Proxies do not see the RDMA traffic.
    pub(crate) fn can_cut(&self, fabric: &str) -> bool {
        !matches!(self, World::OneHost) && fabric == "tcp"
    }

    /// Whether connections can be broken.
    pub(crate) fn can_reset(&self) -> bool {
        !matches!(self, World::OneHost)
    }

    /// Returns the address by which the others reach a member, and its listening address if that differs.
    pub(crate) fn address(&self, id: u32, folder: &Path) -> (String, Option<String>) {
        match self {
            World::Hosts { hosts, .. } => (format!("{}:{PORT}", hosts[id as usize - 1].ip), None),
            World::Proxies(network) => {
                let (_, front, behind) = network.doors.iter().find(|(door, ..)| *door == id).unwrap();
                (front.to_string(), Some(behind.to_string()))
            }
            // A short path, since the length of a socket's path is limited.
            World::OneHost => {
                let name = folder.file_name().unwrap_or_default().to_string_lossy();
                (format!("unix:{}/{name}-{id}.sock", std::env::temp_dir().display()), None)
            }
        }
    }

    /// Removes the sockets that killed members leave outside the run's folder.
    pub(crate) fn clean(&self, count: u32, folder: &Path) {
        if let World::OneHost = self {
            for id in 1..=count {
                let address = self.address(id, folder).0;
                let _ = std::fs::remove_file(address.trim_start_matches("unix:"));
            }
        }
    }

    pub(crate) fn home(&self, id: u32, command: &mut Command) {
        if let World::Hosts { hosts, .. } = self {
            hosts[id as usize - 1].home(command);
        }
    }

    /// Sets the process that runs a member now.
    pub(crate) fn is_process(&self, id: u32, pid: u32) {
        if let World::Proxies(network) = self {
            network.is_process(id, pid);
        }
    }

    /// Cuts the direction from one member to the other, or ends the cut.
    pub(crate) fn cut(&self, from: u32, to: u32, cut: bool) {
        match self {
            World::Hosts { switch, .. } => switch.change(from, to, |rule| rule.cut = cut),
            World::Proxies(network) if cut => network.hold(from, to),
            World::Proxies(network) => network.let_through(from, to),
            World::OneHost => {}
        }
    }

    /// Resets the connections of a pair, for as long as `reset` holds.
    pub(crate) fn reset(&self, a: u32, b: u32, reset: bool) {
        match self {
            World::Hosts { switch, .. } => {
                [(a, b), (b, a)].into_iter().for_each(|(from, to)| switch.change(from, to, |rule| rule.reset = reset));
            }
            World::Proxies(network) if reset => {
                network.break_pair(a, b);
            }
            World::Proxies(_) | World::OneHost => {}
        }
    }

    /// Sets everything of the rules except cuts and resets, for all directions.
    pub(crate) fn weather(&self, weather: Rule) {
        if let World::Hosts { switch, .. } = self {
            switch.change_all(|rule| *rule = Rule { cut: rule.cut, reset: rule.reset, ..weather });
        }
    }
}

/// Prints each text once, to standard error directly: the test runner hides the output of tests that pass.
pub(crate) fn say_once(what: &str) {
    static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let mut said = SAID.lock().unwrap();
    if !said.iter().any(|text| text == what) {
        said.push(what.to_owned());
        let _ = writeln!(std::io::stderr(), "{what}");
    }
}
