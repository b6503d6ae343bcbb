"""The places a request can be sent to: one file per kind, their health and the leases on them.

Siblings do not know each other; `node` introduces them.
"""
