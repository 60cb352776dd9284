//! kill -9 of gateway, bridge and broker: at random, and at every fail point.
