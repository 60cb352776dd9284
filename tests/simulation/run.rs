//! Histories from a seed to a verdict, and the tests over many of them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::mutants::{MUTANTS, Mutant, Shown, Switches};
use crate::plan::Scenario;
use crate::world::World;

/// Histories in an ordinary run, and within which every mutant has to be caught.
const SEEDS: u64 = 10_000;
/// How often a story is told.
const STORIES: u64 = 100;
/// After the faults everything has drained by then: the longest resend time is 5 min.
const DRAINED_MS: i64 = 25 * 60_000;
/// ... where a storage or a card went back without a word, or a late hello was taken for that of a
/// new card, only the hourly hello may tell.
const DRAINED_SILENTLY_MS: i64 = 100 * 60_000;
/// How often it is looked whether all is settled.
const LOOK_MS: i64 = 20_000;

/// What came of a history.
struct Verdict {
    violation: Option<String>,
    stored: u64,
    facts: usize,
}

fn run(
    seed: u64,
    scenario: Option<Scenario>,
    switches: Switches,
    told: bool,
) -> (Verdict, Vec<String>) {
    let mut world = World::new(seed, scenario, switches, told);
    world.run_until(world.plan.faulty_ms);
    world.heal();
    // Late copies of messages may tell a storage that went back of rows that are gone.
    let late = world.restored && world.plan.duplicate > 0.0;
    let harmed = world.machines.iter().any(|machine| machine.harmed);
    let silent = world.restored_silently || harmed || late;
    settle(&mut world, silent);
    let truth = world.truth.clone();
    let truth = truth.borrow();
    let verdict = Verdict {
        violation: truth.violation.clone(),
        stored: truth.stored,
        facts: truth.facts.len(),
    };
    if let Some(violation) = &verdict.violation {
        world.tell(format!("*** VIOLATED: {violation}"));
    }
    (verdict, world.history())
}

/// Measures for half a minute more, then waits until all is settled.
fn settle(world: &mut World, silent: bool) {
    let begin = world.now;
    world.run_until(begin + 30_000);
    // An answer of the other one may have come after the faults.
    world.trust_the_right_store();
    world.measuring = false;
    while !world.is_broken() {
        world.run_until(world.now + LOOK_MS);
        let Some(unsettled) = world.unsettled() else { return };
        // A late hello of an epoch that nobody knew keeps the right one out for a while.
        let confused = world.store.borrow().db.confused_until > world.unix_ms();
        let within_ms = if silent || confused { DRAINED_SILENTLY_MS } else { DRAINED_MS };
        if world.now > begin + within_ms {
            let minutes = within_ms / 60_000;
            let what = format!("{minutes} min after the faults: {unsettled}");
            world.truth.borrow_mut().violate(what);
        }
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Runs `work` on as many threads as there are cores, with numbers from 0 on.
pub fn on_all_cores(count: u64, work: impl Fn(u64) -> bool + Sync) {
    let next = AtomicU64::new(0);
    let cores = std::thread::available_parallelism().map_or(2, |cores| cores.get());
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count || !work(number) {
                        next.store(count, Ordering::Relaxed);
                        return;
                    }
                }
            });
        }
    });
}

#[test]
fn no_history_breaks_an_invariant() {
    let count = number("SEEDS").unwrap_or(SEEDS);
    let first = number("FROM").unwrap_or(0);
    let (stored, facts, done) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let broken = Mutex::new(None);
    let begin = Instant::now();
    on_all_cores(count.saturating_sub(first), |nth| {
        let seed = first + nth;
        let (verdict, _) = run(seed, None, Switches::product(), false);
        if (done.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(50_000) {
            println!("up to about seed {seed} in {:.0?}", begin.elapsed());
        }
        stored.fetch_add(verdict.stored, Ordering::Relaxed);
        facts.fetch_add(verdict.facts as u64, Ordering::Relaxed);
        match verdict.violation {
            None => true,
            Some(violation) => {
                broken.lock().unwrap().get_or_insert((seed, violation));
                false
            }
        }
    });
    println!(
        "{done:?} seeds in {:.1?}: {facts:?} readings and events, {stored:?} rows stored",
        begin.elapsed()
    );
    if let Some((seed, violation)) = broken.into_inner().unwrap() {
        let (_, history) = run(seed, None, Switches::product(), true);
        let tail = history.len().saturating_sub(80);
        history[tail..].iter().for_each(|line| println!("{line}"));
        panic!(
            "seed {seed}: {violation}\nthe whole history: SEED={seed} cargo test -p fieldpost-tests \
             --test simulation replay -- --nocapture"
        );
    }
}

fn mutant(name: &str) -> &'static Mutant {
    let found = MUTANTS.iter().find(|mutant| mutant.name == name);
    found.unwrap_or_else(|| panic!("there is no mutant {name:?}"))
}

