//! What a group's driver and its application exchange: the callbacks, views, and the progress of the log.

mod frontiers;
mod handler;
mod kept;
mod view;

pub use frontiers::Frontiers;
pub use handler::Handler;
pub use kept::Kept;
pub use view::View;

/// The text of a panic.
pub(crate) fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".to_owned())
}
