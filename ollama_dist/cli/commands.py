"""The commands as data: what each is called, does and takes, and where it is found when it is run."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from ollama_dist.cli.arguments import Arguments, Parser

FIND_NODE: Final = ("listen", "state_dir", "config")
"""The settings by which a command finds the running node."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command. Its module is imported when it is run, not before."""

    name: str
    summary: str
    module: str
    examples: tuple[tuple[str, str], ...]
    """What to type, and what for."""
    settings: tuple[str, ...] | None = FIND_NODE
    """Keys of the settings it has flags for; None: every setting."""
    add_arguments: "Callable[[ArgumentParser], object]" = lambda _: None
    reads: bool = False
    """It has ``--json``."""

    def parser(self) -> "Parser":
        """The flags and arguments of this command."""
        from ollama_dist.cli.arguments import Parser  # with all settings; the overview needs none

        parser = Parser(f"ollama-dist {self.name}", self.summary, self.examples)
        self.add_arguments(parser)
        if self.reads:
            parser.add_argument("--json", action="store_true", help="answer in JSON, for programs")
        parser.add_settings(self.settings)
        return parser

    def run(self, arguments: "Arguments") -> int:
        """Do it; the exit code. Raises `Failure` and errors of the `DistError` tree."""
        arguments.command = self.name
        run = cast("Callable[[Arguments], int]", import_module(f"ollama_dist.cli.{self.module}").run)
        return run(arguments)


def _code(parser: "ArgumentParser") -> None:
    parser.add_argument("code", metavar="CODE", help="what `ollama-dist invite` printed on a member")
    parser.add_argument("--replace", action="store_true", help="leave the cluster this machine belongs to")


def _yes(parser: "ArgumentParser") -> None:
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _new_rotate(parser: "ArgumentParser") -> None:
    parser.add_argument("action", choices=("new", "rotate"), metavar="new|rotate")
    parser.add_argument(
        "--overlap",
        metavar="SECONDS",
        help="with rotate: how long the old key is accepted once all have the new one, at most 3600 (600)",
    )


def _node(parser: "ArgumentParser") -> None:
    parser.add_argument("node", metavar="NODE", help="its name or id, as `ollama-dist nodes` shows it")


def _node_yes(parser: "ArgumentParser") -> None:
    _node(parser)
    _yes(parser)


def _this_or_node(parser: "ArgumentParser") -> None:
    parser.add_argument("node", metavar="[NODE]", nargs="?", help="its name or id; by default this one")
    _detach(parser)


def _scrubbed(parser: "ArgumentParser") -> None:
    _this_or_node(parser)
    parser.add_argument("--look", action="store_true", help="only how far it is")


def _detach(parser: "ArgumentParser") -> None:
    parser.add_argument("--detach", action="store_true", help="do not wait; print the operation's id")


def _model_to(parser: "ArgumentParser") -> None:
    parser.add_argument("model", metavar="MODEL", help="its name")
    parser.add_argument("destinations", metavar="NODE", nargs="+", help="where it is to be, by name or id")
    parser.add_argument("--from", dest="source", metavar="NODE", help="which copy, where several have it")
    parser.add_argument("--no-load", action="store_true", help="with move: not into memory where it goes")
    _yes(parser)
    _detach(parser)


def _models_on(parser: "ArgumentParser") -> None:
    parser.add_argument("models", metavar="MODEL", nargs="+", help="its name")
    parser.add_argument("--node", metavar="NODE", help="only there, by name or id; another has to keep it")
    parser.add_argument("--force", action="store_true", help="with --node: also the last copy")
    _yes(parser)
    _detach(parser)


def _model_on(parser: "ArgumentParser") -> None:
    parser.add_argument("model", metavar="MODEL", help="its name")
    parser.add_argument("--on", metavar="NODE", action="append", help="where; may be given several times")


