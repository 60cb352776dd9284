//! The whole path of a reading on one machine, watched from outside.
