//! The cloud process: takes batches from the broker, commits them, and only then acknowledges.
