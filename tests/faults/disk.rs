//! The disk under the gateway: full, read-only, failing.
