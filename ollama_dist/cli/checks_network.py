"""Checks of how this node is reached and reaches others: listeners, discovery, peers."""

import errno
import re
import socket
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from ollama_dist.cli.answers import Node
from ollama_dist.cli.checks_engine import ask_version
from ollama_dist.cli.examination import Check, Situation, Verdict, failed, passed, skipped, warned
from ollama_dist.cli.terminal import count, milliseconds
from ollama_dist.node.reports import REACH_WORDS, Reach, reach_of
from ollama_dist.node.setting_values import Address, Listen, address_with, is_loopback

_CONNECT_S: Final = 2.0
_MDNS: Final = ("224.0.0.251", 5353)
_MDNS_QUERY: Final = (
    bytes(5) + b"\x01" + bytes(6) + b"\x09_services\x07_dns-sd\x04_udp\x05local\x00" + b"\x00\x0c\x00\x01"
)
"""A question every responder knows: which kinds of service are there (RFC 6763, section 9)."""

_MANY: Final = 32


def check_node(situation: Situation) -> Verdict:
    status = situation.status
    if status is not None:
        return passed(f"{status.name} {status.version} answers at {situation.where.address}, {status.mode}")
    if situation.where.in_use:
        return failed(situation.node_error, "look at its log, then start it again")
    return warned(situation.node_error, "ollama-dist serve")


def check_reports(situation: Situation) -> Verdict:
    if situation.status is None:
        return skipped("the node is not running")
    told = situation.status.problems
    if not told:
        return passed("the node itself reports no problem")
    more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
    return warned(f"{told[0].message}{more}", told[0].fix or "ollama-dist status")


def check_listen(situation: Situation) -> Verdict:
    if situation.status is not None:
        return judge_reach(situation.status.listen, situation.status.reach)
    listen, keys = situation.settings.node.listen, situation.settings.node.client_keys
    port, why = first_free(listen)
    if port is None:
        return failed(f"{listen} cannot be listened on: {why}", "name another with --listen")
    if port != listen.port:
        version, _ = ask_version(Address(listen.reachable.host, listen.port))
        by = "an Ollama" if version else "something else"
        return passed(
            f"port {listen.port} is taken by {by}, {port} will be used; for clients: "
            f"export OLLAMA_HOST={Address(listen.reachable.host, port)}"
        )
    return judge_reach(str(Listen(listen.host, port)), reach_of(listen.host, keys))


def judge_reach(listen: str, reach: str) -> Verdict:
    """Who can connect to this public address."""
    match reach:
        case Reach.MACHINE | Reach.KEYED:
            return passed(f"{listen}: {REACH_WORDS[Reach(reach)]}")
        case Reach.OPEN:
            return warned(
                f"{listen}: everybody on the network can use the models", "leave out --client-keys never"
            )
    return skipped("the node does not say who can connect to it")


def check_node_listen(situation: Situation) -> Verdict:
    if situation.status is not None:
        return passed(f"{situation.status.node_listen}: other nodes connect here, with mutual TLS")
    listen = situation.settings.cluster.node_listen
    port, why = first_free(listen)
    if port is None:
        return failed(f"{listen} cannot be listened on: {why}", "name another with --node-listen")
    if is_loopback(listen.host):
        return warned(
            f"{listen.host}:{port}: only nodes on this machine can connect", "leave out --node-listen"
        )
    return passed(f"{listen.host}:{port} is free")


def first_free(listen: Listen) -> tuple[int | None, str]:
    """The port this would listen on, or None and why there is none."""
    why = ""
    for port in listen.ports():
        family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_STREAM) as candidate:
                candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                candidate.bind((listen.host, port))
                return candidate.getsockname()[1], ""
        except OSError as error:
            why = "it is taken" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
    return None, why


