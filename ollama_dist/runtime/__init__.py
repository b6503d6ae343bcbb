"""What every room that acts shares: tasks that have an owner, files that have a reader, TLS."""
