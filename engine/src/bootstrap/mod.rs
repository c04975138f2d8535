//! How a process gets into its group: it founds the group, joins it, or restarts it together with the others.

mod admission;
mod founding;
mod idle;
pub(crate) mod join;
mod recover;
mod restart;

pub use recover::{RecoverError, Recovered, recover};
