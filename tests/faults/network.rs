//! The network between gateway and broker: slow, stalled, half-open, cut, partitioned.
