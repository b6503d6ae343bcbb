"""Generated from proto/; committed, and checked for drift. Nothing here is written by hand."""
