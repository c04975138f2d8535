//! The open port of the device that carries the group's traffic.

use super::device::{self, Choice, Limits, Wanted};
use super::region::{Access, Region};
use super::sys::{
    Attributes, Capacity, Context, DeviceList, IBV_ACCESS_REMOTE_READ, IBV_ACCESS_REMOTE_WRITE, Library,
    ProtectionDomain, VerbsError, mtu_code,
};
use super::wake::RECEIVES;
use crate::config::Verbs;
use crate::error::Error;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

/// An open port, with the settings for its queue pairs.
pub(super) struct Port {
    pub(super) choice: Choice,
    pub(super) context: Arc<Context>,
    /// The domain of everything that this process creates. So every queue pair can reach every region to which its peer
    /// has the key.
    pub(super) domain: Arc<ProtectionDomain>,
    /// Reduced to the limits of the device.
    settings: Verbs,
    /// The most concurrent read requests that a queue pair serves, and the most that it issues.
    reads_served: u8,
    reads_issued: u8,
}

impl Port {
    /// Opens the port that `settings` select. A port with `address`, where the peers reach this process, is preferred.
    pub(super) fn open(settings: &Verbs, address: Option<IpAddr>) -> Result<Port, Error> {
        let unavailable = Error::Rdma;
        let (choice, limits) = choose(settings, address)?;
        let reads_served = limits.map_or(1, |limits| few(limits.max_qp_rd_atom));
        let reads_issued = limits.map_or(1, |limits| few(limits.max_qp_init_rd_atom));
        let mut settings = settings.clone();
        if let Some(limits) = limits {
            settings.send_queue_depth = settings.send_queue_depth.min(limits.max_qp_wr);
            settings.inline_bytes = settings.inline_bytes.min(limits.max_inline_data.unwrap_or(0));
        }
        let failed = |e: VerbsError| Error::io(format!("verbs: cannot open {}", choice.device), io::Error::from(e));
        let library = Library::get().map_err(|e| unavailable(e.to_string()))?;
        let list = DeviceList::get(library).map_err(failed)?;
        let context = Context::open(&list, library, &choice.device).map_err(failed)?;
        let context = context.ok_or_else(|| unavailable(format!("the device {} was removed", choice.device)))?;
        let domain = ProtectionDomain::new(&context).map_err(failed)?;
        Ok(Port { choice, context, domain, settings, reads_served, reads_issued })
    }

    /// The number of read requests of one peer that a queue pair serves at a time.
    pub(super) fn reads_served(&self) -> u8 {
        self.reads_served
    }

    /// An `IBV_MTU_*` value: that of the port, or a smaller one of the configuration.
    pub(super) fn mtu(&self) -> u32 {
        mtu_code(self.settings.mtu.map_or(self.choice.active_mtu, |mtu| mtu.min(self.choice.active_mtu)))
    }

    /// The own GID; zero where a LID suffices.
    pub(super) fn gid(&self) -> [u8; 16] {
        self.choice.gid.as_ref().map_or([0; 16], |gid| gid.bytes())
    }

    /// The number of requests that the send queue of a queue pair must hold.
    pub(super) fn depth(&self) -> u32 {
        self.settings.send_queue_depth
    }

    /// The capacity to request for a queue pair.
    pub(super) fn capacity(&self) -> Capacity {
        Capacity {
            send_requests: self.depth(),
            receive_requests: RECEIVES,
            send_pieces: 1,
            receive_pieces: 1,
            inline_bytes: self.settings.inline_bytes,
        }
    }

    /// The attributes of a connection to a peer with this port `mtu`, which serves `reads_served` read requests.
    pub(super) fn attributes(&self, mtu: u32, reads_served: u8) -> Attributes {
        let settings = &self.settings;
        Attributes {
            port: self.choice.port,
            gid_index: self.choice.gid.as_ref().map(|gid| gid.index),
            pkey_index: settings.pkey_index,
            access: IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ,
            mtu: self.mtu().min(mtu),
            service_level: settings.service_level,
            traffic_class: settings.traffic_class,
            hop_limit: settings.hop_limit,
            timeout: settings.timeout,
            retry_count: settings.retry_count,
            // 7 means for ever: the failure detector decides how long a process may stand still.
            rnr_retry: 7,
            min_rnr_timer: settings.min_rnr_timer,
            reads: self.reads_issued.min(reads_served),
            reads_served: self.reads_served,
        }
    }
}

/// The port that [`Port::open`] opens, and the limits of its device.
fn choose(settings: &Verbs, address: Option<IpAddr>) -> Result<(Choice, Option<Limits>), Error> {
    let Verbs { device, port, gid_index, .. } = settings.clone();
    let unavailable = |e: device::Unavailable| Error::Rdma(e.to_string());
    let devices = device::devices().map_err(unavailable)?;
    let choice = device::choose(&devices, &Wanted { device, port, gid_index, address }).map_err(unavailable)?;
    let limits = devices.iter().find(|device| device.name == choice.device).and_then(|device| device.limits);
    Ok((choice, limits))
}

/// Whether a group can use RDMA here without an explicit setting.
///
/// It can if there is a port, if the port takes `bytes` of memory, and if peers can reach this process over it: the
/// port has `address`, the settings name it, or it is an InfiniBand port, which has no addresses.
///
/// # Errors
/// [`Error::Rdma`] or [`Error::Io`] with the reason why it cannot.
pub fn usable(settings: &Verbs, address: Option<IpAddr>, bytes: usize) -> Result<(), Error> {
    let port = Port::open(settings, address)?;
    let named = settings.device.is_some() || settings.gid_index.is_some();
    if let Some(gid) = port.choice.gid.as_ref().filter(|_| !named)
        && address.map(|address| address.to_canonical()) != Some(gid.address)
    {
        let at = address.map_or_else(|| "a loopback address".to_owned(), |address| address.to_string());
        let Choice { device, port, .. } = &port.choice;
        return Err(Error::Rdma(format!(
            "{device} port {port} has the address {}, but the configured address of this process is {at}",
            gid.address
        )));
    }
    Region::new(&port, bytes.next_multiple_of(4096), 0, Access::ReadWrite).map(|_| ())
}

/// Limits the number of read requests to 16, since more bring no advantage.
fn few(limit: u32) -> u8 {
    limit.clamp(1, 16) as u8
}
