//! The kernel's files about its RDMA devices.

use super::{Gid, GidType, LinkLayer};
use std::net::Ipv6Addr;
use std::path::Path;

/// Has one directory per device.
pub(super) const ROOT: &str = "/sys/class/infiniband";
/// Has one directory per device that programs can open.
pub(super) const VERBS_ROOT: &str = "/sys/class/infiniband_verbs";
/// A connection names an entry of the GID table by one byte.
const GIDS_MAX: usize = 256;

/// The names in a directory; none if it does not exist.
pub(super) fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The text of a one-line file, if there is any. The files of empty table entries cannot be read.
pub(super) fn line(file: &Path) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The name in /dev/infiniband under which programs open a device.
pub(super) fn node(verbs: &Path, device: &str) -> Option<String> {
    names(verbs).into_iter().find(|name| line(&verbs.join(name).join("ibdev")).is_some_and(|ibdev| ibdev == device))
}

/// The entries of a port's GID table of `len` entries, without the empty ones.
pub(super) fn gids(port: &Path, len: usize, link_layer: LinkLayer) -> Vec<Gid> {
    let attributes = port.join("gid_attrs");
    let entry = |index: u8| {
        let address: Ipv6Addr = line(&port.join(format!("gids/{index}")))?.parse().ok()?;
        // The kernel shows an empty entry as zeroes, and the entry of a port that is just coming up as a bare prefix.
        if address.is_unspecified() || address.octets()[8..] == [0; 8] {
            return None;
        }
        let gid_type = match line(&attributes.join(format!("types/{index}"))) {
            Some(text) if text == "RoCE v2" => GidType::RoceV2,
            _ if link_layer == LinkLayer::Ethernet => GidType::RoceV1,
            _ => GidType::InfiniBand,
        };
        let netdev = line(&attributes.join(format!("ndevs/{index}")));
        Some(Gid { index, gid_type, address: address.to_canonical(), netdev })
    };
    (0..len.min(GIDS_MAX)).filter_map(|index| u8::try_from(index).ok().and_then(entry)).collect()
}

#[cfg(test)]
mod tests {
    use super::{gids, line, names, node};
    use crate::fabric::verbs::device::{Gid, GidType, LinkLayer};
    use crate::folder::Folder;
    use std::path::Path;

    /// Creates a directory with such files as sysfs has.
    fn folder(name: &str, files: &[(&str, &str)]) -> Folder {
        let folder = Folder::new(name);
        for (file, text) in files {
            let file = folder.0.join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        folder
    }

    #[test]
    fn a_table_of_gids() {
        let port = folder(
            "gids",
            &[
                ("gids/0", "fe80:0000:0000:0000:5054:00ff:fe12:3456\n"),
                ("gid_attrs/types/0", "IB/RoCE v1\n"),
                ("gid_attrs/ndevs/0", "eth0\n"),
                ("gids/1", "0000:0000:0000:0000:0000:ffff:0a09:0001\n"),
                ("gid_attrs/types/1", "RoCE v2\n"),
                ("gid_attrs/ndevs/1", "eth0\n"),
                ("gids/2", "0000:0000:0000:0000:0000:0000:0000:0000\n"),
                ("gids/3", "fe80:0000:0000:0000:0000:0000:0000:0000\n"),
                ("gids/4", "2001:0db8:0000:0000:0000:0000:0000:0002\n"),
                ("gid_attrs/types/4", "RoCE v2\n"),
                ("gids/5", "2001:0db8:0000:0000:0000:0000:0000:0003\n"),
            ],
        );
        let gid = |index, gid_type, address: &str, netdev: Option<&str>| Gid {
            index,
            gid_type,
            address: address.parse().unwrap(),
            netdev: netdev.map(str::to_owned),
        };
        assert_eq!(
            gids(&port.0, 5, LinkLayer::Ethernet),
            [
                gid(0, GidType::RoceV1, "fe80::5054:ff:fe12:3456", Some("eth0")),
                gid(1, GidType::RoceV2, "10.9.0.1", Some("eth0")),
                gid(4, GidType::RoceV2, "2001:db8::2", None),
            ]
        );
        let on_infiniband = gids(&port.0, 1, LinkLayer::InfiniBand);
        assert_eq!(on_infiniband, [gid(0, GidType::InfiniBand, "fe80::5054:ff:fe12:3456", Some("eth0"))]);
        assert_eq!(gids(Path::new("/nonexistent"), 1000, LinkLayer::Ethernet), []);
    }

    #[test]
    fn files_that_are_not_there() {
        assert_eq!(line(Path::new("/nonexistent")), None);
        assert_eq!(names(Path::new("/nonexistent")), [""; 0]);
        let devices = folder("names", &[("rxe1/fw_ver", "\n"), ("rxe0/fw_ver", "1.2\n")]);
        assert_eq!(names(&devices.0), ["rxe0", "rxe1"]);
        assert_eq!(line(&devices.0.join("rxe0/fw_ver")).as_deref(), Some("1.2"));
        assert_eq!(line(&devices.0.join("rxe1/fw_ver")), None);
        let verbs =
            folder("verbs", &[("abi_version", "6\n"), ("uverbs0/ibdev", "rxe1\n"), ("uverbs1/ibdev", "rxe0\n")]);
        assert_eq!(node(&verbs.0, "rxe0").as_deref(), Some("uverbs1"));
        assert_eq!(node(&verbs.0, "rxe2"), None);
    }
}
