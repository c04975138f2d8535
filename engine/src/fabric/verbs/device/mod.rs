//! The RDMA devices of this machine.
//!
//! [`devices`] examines all of them. [`choose`] selects one port and one of its GIDs, or reports for each why it cannot
//! be used.
//!
//! The GID table is read from sysfs. That works with every kernel and library that supports RoCE v2, shows the type and
//! the network interface of each entry, and needs no permission to open the device. `ibv_query_gid` reads the same
//! files but does not report types, and `_ibv_query_gid_table` exists only since rdma-core 32.

mod choice;
mod sysfs;

pub use choice::{Choice, Wanted, choose};

use super::sys::{
    Capacity, CompletionQueue, Context, DeviceList, IBV_LINK_LAYER_ETHERNET, IBV_LINK_LAYER_INFINIBAND,
    IBV_PORT_ACTIVE, IBV_PORT_ACTIVE_DEFER, IBV_PORT_ARMED, IBV_PORT_DOWN, IBV_PORT_INIT, IBV_QPF_GRH_REQUIRED,
    Library, ProtectionDomain, QueuePair, VerbsError, mtu_bytes,
};
use serde::Serialize;
use std::ffi::CStr;
use std::fmt;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

/// Why RDMA cannot be used: the missing part, and how to get it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(String);

/// A device and its visible properties.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Device {
    /// The name, as in /sys/class/infiniband.
    pub name: String,
    /// The version of its firmware.
    pub firmware: String,
    /// Why it cannot be used, regardless of its ports.
    pub obstacle: Option<String>,
    /// Its limits, if it could be opened.
    pub limits: Option<Limits>,
    /// Its ports, if it could be opened.
    pub ports: Vec<Port>,
}

/// The limits of a device. The names are those of `ibv_query_device(3)` and `ibv_create_qp(3)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Queue pairs.
    pub max_qp: u32,
    /// Requests in one queue of a queue pair.
    pub max_qp_wr: u32,
    /// Pieces of memory in one request.
    pub max_sge: u32,
    /// Completions in one queue.
    pub max_cqe: u32,
    /// Bytes in one memory region.
    pub max_mr_size: u64,
    /// Read requests that one queue pair serves at a time.
    pub max_qp_rd_atom: u32,
    /// Read requests that one queue pair has under way at a time.
    pub max_qp_init_rd_atom: u32,
    /// Bytes in an inline send request of one piece. Found by creating queue pairs; `None` if none could be created.
    pub max_inline_data: Option<u32>,
}

/// A port of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Port {
    /// The number of the port; the first is 1.
    pub number: u8,
    /// The kind of network to which it is connected.
    pub link_layer: LinkLayer,
    /// Whether packets can pass.
    pub state: PortState,
    /// Its address in an InfiniBand subnet; 0 on Ethernet.
    pub lid: u16,
    /// Whether a GID is needed even within an InfiniBand subnet.
    pub grh_required: bool,
    /// The present maximum payload of a packet, in bytes.
    pub active_mtu: u32,
    /// The largest possible payload of a packet, in bytes.
    pub max_mtu: u32,
    /// Speed and width in the kernel's words: "100 Gb/sec (4X EDR)".
    pub rate: Option<String>,
    /// Its GID table without the empty entries, up to index 255, the highest that a connection can name.
    pub gids: Vec<Gid>,
}

/// The kind of network to which a port is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum LinkLayer {
    /// A subnet with LIDs and a subnet manager.
    InfiniBand,
    /// RoCE.
    Ethernet,
    /// The device does not report it.
    Unspecified,
}

/// The state of a port, in the terms of the InfiniBand specification. Ethernet ports use only `Down` and `Active`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub enum PortState {
    Down,
    Initializing,
    Armed,
    Active,
    ActiveDefer,
    Unknown,
}

/// The packet format of a GID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum GidType {
    /// InfiniBand.
    #[serde(rename = "IB")]
    InfiniBand,
    /// Ethernet frames of a special type, which routers do not forward.
    #[serde(rename = "RoCE v1")]
    RoceV1,
    /// UDP, port 4791.
    #[serde(rename = "RoCE v2")]
    RoceV2,
}

impl fmt::Display for GidType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            GidType::InfiniBand => "IB",
            GidType::RoceV1 => "RoCE v1",
            GidType::RoceV2 => "RoCE v2",
        })
    }
}

