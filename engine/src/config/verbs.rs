//! How RDMA is used: the table `verbs` of the configuration. Each member may have its own.

use crate::error::Error;
use serde::Deserialize;

/// Every key is optional. The numbers in brackets are what the InfiniBand specification calls them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Verbs {
    /// The device, as `galerna-bench devices` lists it; by default the best of all.
    pub device: Option<String>,
    /// The device's port, from 1; by default the first that can be used.
    pub port: Option<u8>,
    /// The entry of the port's GID table; by default that of RoCE v2 with the address that peers find this process at, or
    /// with another IPv4 address. On InfiniBand none is used, unless it is given.
    pub gid_index: Option<u8>,
    /// Bytes of a packet's payload: 256, 512, 1024, 2048 or 4096; by default, and at most, what both ports have.
    pub mtu: Option<u32>,
    /// How long a packet may be without an answer before it is sent again: 4.096 µs · 2^`timeout`, from 1 to 31; 14 is 67 ms
    /// [local ack timeout].
    pub timeout: u8,
    /// How often it is sent again before the link is down, from 0 to 7 [retry count]; for SoftRoCE 7 is for ever.
    pub retry_count: u8,
    /// How long a peer waits whose wake-up found no room, as a code from 0 to 31; 12 is 0.64 ms [RNR NAK timer].
    pub min_rnr_timer: u8,
    /// Partition: an index of the port's table of partition keys.
    pub pkey_index: u16,
    /// Service level, from 0 to 15; on Ethernet its lower three bits are the priority.
    pub service_level: u8,
    /// Traffic class; on RoCE v2 the DSCP in its upper six bits.
    pub traffic_class: u8,
    /// How many routers a packet may pass, from 1.
    pub hop_limit: u8,
    /// Requests under way to one peer, from 16 to 16384; less if the device has less.
    pub send_queue_depth: u32,
    /// Bytes of a write that goes to the device with its request, not by reference, from 0 to 1024; less if the device has less.
    pub inline_bytes: u32,
}

impl Default for Verbs {
    fn default() -> Verbs {
        Verbs {
            device: None,
            port: None,
            gid_index: None,
            mtu: None,
            timeout: 14,
            retry_count: 6,
            min_rnr_timer: 12,
            pkey_index: 0,
            service_level: 0,
            traffic_class: 0,
            hop_limit: 64,
            send_queue_depth: 128,
            inline_bytes: 220,
        }
    }
}

impl Verbs {
    pub(super) fn check(&self) -> Result<(), Error> {
        let within = |key: &str, value: u32, least: u32, most: u32| match value {
            value if (least..=most).contains(&value) => Ok(()),
            value => Err(Error::Config(format!("`verbs.{key}` must be from {least} to {most}, not {value}"))),
        };
        within("port", u32::from(self.port.unwrap_or(1)), 1, 255)?;
        within("timeout", u32::from(self.timeout), 1, 31)?;
        within("retry_count", u32::from(self.retry_count), 0, 7)?;
        within("min_rnr_timer", u32::from(self.min_rnr_timer), 0, 31)?;
        within("service_level", u32::from(self.service_level), 0, 15)?;
        within("hop_limit", u32::from(self.hop_limit), 1, 255)?;
        within("send_queue_depth", self.send_queue_depth, 16, 16_384)?;
        within("inline_bytes", self.inline_bytes, 0, 1024)?;
        match self.mtu {
            Some(mtu) if !(256..=4096).contains(&mtu) || !mtu.is_power_of_two() => {
                Err(Error::Config(format!("`verbs.mtu` must be 256, 512, 1024, 2048 or 4096, not {mtu}")))
            }
            _ => Ok(()),
        }
    }
}
