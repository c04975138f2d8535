//! How the configured members find each other and check that they agree.
