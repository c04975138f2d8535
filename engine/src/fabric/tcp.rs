//! The contract over one non-blocking TCP connection per pair.
