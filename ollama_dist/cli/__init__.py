"""The command line: a thin client of a running node, and the way to start one."""
