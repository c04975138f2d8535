//! The port of a device that a group's traffic goes over, opened.

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

/// See the module.
pub(super) struct Port {
    pub(super) choice: Choice,
    pub(super) context: Arc<Context>,
    /// Everything that this process makes is in it, so that each queue pair reaches each region whose key its peer was told.
    pub(super) domain: Arc<ProtectionDomain>,
    /// With what the device cannot do taken off.
    settings: Verbs,
    /// Read requests of a queue pair: served, and under way.
    reads: (u8, u8),
}

impl Port {
    /// Opens what `settings` say; `address` is where the peers find this process, and a port that has it is preferred.
    pub(super) fn open(settings: &Verbs, address: Option<IpAddr>) -> Result<Port, Error> {
        let unavailable = Error::Rdma;
        let (choice, limits) = choose(settings, address)?;
        let reads = limits.map_or((1, 1), |limits| (few(limits.max_qp_rd_atom), few(limits.max_qp_init_rd_atom)));
        let mut settings = settings.clone();
        if let Some(limits) = limits {
            settings.send_queue_depth = settings.send_queue_depth.min(limits.max_qp_wr);
            settings.inline_bytes = settings.inline_bytes.min(limits.max_inline_data.unwrap_or(0));
        }
        let failed = |e: VerbsError| Error::io(format!("verbs: cannot open {}", choice.device), io::Error::from(e));
        let library = Library::get().map_err(|e| unavailable(e.to_string()))?;
        let list = DeviceList::get(library).map_err(failed)?;
        let context = Context::open(&list, library, &choice.device).map_err(failed)?;
        let context = context.ok_or_else(|| unavailable(format!("the device {} has gone", choice.device)))?;
        let domain = ProtectionDomain::new(&context).map_err(failed)?;
        Ok(Port { choice, context, domain, settings, reads })
    }

    /// Read requests of one peer that a queue pair serves at a time.
    pub(super) fn reads_served(&self) -> u8 {
        self.reads.0
    }

    /// `IBV_MTU_*`: what the port has, or less if the configuration says so.
    pub(super) fn mtu(&self) -> u32 {
        mtu_code(self.settings.mtu.map_or(self.choice.active_mtu, |mtu| mtu.min(self.choice.active_mtu)))
    }

    /// The own GID; zero where a LID is enough.
    pub(super) fn gid(&self) -> [u8; 16] {
        self.choice.gid.as_ref().map_or([0; 16], |gid| gid.bytes())
    }

    /// Requests that the send queue of a queue pair is asked to hold.
    pub(super) fn depth(&self) -> u32 {
        self.settings.send_queue_depth
    }

    /// What a queue pair is asked to hold.
    pub(super) fn capacity(&self) -> Capacity {
        Capacity {
            send_requests: self.depth(),
            receive_requests: RECEIVES,
            send_pieces: 1,
            receive_pieces: 1,
            inline_bytes: self.settings.inline_bytes,
        }
    }

    /// How a connection to a peer behaves whose port has `mtu` and that serves so many read requests.
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
            // For ever: how long a process may stand still is for the failure detector to say.
            rnr_retry: 7,
            min_rnr_timer: settings.min_rnr_timer,
            reads: self.reads.1.min(reads_served),
            reads_served: self.reads.0,
        }
    }
}

/// What [`Port::open`] would open, and what the device can do.
fn choose(settings: &Verbs, address: Option<IpAddr>) -> Result<(Choice, Option<Limits>), Error> {
    let Verbs { device, port, gid_index, .. } = settings.clone();
    let unavailable = |e: device::Unavailable| Error::Rdma(e.to_string());
    let devices = device::devices().map_err(unavailable)?;
    let choice = device::choose(&devices, &Wanted { device, port, gid_index, address }).map_err(unavailable)?;
    let limits = devices.iter().find(|device| device.name == choice.device).and_then(|device| device.limits);
    Ok((choice, limits))
}

/// Whether a group may count on RDMA here without being told to: there is a port, it has the `address` where peers find this
/// process (or the settings name it, or it is one of InfiniBand, which has no addresses), and it takes `bytes` of memory.
///
/// # Errors
/// [`Error::Rdma`] or [`Error::Io`] says why not.
pub fn usable(settings: &Verbs, address: Option<IpAddr>, bytes: usize) -> Result<(), Error> {
    let port = Port::open(settings, address)?;
    let named = settings.device.is_some() || settings.gid_index.is_some();
    if let Some(gid) = port.choice.gid.as_ref().filter(|_| !named)
        && address.map(|address| address.to_canonical()) != Some(gid.address)
    {
        let at = address.map_or_else(|| "a loopback address".to_owned(), |address| address.to_string());
        let Choice { device, port, .. } = &port.choice;
        return Err(Error::Rdma(format!(
            "{device} port {port} has {}, but this process is found at {at}",
            gid.address
        )));
    }
    Region::new(&port, bytes.next_multiple_of(4096), 0, Access::ReadWrite).map(|_| ())
}

/// Sixteen are as good as more.
fn few(limit: u32) -> u8 {
    limit.clamp(1, 16) as u8
}
