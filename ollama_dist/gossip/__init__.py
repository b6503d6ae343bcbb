"""Who is in the cluster and what they hold: membership, its keys, its transport.

`protocol` decides and is pure; the files beside it carry what it says.
"""
