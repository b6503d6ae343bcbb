"""Who is in the cluster and what they hold: membership, its keys, its transport.

`protocol` decides and is pure; the files beside it carry what it says.
"""

import os

# gRPC's core reads these once, when it is first imported; whoever wants it otherwise sets them.
#
# It logs every failed handshake to stderr, past all our logging: anybody who can connect could fill a disk.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# It makes its threads anew in every child of a fork, also one that is about to become another program, and
# some of those die of it (grpc/grpc#43055): six of a hundred, with calls made all the time.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
