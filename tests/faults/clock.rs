//! Clocks: 1970, jumps, synchronised late.
