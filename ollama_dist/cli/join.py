"""``join``: into the cluster a code is from, whether the node runs or not."""

from ollama_dist.cli.arguments import Arguments
from ollama_dist.cli.client import NodeClient, Whereabouts, locate
from ollama_dist.cli.doors import redeem_invitation
from ollama_dist.cli.failures import Exit, Failure
from ollama_dist.cli.terminal import count
from ollama_dist.node.config import Settings
from ollama_dist.node.paths import make_state_dir
from ollama_dist.node.secret_files import cluster_key_file, write_secret
from ollama_dist.node.seeds import write_seeds
from ollama_dist.node.setting_values import Secret

_PATIENCE_S = 60.0
"""For the node to reach a member, trade the code, and hear of everybody."""


def run(arguments: Arguments) -> int:
    settings = arguments.settings()
    where = locate(settings)
    if where.in_use:
        _join_now(where, arguments)
    else:
        _join_later(settings, where, arguments)
    return Exit.OK


def _join_now(where: Whereabouts, arguments: Arguments) -> None:
    replace = {"replace": True} if arguments.replace else {}
    node = NodeClient(where, _PATIENCE_S)
    joined = node.post("/api/distributed/join", {"code": arguments.code, **replace})
    nodes = count(int(joined["nodes"]), "node")
    print(f"joined cluster {joined['cluster']}, {nodes} with this one; see: ollama-dist status")


def _join_later(settings: Settings, where: Whereabouts, arguments: Arguments) -> None:
    known = where.runtime
    if known is not None and known.peers and not arguments.replace:
        raise Failure(
            f"this machine belongs to cluster {known.cluster} already",
            why=f"with {', '.join(known.peers)}",
            do="the same again with --replace, to leave that cluster",
        )
    if settings.cluster.cluster_key is not None:
        raise Failure(
            "the cluster key is set by OLLAMA_DIST_CLUSTER_KEY, which would win over the joined cluster's",
            do="unset OLLAMA_DIST_CLUSTER_KEY, then join again",
        )
    joined = redeem_invitation(arguments.code)
    paths = make_state_dir(settings.node.state_dir)
    write_secret(cluster_key_file(settings), Secret(joined.cluster_key))
    write_seeds(paths, joined.addresses)
    print("joined: the cluster's key and its members' addresses are kept here")
    print("start the node: ollama-dist serve")
