//! Members on one host share their rows.
