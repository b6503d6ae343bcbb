"""Whole nodes in one process, in front of scripted engines: what they do when things go well and when not."""
