"""Where a request should run, and why: candidates, filters, estimates, the choice and its record.

Pure: time comes in as `now`, chance as `rng`. Nothing here dispatches.
"""