def _some_models(parser: "ArgumentParser") -> None:
    parser.add_argument("models", metavar="[MODEL]", nargs="*", help="only these")
    parser.add_argument("--dry-run", action="store_true", help="only show what would be done")
    _yes(parser)
    _detach(parser)


def _list_set_remove(parser: "ArgumentParser") -> None:
    parser.add_argument("action", choices=("list", "set", "remove"), metavar="list|set|remove")
    parser.add_argument("pattern", metavar="MODEL", nargs="?", help="a name; * and ? stand for anything")
    parser.add_argument("--min", metavar="N", help="with set: copies there are to be at least (1)")
    parser.add_argument("--max", metavar="N", help="with set: at most (as many as there are)")
    parser.add_argument("--pin", metavar="NODE", action="append", help="with set: gets a copy and keeps it")


def _operation(parser: "ArgumentParser") -> None:
    parser.add_argument("operation", metavar="[ID]", nargs="?", help="one of them, with all its steps")
    parser.add_argument("--watch", action="store_true", help="show how it goes on until it is over")
    parser.add_argument("--cancel", action="store_true", help="end it where it is")


def _show_check_init(parser: "ArgumentParser") -> None:
    parser.add_argument("action", choices=("show", "check", "init"), metavar="show|check|init")
    parser.add_argument("--origin", action="store_true", help="with show: where each value comes from")


def _add_list_revoke(parser: "ArgumentParser") -> None:
    parser.add_argument("action", choices=("add", "list", "revoke"), metavar="add|list|revoke")
    parser.add_argument("key_name", metavar="NAME", nargs="?", help="with add and revoke: what it is called")
    parser.add_argument(
        "--scope",
        metavar="SCOPES",
        help="with add: chat, models-read, models-write, metrics; by default the first two",
    )
    parser.add_argument("--per-minute", metavar="N", help="with add: requests it may begin in a minute")
    parser.add_argument("--at-once", metavar="N", help="with add: requests it may have under way")


def _simulation(parser: "ArgumentParser") -> None:
    parser.add_argument("action", choices=("gossip", "placement"), metavar="gossip|placement")
    parser.add_argument("--nodes", metavar="N", type=int, help="up to 1000 (9; of placement 50, 6)")
    parser.add_argument("--seed", metavar="S", type=int, default=1, help="what chance does. Default: 1.")
    placement = parser.add_argument_group("placement")
    placement.add_argument("--models", metavar="N", type=int, default=10, help="up to 200. Default: 10.")
    placement.add_argument("--hours", metavar="H", type=float, default=4.0, help="of trouble. Default: 4.")
    placement.add_argument(
        "--trouble", metavar="P", type=float, default=0.02, help="its chance in any 5 s. Default: 0.02."
    )
    placement.add_argument("--disk", metavar="GB", type=int, default=100, help="of each node. Default: 100.")
    parser = cast("ArgumentParser", parser.add_argument_group("gossip"))
    parser.add_argument("--minutes", metavar="M", type=float, default=2.0, help="virtual ones. Default: 2.")
    parser.add_argument("--loss", metavar="P", type=float, default=0.0, help="part of messages lost, 0 to 1")
    parser.add_argument(
        "--latency", metavar="LIKE", default="lan", help="lan, wifi, wan or far. Default: lan."
    )
    parser.add_argument("--wan", action="store_true", help="with the times for slow links")
    parser.add_argument(
        "--fault", metavar="F", action="append", default=[], help="NAME[:PARAMETER=VALUE,...]; repeat it"
    )
    parser.add_argument(
        "--without", metavar="RULE", action="append", default=[], help="switch a rule of safety off"
    )
    parser.add_argument("--list", action="store_true", help="which faults and rules there are")
    parser.add_argument("--campaign", action="store_true", help="every fault alone, and all together")
    parser.add_argument("--seeds", metavar="N", type=int, default=3, help="of the campaign. Default: 3.")
    parser.add_argument(
        "--only", metavar="WORDS", default="", help="of the campaign, what has these words in its title"
    )


