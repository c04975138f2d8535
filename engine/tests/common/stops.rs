//! Ends the threads of a scope, also when the test fails.

use std::sync::atomic::{AtomicBool, Ordering};

/// Sets a flag when it is dropped. Without it, a test that fails would wait for its threads for ever.
pub(crate) struct Stops<'s>(pub(crate) &'s AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
