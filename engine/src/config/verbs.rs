//! The RDMA settings: the table `verbs` of the configuration. Members may have different values.

use super::explain::outside;
use crate::error::Error;
use serde::Deserialize;

/// The RDMA settings. Every key is optional. Names in brackets are the terms of the InfiniBand specification.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Verbs {
    /// The device, as listed by `galerna-bench devices`. Default: the best one.
    pub device: Option<String>,
    /// The port of the device, from 1. Default: the first usable one.
    pub port: Option<u8>,
    /// The index in the port's GID table.
    ///
    /// Default: the RoCE v2 entry with the address at which peers reach this process, otherwise one with another IPv4
    /// address. On InfiniBand no GID is used unless this key is set.
    pub gid_index: Option<u8>,
    /// The payload bytes of a packet: 256, 512, 1024, 2048 or 4096. Default and upper limit: the MTU that both ports
    /// support.
    pub mtu: Option<u32>,
    /// How long a packet may stay unacknowledged before it is sent again: 4.096 µs · 2^`timeout` [local ack timeout].
    ///
    /// From 1 to 31; 14 is 67 ms.
    pub timeout: u8,
    /// How often a packet is sent again before the link is down, from 0 to 7 [retry count]. SoftRoCE retries for ever
    /// at 7.
    pub retry_count: u8,
    /// How long a peer waits when this process had no receive buffer for its wake-up, as a code from 0 to 31.
    ///
    /// 12 is 0.64 ms [RNR NAK timer].
    pub min_rnr_timer: u8,
    /// The partition, as an index of the port's table of partition keys.
    pub pkey_index: u16,
    /// The service level, from 0 to 15. On Ethernet its lower three bits are the priority.
    pub service_level: u8,
    /// The traffic class. On RoCE v2 its upper six bits are the DSCP.
    pub traffic_class: u8,
    /// The most routers that a packet may pass, from 1.
    pub hop_limit: u8,
    /// The most outstanding requests to one peer, from 16 to 16384; fewer if the device supports fewer.
    pub send_queue_depth: u32,
    /// The most bytes of a write that are copied into its request instead of referenced, from 0 to 1024.
    ///
    /// Fewer if the device supports fewer.
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
            value => Err(outside(&format!("verbs.{key}"), value)),
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
            Some(mtu) if !(256..=4096).contains(&mtu) || !mtu.is_power_of_two() => Err(outside("verbs.mtu", mtu)),
            _ => Ok(()),
        }
    }
}
