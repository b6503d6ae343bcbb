"""One node: its settings, its parts put together, its life, and the way of a request through it."""
