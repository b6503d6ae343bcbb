"""Who is in the cluster and what they hold: membership, its keys, its transport.

`protocol` decides and is pure; the files beside it carry what it says.
"""

import os

# gRPC's core logs every failed handshake to stderr, past all our logging: anybody who can connect could
# fill a disk with it. It reads this once, when it is first imported; whoever wants the lines sets it.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
