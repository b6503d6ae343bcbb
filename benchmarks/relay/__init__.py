"""What passing a request on costs: this node, and others that do the like, before one fake engine.

The engine and its clients are small C programs, compiled when they are needed, so that what is measured
is the program between them. See ``python -m benchmarks.relay --help`` and ``docs/performance.md``.
"""