/// An address of a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gid {
    /// Its index in the port's table.
    pub index: u8,
    /// The format of its packets.
    #[serde(rename = "type")]
    pub gid_type: GidType,
    /// The GID as an address; a GID that represents an IPv4 address is given as that.
    pub address: IpAddr,
    /// The network interface that has the address.
    pub netdev: Option<String>,
}

impl Gid {
    /// The bytes of the GID, as a connection needs them.
    pub fn bytes(&self) -> [u8; 16] {
        match self.address {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        }
    }
}

/// All devices, including those that cannot be used.
///
/// # Errors
/// [`Unavailable`] if there is no device, or if devices cannot be seen: no library, no kernel support, or no driver.
pub fn devices() -> Result<Vec<Device>, Unavailable> {
    let library = Library::get().map_err(|e| Unavailable(e.to_string()))?;
    let seen_by_kernel = sysfs::names(Path::new(sysfs::ROOT));
    let list = DeviceList::get(library).map_err(|e| Unavailable(nothing(&seen_by_kernel, Some(e))))?;
    let names = list.names();
    if names.is_empty() {
        return Err(Unavailable(nothing(&seen_by_kernel, None)));
    }
    Ok(names.into_iter().map(|name| describe(library, &list, name)).collect())
}

/// Why the library finds no devices.
fn nothing(seen_by_kernel: &[String], error: Option<VerbsError>) -> String {
    let Some(first) = seen_by_kernel.first() else {
        // Without a device the kernel has no reason to load the modules, and the library's error only reports that they
        // are absent.
        return format!(
            "this machine has no RDMA device, {} is empty or absent: load the driver of the card (mlx5_ib, irdma, bnxt_re \
             ...) and ib_uverbs; or try without a card: modprobe -a ib_uverbs rdma_rxe && rdma link add rxe0 type rxe \
             netdev INTERFACE",
            sysfs::ROOT
        );
    };
    let reason = closed(first).unwrap_or_else(|| {
        let error = error.map_or_else(String::new, |e| format!(" ({e})"));
        format!(
            "libibverbs has no driver for it{error}; install ibverbs-providers (Debian, Ubuntu) or libibverbs (RHEL, Fedora)"
        )
    });
    format!("the kernel has {}, but libibverbs finds no device; {first}: {reason}", seen_by_kernel.join(", "))
}

/// Why a program cannot open the device. The library's errno does not show it, since the library then tries another
/// path.
fn closed(name: &str) -> Option<String> {
    let Some(file) = sysfs::node(Path::new(sysfs::VERBS_ROOT), name) else {
        return Some("programs cannot open it; load ib_uverbs (modprobe ib_uverbs)".into());
    };
    let file = Path::new("/dev/infiniband").join(file);
    let error = File::options().read(true).write(true).open(&file).err()?;
    let file = file.display();
    Some(match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("this user may not read and write {file}; chmod 666 it, as the rules of udev normally do")
        }
        io::ErrorKind::NotFound => {
            format!("{file} is missing; in a container, pass the device through (--device={file})")
        }
        _ => format!("{file} cannot be opened: {error}"),
    })
}

fn describe(library: &'static Library, list: &DeviceList, name: String) -> Device {
    let folder = Path::new(sysfs::ROOT).join(&name);
    let firmware = sysfs::line(&folder.join("fw_ver")).unwrap_or_default();
    let mut device = Device { name, firmware, obstacle: None, limits: None, ports: Vec::new() };
    if sysfs::line(&folder.join("node_type")).is_some_and(|node_type| node_type.contains("RNIC")) {
        device.obstacle =
            Some("it is an iWARP device, which needs connections by rdma_cm; use a RoCE or InfiniBand device".into());
    }
    match open(library, list, &mut device, &folder) {
        Err(e) if device.obstacle.is_none() => {
            let closed = Some(e).filter(|e| e.call == "ibv_open_device").and_then(|_| closed(&device.name));
            device.obstacle = Some(closed.unwrap_or_else(|| e.to_string()));
        }
        _ => {}
    }
    device
}

