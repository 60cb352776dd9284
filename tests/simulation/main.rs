//! The protocol under simulated faults: the engines that ship, with models of everything around
//! them. One seed decides everything.
//!
//! ```sh
//! cargo test -p fieldpost-tests --test simulation                       # 10,000 seeds, every mutant
//! SEEDS=1000000 cargo test -p fieldpost-tests --test simulation seeds   # more of them
//! SEED=17 cargo test -p fieldpost-tests --test simulation replay -- --nocapture
//! SEED=17 MUTANT="no floor" cargo test -p fieldpost-tests --test simulation replay -- --nocapture
//! ```

#![allow(clippy::print_stdout, reason = "a history is there to be read")]

mod bridge;
mod broker;
mod commands;
mod dice;
mod faults;
mod gateway;
mod judge;
mod mutants;
mod outbox;
mod plan;
mod run;
mod store;
mod stories;
mod truth;
mod world;