#[test]
fn replay() {
    let Some(seed) = number("SEED") else { return };
    let named = |variable| std::env::var(variable).ok().map(|name| mutant(&name));
    let switches = named("MUTANT").map_or(Switches::product(), Switches::of);
    let scenario = match named("SCENARIO").or(named("MUTANT")).map(|mutant| mutant.shown) {
        Some(Shown::Plan(scenario)) => Some(scenario),
        _ => None,
    };
    let (verdict, history) = run(seed, scenario, switches, true);
    history.iter().for_each(|line| println!("{line}"));
    assert_eq!(verdict.violation, None);
}

fn history_of(mutant: &Mutant, seed: u64, switches: Switches) -> Option<String> {
    match mutant.shown {
        Shown::Chance => run(seed, None, switches, false).0.violation,
        Shown::Plan(scenario) => run(seed, Some(scenario), switches, false).0.violation,
        Shown::Story(story) => story(seed, switches),
    }
}

/// Runs a mutant until it is caught.
fn catch(mutant: &Mutant) -> Option<(u64, String)> {
    let caught = Mutex::new(None);
    let seeds = if matches!(mutant.shown, Shown::Story(_)) { STORIES } else { SEEDS };
    on_all_cores(seeds, |seed| {
        let Some(violation) = history_of(mutant, seed, Switches::of(mutant)) else { return true };
        caught.lock().expect("no thread has panicked").get_or_insert((seed, violation));
        false
    });
    caught.into_inner().expect("no thread has panicked")
}

#[test]
fn what_ships_passes_every_shaped_history() {
    for mutant in MUTANTS.iter().filter(|mutant| !matches!(mutant.shown, Shown::Chance)) {
        on_all_cores(STORIES, |seed| {
            let violation = history_of(mutant, seed, Switches::product());
            assert_eq!(violation, None, "without the mutant {:?}, seed {seed}", mutant.name);
            true
        });
    }
}

#[test]
fn every_mutant_is_caught() {
    let only = std::env::var("MUTANT").ok();
    let mut escaped = Vec::new();
    for mutant in
        MUTANTS.iter().filter(|mutant| only.as_ref().is_none_or(|only| only == mutant.name))
    {
        let begin = Instant::now();
        let caught = catch(mutant);
        let (name, took) = (mutant.name, begin.elapsed());
        match caught {
            Some((seed, violation)) => {
                println!("{name:<50} seed {seed:>5} {took:>7.1?}  {violation}");
                let without = history_of(mutant, seed, Switches::product());
                assert_eq!(without, None, "without the mutant {name:?}, seed {seed}");
            }
            None => {
                println!("{name:<50} ESCAPED {took:>7.1?}");
                escaped.push(name);
            }
        }
    }
    assert!(escaped.is_empty(), "not caught within {SEEDS} seeds: {escaped:?}");
    let by_chance = |mutant: &&Mutant| matches!(mutant.shown, Shown::Chance);
    let shaped = MUTANTS.len() - MUTANTS.iter().filter(by_chance).count();
    assert!(
        shaped * 3 <= MUTANTS.len(),
        "{shaped} of {} mutants are shown by a plan or a story",
        MUTANTS.len()
    );
}