COMMANDS: Final = (
    Command(
        "serve",
        "start a node in the foreground",
        "serve",
        (
            ("ollama-dist serve", "find Ollama, find the other nodes, serve clients on this machine"),
            ("ollama-dist serve --listen 0.0.0.0", "serve clients on the network as well"),
            (
                "ollama-dist serve --join desk:11436",
                "find the cluster by a member where multicast does not reach",
            ),
        ),
        settings=None,
    ),
    Command(
        "status",
        "how the cluster is, and what is wrong with it",
        "status",
        (("ollama-dist status", ""), ("ollama-dist status --json | jq .problems", "for programs")),
        reads=True,
    ),
    Command(
        "nodes",
        "the members: state, load, memory, round trip",
        "nodes",
        (("ollama-dist nodes", ""), ("ollama-dist nodes --json | jq '.nodes[].name'", "names only")),
        reads=True,
    ),
    Command(
        "models",
        "which node has which model, and where it is loaded",
        "models",
        (("ollama-dist models", ""), ("ollama-dist models --json", "with digests, for programs")),
        reads=True,
    ),
    Command(
        "pull",
        "get a model from a registry, or from nodes that have it",
        "pull",
        (
            ("ollama-dist pull llama3.2", "onto this node"),
            (
                "ollama-dist pull llama3.2 --on laptop --on attic",
                "from the registry only once",
            ),
        ),
        add_arguments=_model_on,
    ),
    Command(
        "copy",
        "copy a model to other nodes",
        "move",
        (
            ("ollama-dist copy llama3.2 laptop", "it stays where it is as well"),
            ("ollama-dist copy llama3.2 laptop attic --yes", "to both, without being asked"),
        ),
        add_arguments=_model_to,
        reads=True,
    ),
    Command(
        "move",
        "move a model to another node",
        "move",
        (
            ("ollama-dist move llama3.2 laptop", "deleted where it was once it is whole there"),
            ("ollama-dist move llama3.2 laptop --from desk", "where several have it"),
        ),
        add_arguments=_model_to,
        reads=True,
    ),
    Command(
        "rm",
        "delete models on every node, or on one",
        "rm",
        (
            ("ollama-dist rm llama3.2", "shows where it is, and asks"),
            ("ollama-dist rm llama3.2 --node laptop", "only there; another node keeps it"),
        ),
        add_arguments=_models_on,
        reads=True,
    ),
    Command(
        "scrub",
        "read a node's models again, to find what its disk has lost",
        "scrub",
        (
            ("ollama-dist scrub", "all files of this node, now"),
            ("ollama-dist scrub laptop --detach", "it goes on by itself"),
            ("ollama-dist scrub --look", "how far it is; nothing is begun"),
        ),
        add_arguments=_scrubbed,
        reads=True,
    ),
    Command(
        "operations",
        "what is being moved, and what was of late",
        "operations",
        (
            ("ollama-dist operations", "all of them"),
            ("ollama-dist operations ID --watch", "how one goes on"),
            ("ollama-dist operations ID --cancel", "end one; what was copied is used next time"),
        ),
        add_arguments=_operation,
        reads=True,
    ),
    Command(
        "policy",
        "how many copies of which models there are to be",
        "policy",
        (
            ("ollama-dist policy set 'llama3*' --min 2 --max 3", "every node keeps to it"),
            ("ollama-dist policy set llama3.2 --pin desk", "desk gets a copy and keeps it"),
            ("ollama-dist policy list", ""),
        ),
        add_arguments=_list_set_remove,
        reads=True,
    ),
    Command(
        "rebalance",
        "bring copies to where policies and demand want them, now",
        "rebalance",
        (("ollama-dist rebalance --dry-run", "what would be done"), ("ollama-dist rebalance --yes", "")),
        add_arguments=_some_models,
        reads=True,
    ),
    Command(
        "drain",
        "empty a node so that it can be switched off",
        "drain",
        (
            ("ollama-dist drain laptop", "no new requests, and its only copies go elsewhere"),
            ("ollama-dist undrain laptop", "take it back into use"),
        ),
        add_arguments=_this_or_node,
        reads=True,
    ),
    Command(
        "undrain",
        "take a drained node back into use",
        "drain",
        (("ollama-dist undrain laptop", ""),),
        add_arguments=_this_or_node,
        reads=True,
    ),
    Command(
        "invite",
        "make a code with which one machine can join",
        "invite",
        (("ollama-dist invite", "prints the command for the other machine"),),
        reads=True,
    ),
    Command(
        "join",
        "join the cluster a code is from, whether the node runs or not",
        "join",
        (("ollama-dist join CODE", "CODE is what `ollama-dist invite` printed"),),
        settings=(*FIND_NODE, "cluster_key_file"),
        add_arguments=_code,
    ),
    Command(
        "leave",
        "leave the cluster; running requests end first",
        "leave",
        (("ollama-dist leave", ""), ("ollama-dist leave --yes", "without being asked")),
        add_arguments=_yes,
    ),
    Command(
        "doctor",
        "look for what could keep this node from working",
        "doctor",
        (("ollama-dist doctor", "works whether the node runs or not"), ("ollama-dist doctor --json", "")),
        settings=None,
        reads=True,
    ),
    Command(
        "config",
        "show, check or write the settings",
        "config",
        (
            ("ollama-dist config show --origin", "each setting, and where its value comes from"),
            ("ollama-dist config check", "is there a mistake in flags, environment or file?"),
            ("ollama-dist config init", "write a file with every setting, explained and commented out"),
        ),
        settings=None,
        add_arguments=_show_check_init,
        reads=True,
    ),
    Command(
        "cluster-key",
        "make a cluster key, or replace the running cluster's",
        "cluster_key",
        (
            (
                "ollama-dist cluster-key new > cluster.key",
                "give it to every node by OLLAMA_DIST_CLUSTER_KEY_FILE",
            ),
            ("ollama-dist cluster-key rotate", "every node gets a new key; no request fails"),
        ),
        add_arguments=_new_rotate,
        reads=True,
    ),
    Command(
        "revoke",
        "take a node out of the cluster, whether it likes it or not",
        "revoke",
        (("ollama-dist revoke laptop", "all others get a new key, and the old one is void at once"),),
        add_arguments=_node_yes,
        reads=True,
    ),
    Command(
        "forget",
        "list a dead node no more",
        "forget",
        (("ollama-dist forget laptop", "should it come back alive, it is listed again"),),
        add_arguments=_node,
        reads=True,
    ),
    Command(
        "key",
        "the keys of clients on other machines: add, list, revoke",
        "key",
        (
            ("ollama-dist key add phone", "prints a key that may ask models and list them"),
            ("ollama-dist key add ci --scope models-write,models-read", "one that may change models"),
            ("ollama-dist key add guest --per-minute 30 --at-once 2", "one that cannot take all there is"),
            ("ollama-dist key revoke phone", "a running node heeds it within a second"),
        ),
        settings=("state_dir", "config"),
        add_arguments=_add_list_revoke,
        reads=True,
    ),
    Command(
        "sim",
        "clusters under virtual time: faults, measurements, invariants",
        "sim",
        (
            ("ollama-dist sim gossip --fault vanish:every=20", "how soon deaths are known"),
            ("ollama-dist sim gossip --list", "which faults there are"),
            ("ollama-dist sim gossip --campaign --seeds 20", "everything that can happen, many times"),
            ("ollama-dist sim placement --nodes 8 --seed 3", "where copies go, and when that comes to rest"),
        ),
        settings=(),
        add_arguments=_simulation,
        reads=True,
    ),
    Command(
        "version",
        "which version this is",
        "version",
        (("ollama-dist version", ""),),
        settings=(),
        reads=True,
    ),
)

BY_NAME: Final = {command.name: command for command in COMMANDS}
