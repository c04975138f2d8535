//! RDMA: devices that write into a peer's memory. Bound at run time: nothing of it is needed where there is none.
//!
//! [`device`] lists what this machine has, and says what would be used, or in words why nothing can be.

pub mod device;
#[cfg(test)]
mod live;
#[cfg_attr(
    not(test),
    expect(dead_code, unused_imports, reason = "the fabric on top of it comes next; until then tests use it")
)]
mod sys;
