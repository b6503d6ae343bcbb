"""How fast models travel between nodes, and at what cost, beside the limits of the same machine."""
