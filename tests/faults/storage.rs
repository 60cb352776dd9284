//! The storage under the bridge: locked, read-only, full, gone, restored from a backup.
