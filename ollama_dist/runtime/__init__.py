"""What every room that acts shares: tasks that have an owner, and files that have a reader."""
