"""The libraries people use, unchanged, against a cluster whose entry node does not have what they ask for."""