def check_mdns(situation: Situation) -> Verdict:
    if not situation.settings.cluster.mdns:
        return skipped("turned off; nodes are found by --join and from last time")
    interfaces = multicast_addresses()
    chosen = situation.settings.cluster.mdns_interfaces or tuple(interfaces)
    absent = [address for address in chosen if address not in interfaces and not is_loopback(address)]
    if absent:
        return failed(f"no interface of this machine has {absent[0]}", "correct --mdns-interfaces")
    if not chosen:
        return warned(
            "there is no network interface but loopback", "connect to a network, or use --join HOST:PORT"
        )
    outcomes = {address: send_question(address) for address in chosen}
    refused = [f"{address}: {why}" for address, why in outcomes.items() if why]
    if len(refused) == len(chosen):
        return warned(f"multicast cannot be sent ({refused[0]})", "use --join HOST:PORT to find other nodes")
    named = ", ".join(
        f"{address} ({interfaces.get(address, 'loopback')})" for address, why in outcomes.items() if not why
    )
    return passed(f"multicast can be sent from {named}")


def multicast_addresses() -> dict[str, str]:
    """IPv4 addresses of the interfaces that are up, but loopback, with the interface's name."""
    import psutil

    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    return {
        address.address: name
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if name in up and address.family is socket.AF_INET and not is_loopback(address.address)
    }


def send_question(address: str) -> str:
    """Send one harmless mDNS question from this address; why that failed, or nothing."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
            sender.sendto(_MDNS_QUERY, _MDNS)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def check_peers(situation: Situation) -> Verdict:
    if situation.status is None:
        return skipped("the node is not running")
    peers = [node for node in situation.nodes if not node.is_self and node.state != "left"]
    if not peers:
        return passed("no other member yet; `ollama-dist invite` makes a code for one")
    down = [node for node in peers if not node.is_alive]
    if down:
        reason = f": {down[0].reason}" if down[0].reason else ""
        return warned(
            f"{down[0].name} is {down[0].state}{reason}",
            f"see whether {down[0].name} is up and on the network",
        )
    with ThreadPoolExecutor(max_workers=_MANY) as pool:
        return judge_peers(peers[:_MANY], list(pool.map(reach, peers[:_MANY])))


def judge_peers(peers: Sequence[Node], outcomes: Sequence[float | str]) -> Verdict:
    """By what `reach` found for each."""
    for node, outcome in zip(peers, outcomes, strict=True):
        if isinstance(outcome, str):
            return failed(
                f"{node.name} at {node.address}: {outcome}", f"open that port in the firewall of {node.name}"
            )
    slowest = max(outcome for outcome in outcomes if isinstance(outcome, float))
    return passed(f"{count(len(peers), 'peer')} reached, the slowest in {milliseconds(slowest * 1000)}")


def reach(node: Node) -> float | str:
    """Seconds a connection to the node's membership listener took, or why there was none."""
    began = time.monotonic()
    try:
        address = address_with(0)(node.address)
        with socket.create_connection((address.host, address.port), timeout=_CONNECT_S):
            return time.monotonic() - began
    except ValueError:
        return "it says no address"
    except OSError as error:
        return error.strerror or str(error)


def check_names(situation: Situation) -> Verdict:
    if situation.status is None:
        return skipped("the node is not running")
    return judge_names([node.name for node in situation.nodes if node.state != "left"])


def judge_names(names: Sequence[str]) -> Verdict:
    """Whether two nodes go by one name: then the younger is shown with four digits of its id."""
    doubled = [name for name, number in Counter(names).items() if number > 1]
    doubled += [
        found[1] for name in names if (found := re.fullmatch(r"(.+)-[0-9a-f]{4}", name)) and found[1] in names
    ]
    if doubled:
        return warned(f"two nodes are called {doubled[0]}", "give one another --name")
    return passed(f"{count(len(names), 'name')}, all different")


def check_versions(situation: Situation) -> Verdict:
    if situation.status is None:
        return skipped("the node is not running")
    found = sorted({node.version for node in situation.nodes if node.is_alive and node.version})
    if len(found) > 1:
        return warned(f"nodes run {' and '.join(found)}", "bring all to the newest")
    return passed(f"all nodes run {found[0]}" if found else "only this node is known")


CHECKS: Final = (
    Check("node", "node", check_node),
    Check("reports", "its own reports", check_reports),
    Check("listen", "client address", check_listen),
    Check("node_listen", "node address", check_node_listen),
    Check("mdns", "discovery", check_mdns),
    Check("peer_unreachable", "peers", check_peers),
    Check("name_conflict", "names", check_names),
    Check("version_skew", "versions", check_versions),
)
