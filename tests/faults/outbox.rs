//! What people and cards do to an outbox file: truncated, flipped, deleted, restored, copied.
