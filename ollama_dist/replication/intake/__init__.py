"""Bringing a model into this machine's engine by its own front door, and out where files may not be read."""
