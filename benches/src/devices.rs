//! `galerna-bench devices`: the RDMA devices of this machine, the choice among them, and the reasons why others are
//! unusable.

use crate::Result;
use crate::report::show;
use clap::Args;
use galerna::fabric::verbs::device::{self, Choice, Device, Gid, Limits, Port, Wanted};
use serde::Serialize;
use std::fmt::Write as _;
use std::net::IpAddr;

#[derive(Debug, Clone, Args)]
pub(crate) struct DevicesArgs {
    /// Use only this device.
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// Use only this port of a device.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..))]
    port: Option<u8>,
    /// Use only this entry of the port's GID table.
    #[arg(long, value_name = "INDEX")]
    gid_index: Option<u8>,
    /// Prefer the port and the GID with this address, which is the member's.
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    kind: &'static str,
    devices: Vec<Device>,
    /// For each device and port: the reason why it cannot be used, or null.
    obstacles: Vec<Obstacle>,
    would_use: Option<Choice>,
    /// The reason why no device can be used.
    why_none: Option<String>,
}

#[derive(Serialize)]
struct Obstacle {
    device: String,
    port: u8,
    why: Option<String>,
}

/// Lists the devices. Fails if none can be used, so that a script can test for it.
pub(crate) fn run(args: &DevicesArgs) -> Result<()> {
    let wanted =
        Wanted { device: args.device.clone(), port: args.port, gid_index: args.gid_index, address: args.address };
    let (devices, choice) = match device::devices() {
        Ok(devices) => {
            let choice = device::choose(&devices, &wanted);
            (devices, choice)
        }
        Err(why) => (Vec::new(), Err(why)),
    };
    let obstacles = devices.iter().flat_map(|device| {
        device.ports.iter().map(|port| Obstacle {
            device: device.name.clone(),
            port: port.number,
            why: device.usable(port, &wanted).err().map(|why| why.to_string()),
        })
    });
    let report = Report {
        kind: "devices",
        obstacles: obstacles.collect(),
        would_use: choice.as_ref().ok().cloned(),
        why_none: choice.as_ref().err().map(ToString::to_string),
        devices,
    };
    if args.json || !report.devices.is_empty() {
        show(&report, args.json, || text(&report, &wanted))?;
    }
    choice.map(|_| ()).map_err(Into::into)
}

fn text(report: &Report, wanted: &Wanted) -> String {
    let mut text = String::new();
    for device in &report.devices {
        let firmware = if device.firmware.is_empty() { "unknown" } else { &device.firmware };
        let _ = writeln!(text, "{}: firmware {firmware}", device.name);
        if let Some(obstacle) = &device.obstacle {
            let _ = writeln!(text, "  cannot be used: {obstacle}");
        }
        if let Some(limits) = &device.limits {
            let _ = writeln!(text, "  {}", limits_text(limits));
        }
        for port in &device.ports {
            describe(&mut text, device, port, wanted);
        }
    }
    if let Some(choice) = &report.would_use {
        let _ = write!(text, "would use {}", choice_text(choice));
    }
    text.trim_end().to_owned()
}

fn limits_text(limits: &Limits) -> String {
    let inline = limits.max_inline_data.map_or_else(|| "unknown".to_owned(), |bytes| format!("{bytes} B"));
    format!(
        "at most {} queue pairs of {} requests of {} pieces, {} completions in a queue, {} in a memory region, \
         {} reads at a time; inline {inline}",
        limits.max_qp,
        limits.max_qp_wr,
        limits.max_sge,
        limits.max_cqe,
        size(limits.max_mr_size),
        limits.max_qp_rd_atom.min(limits.max_qp_init_rd_atom),
    )
}

/// Formats a number of bytes in the largest of KiB, MiB, GiB and TiB of which there are at least 4 (at least KiB).
fn size(bytes: u64) -> String {
    match bytes {
        u64::MAX => "any number of bytes".to_owned(),
        0..0x40_0000 => format!("{} KiB", bytes >> 10),
        0x40_0000..0x1_0000_0000 => format!("{} MiB", bytes >> 20),
        0x1_0000_0000..0x400_0000_0000 => format!("{} GiB", bytes >> 30),
        _ => format!("{} TiB", bytes >> 40),
    }
}

fn describe(text: &mut String, device: &Device, port: &Port, wanted: &Wanted) {
    let _ = writeln!(
        text,
        "  port {}: {:?}, {:?}, {}, MTU {} (of {}), LID {}",
        port.number,
        port.link_layer,
        port.state,
        port.rate.as_deref().unwrap_or("speed unknown"),
        port.active_mtu,
        port.max_mtu,
        port.lid,
    );
    for gid in &port.gids {
        let _ = writeln!(text, "    GID {}", gid_text(gid));
    }
    let _ = match device.usable(port, wanted) {
        Ok(choice) => writeln!(text, "    usable: {}", choice_text(&choice)),
        Err(why) => writeln!(text, "    cannot be used: {why}"),
    };
}

fn gid_text(gid: &Gid) -> String {
    let netdev = gid.netdev.as_deref().map_or_else(String::new, |netdev| format!(" on {netdev}"));
    format!("{:>3}  {:<7}  {}{netdev}", gid.index, gid.gid_type, gid.address)
}

fn choice_text(choice: &Choice) -> String {
    let by = choice.gid.as_ref().map_or_else(
        || format!("LID {}", choice.lid),
        |gid| format!("GID {} ({}, {})", gid.index, gid.gid_type, gid.address),
    );
    format!("{} port {}, {by}, MTU {}", choice.device, choice.port, choice.active_mtu)
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes() {
        assert_eq!(
            [0x20_0000, 0x8000_0000, 0x1_0000_0000, 1 << 45, u64::MAX].map(size),
            ["2048 KiB", "2048 MiB", "4 GiB", "32 TiB", "any number of bytes"]
        );
    }
}
