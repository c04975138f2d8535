//! `galerna_version_t`: the position of a record in a log.

use engine::Version;

/// The position of a record in a log.
///
/// Versions grow from record to record, with gaps. To compare two versions, compare `view` first, then `sequence`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct galerna_version_t {
    /// Number of the view in which the message was delivered. 0 in a log without a group.
    pub view: u64,
    /// Sequence number of the message in the total order. In a log without a group it begins with 1.
    pub sequence: u64,
}

impl From<Version> for galerna_version_t {
    fn from(Version { view, sequence }: Version) -> galerna_version_t {
        galerna_version_t { view, sequence }
    }
}

impl From<galerna_version_t> for Version {
    fn from(galerna_version_t { view, sequence }: galerna_version_t) -> Version {
        Version { view, sequence }
    }
}
