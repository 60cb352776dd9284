//! The serial line: flooded, unplugged in the middle of a line, renamed.
