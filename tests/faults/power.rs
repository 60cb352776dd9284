//! Power cuts: the outbox on an ext4 file system that is cut off in the middle.
