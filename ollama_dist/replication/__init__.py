"""Models that move: exact copies from node to node, every piece checked, the engine's store untouched.

What decides is pure; the rest is a thin shell around it.
"""