/// Fills in the properties that only the open device reports.
fn open(library: &'static Library, list: &DeviceList, device: &mut Device, folder: &Path) -> Result<(), VerbsError> {
    let Some(context) = Context::open(list, library, &device.name)? else { return Ok(()) };
    let attributes = context.query_device()?;
    let firmware = CStr::from_bytes_until_nul(&attributes.fw_ver).unwrap_or_default();
    device.firmware = firmware.to_string_lossy().into_owned();
    let positive = |value: i32| u32::try_from(value).unwrap_or(0);
    let inline = max_inline_data(&context);
    device.limits = Some(Limits {
        max_qp: positive(attributes.max_qp),
        max_qp_wr: positive(attributes.max_qp_wr),
        max_sge: positive(attributes.max_sge),
        max_cqe: positive(attributes.max_cqe),
        max_mr_size: attributes.max_mr_size,
        max_qp_rd_atom: positive(attributes.max_qp_rd_atom),
        max_qp_init_rd_atom: positive(attributes.max_qp_init_rd_atom),
        max_inline_data: inline.ok(),
    });
    for number in 1..=attributes.phys_port_cnt {
        device.ports.push(port(&context, number, &folder.join("ports").join(number.to_string()))?);
    }
    inline.map(|_| ())
}

fn port(context: &Context, number: u8, folder: &Path) -> Result<Port, VerbsError> {
    let attributes = context.query_port(number)?;
    let link_layer = match u32::from(attributes.link_layer) {
        IBV_LINK_LAYER_ETHERNET => LinkLayer::Ethernet,
        IBV_LINK_LAYER_INFINIBAND => LinkLayer::InfiniBand,
        _ => LinkLayer::Unspecified,
    };
    Ok(Port {
        number,
        link_layer,
        state: match attributes.state {
            IBV_PORT_DOWN => PortState::Down,
            IBV_PORT_INIT => PortState::Initializing,
            IBV_PORT_ARMED => PortState::Armed,
            IBV_PORT_ACTIVE => PortState::Active,
            IBV_PORT_ACTIVE_DEFER => PortState::ActiveDefer,
            _ => PortState::Unknown,
        },
        lid: attributes.lid,
        grh_required: u32::from(attributes.flags) & IBV_QPF_GRH_REQUIRED != 0,
        active_mtu: mtu_bytes(attributes.active_mtu).unwrap_or(0),
        max_mtu: mtu_bytes(attributes.max_mtu).unwrap_or(0),
        rate: sysfs::line(&folder.join("rate")),
        gids: sysfs::gids(folder, usize::try_from(attributes.gid_tbl_len).unwrap_or(0), link_layer),
    })
}

/// The maximum length of an inline request, in bytes. No query returns it; creating a queue pair fails if the size is
/// too large.
fn max_inline_data(context: &Arc<Context>) -> Result<u32, VerbsError> {
    /// Providers round up to their own unit, so smaller steps bring nothing.
    const STEP: u32 = 16;
    let domain = ProtectionDomain::new(context)?;
    let completions = CompletionQueue::new(context, 1, None)?;
    let granted = |inline_bytes: u32| -> Result<u32, VerbsError> {
        let capacity =
            Capacity { send_requests: 1, receive_requests: 1, send_pieces: 1, receive_pieces: 1, inline_bytes };
        Ok(QueuePair::new(&domain, &completions, &completions, capacity)?.capacity()?.inline_bytes)
    };
    let mut most = granted(0)?;
    // Binary search: a number of steps that works, and one that fails or is out of interest.
    let (mut works, mut fails) = (0, 4096 / STEP + 1);
    while fails - works > 1 {
        let middle = works + (fails - works) / 2;
        match granted(middle * STEP) {
            Ok(bytes) => {
                most = most.max(bytes);
                works = middle;
            }
            Err(_) => fails = middle,
        }
    }
    Ok(most)
}

#[cfg(test)]
mod tests {
    use super::{Gid, GidType, VerbsError, nothing};

    #[test]
    fn what_is_missing_is_said() {
        let none = nothing(&[], Some(VerbsError { call: "ibv_get_device_list", errno: libc::ENOSYS }));
        assert!(none.contains("no RDMA device") && none.contains("rdma link add"), "{none}");
        let hidden = nothing(&["no-such-device".into()], None);
        assert!(
            hidden.starts_with("the kernel has no-such-device, but") && hidden.contains("load ib_uverbs"),
            "{hidden}"
        );
    }

    #[test]
    fn a_gid_keeps_its_bytes() {
        for text in ["::ffff:10.9.0.1", "fe80::5054:ff:fe12:3456", "2001:db8::2"] {
            let bytes = text.parse::<std::net::Ipv6Addr>().unwrap();
            let gid = Gid { index: 1, gid_type: GidType::RoceV2, address: bytes.to_canonical(), netdev: None };
            assert_eq!(gid.bytes(), bytes.octets());
        }
    }
}
