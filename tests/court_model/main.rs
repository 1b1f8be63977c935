//! The court against a small world: random files, processes and signals, and what must hold whatever happens.
//!
//! The world is what the hands and the machine are in life: a set of files, a set of living processes, and the
//! court's actions carried out on them. It checks every action, and after each event what holds at all times.
//! At the end it lets everything settle, and compares what runs with the files that are there.

mod settle;
mod steps;
mod world;

use proptest::prelude::*;

use steps::{policy, step};
use world::World;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_running_vassals_become_those_that_the_files_ask_for(
        policy in policy(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new(policy);
        for step in steps {
            world.take(step);
        }
        if !world.shut {
            world.settle();
            world.compare();
            world.shut();
        }
        world.settle();
        prop_assert_eq!(world.burials, 1);
        prop_assert!(world.court.is_empty());
        prop_assert_eq!(world.court.next_timeout(), None);
    }
}
