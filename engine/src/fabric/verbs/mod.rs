//! RDMA: devices that write into a peer's memory. Bound at run time: nothing of it is needed where there is none.

#[expect(dead_code, unused_imports, reason = "the fabric on top of it comes next")]
mod sys;
