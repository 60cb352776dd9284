//! The protocol under simulated faults: the engines that ship, with models of everything around them.
