import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from ollama_dist.cli.answers import Node, read_nodes, read_status
from ollama_dist.cli.checks_network import (
    check_listen,
    check_mdns,
    check_names,
    check_node,
    check_node_listen,
    check_peers,
    check_reports,
    check_versions,
    first_free,
    judge_names,
    judge_peers,
    judge_reach,
    reach,
    send_question,
)
from ollama_dist.cli.client import Whereabouts
from ollama_dist.cli.examination import Result, Situation
from ollama_dist.node.config import ClusterSettings
from ollama_dist.node.reports import reach_of
from ollama_dist.node.setting_values import Address, ClientKeys, Listen
from tests.support.fake_node import STATUS, node_row
from tests.unit.cli.test_examination import SITUATION


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def nodes_of(*rows: dict[str, object]) -> tuple[Node, ...]:
    return read_nodes({"nodes": list(rows)})


def running(*rows: dict[str, object], **changes: object) -> Situation:
    return replace(SITUATION, status=read_status(STATUS | changes), nodes=nodes_of(*rows))


def listening(listen: Listen) -> Situation:
    node = replace(SITUATION.settings.node, listen=listen)
    return replace(SITUATION, settings=replace(SITUATION.settings, node=node))


def in_cluster(settings: ClusterSettings) -> Situation:
    return replace(SITUATION, settings=replace(SITUATION.settings, cluster=settings))


def test_a_node_runs_or_is_down_or_is_stuck() -> None:
    assert check_node(running()).result is Result.PASS
    down = replace(SITUATION, node_error="no node is running at 127.0.0.1:1")
    assert (check_node(down).result, check_node(down).fix) == (Result.WARN, "ollama-dist serve")
    held = Whereabouts(Address("127.0.0.1", 1), None, in_use=True, token=None)
    assert check_node(replace(down, where=held)).result is Result.FAIL


def test_what_the_node_reports_is_passed_on() -> None:
    told = [{"severity": "warning", "code": "x", "message": f"trouble {n}", "fix": "mend it"} for n in (1, 2)]
    verdict = check_reports(running(problems=told))
    assert (verdict.evidence, verdict.fix) == ("trouble 1 (and 1 more)", "mend it")
    assert check_reports(running()).result is Result.PASS
    assert check_reports(SITUATION).result is Result.SKIP


def test_a_port_that_must_be_and_is_taken_fails(taken: int) -> None:
    verdict = check_listen(listening(Listen("127.0.0.1", taken)))
    assert verdict.result is Result.FAIL
    assert verdict.evidence == f"127.0.0.1:{taken} cannot be listened on: it is taken"


def test_a_port_that_may_be_another_names_the_line_for_clients(taken: int) -> None:
    verdict = check_listen(listening(Listen("127.0.0.1", taken, search=True)))
    assert verdict.result is Result.PASS
    assert f"port {taken} is taken by something else" in verdict.evidence
    assert "export OLLAMA_HOST=127.0.0.1:" in verdict.evidence


def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    port, why = first_free(Listen("192.0.2.77", 0))
    assert port is None
    assert why


@pytest.mark.parametrize(
    ("host", "keys", "result"),
    [
        ("127.0.0.1", ClientKeys.NEVER, Result.PASS),
        ("::1", ClientKeys.AUTO, Result.PASS),
        ("0.0.0.0", ClientKeys.AUTO, Result.PASS),
        ("192.168.1.20", ClientKeys.ALWAYS, Result.PASS),
        ("0.0.0.0", ClientKeys.NEVER, Result.WARN),
        ("192.168.1.20", ClientKeys.NEVER, Result.WARN),
    ],
)
def test_who_can_reach_the_node(host: str, keys: ClientKeys, result: Result) -> None:
    assert judge_reach(f"{host}:11434", reach_of(host, keys)).result is result


def test_a_node_that_does_not_say_who_can_reach_it_is_not_judged() -> None:
    assert judge_reach("0.0.0.0:11434", "").result is Result.SKIP


def test_a_node_listener_on_loopback_is_for_this_machine_only(taken: int) -> None:
    assert (
        check_node_listen(in_cluster(ClusterSettings(node_listen=Listen("127.0.0.1", 0)))).result
        is Result.WARN
    )
    assert (
        check_node_listen(in_cluster(ClusterSettings(node_listen=Listen("0.0.0.0", 0)))).result is Result.PASS
    )
    assert (
        check_node_listen(in_cluster(ClusterSettings(node_listen=Listen("127.0.0.1", taken)))).result
        is Result.FAIL
    )
    assert check_node_listen(running()).result is Result.PASS


def test_discovery_is_looked_at_only_when_it_is_on() -> None:
    assert check_mdns(in_cluster(ClusterSettings(mdns=False))).result is Result.SKIP


def test_discovery_needs_an_interface_that_can_send(monkeypatch: pytest.MonkeyPatch) -> None:
    interfaces = {"192.168.1.20": "eth0", "10.0.0.1": "wg0"}
    blocked = {"10.0.0.1"}
    monkeypatch.setattr("ollama_dist.cli.checks_network.multicast_addresses", lambda: interfaces)
    monkeypatch.setattr(
        "ollama_dist.cli.checks_network.send_question",
        lambda address: "Operation not permitted" if address in blocked else "",
    )
    assert check_mdns(SITUATION).evidence == "multicast can be sent from 192.168.1.20 (eth0)"
    blocked.add("192.168.1.20")
    assert check_mdns(SITUATION).result is Result.WARN
    assert check_mdns(in_cluster(ClusterSettings(mdns_interfaces=("10.9.9.9",)))).result is Result.FAIL
    interfaces.clear()
    assert check_mdns(SITUATION).evidence == "there is no network interface but loopback"


def test_a_question_is_really_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    group = socket.inet_aton("224.0.0.251") + socket.inet_aton("127.0.0.1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(5)
        receiver.bind(("", 0))
        receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        monkeypatch.setattr(
            "ollama_dist.cli.checks_network._MDNS", ("224.0.0.251", receiver.getsockname()[1])
        )
        assert send_question("127.0.0.1") == ""
        question = receiver.recv(512)
    assert question.endswith(b"\x09_services\x07_dns-sd\x04_udp\x05local\x00\x00\x0c\x00\x01")
    assert question[:12] == bytes([0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]), "one question, nothing else"
    assert send_question("192.0.2.77"), "no interface has this address"


def test_peers_are_reached_one_by_one(taken: int) -> None:
    me, near = node_row("desk"), node_row("laptop", address=f"127.0.0.1:{taken}")
    assert check_peers(running(me, near)).evidence.startswith("1 peer reached, the slowest in")
    assert check_peers(running(me)).result is Result.PASS
    assert check_peers(SITUATION).result is Result.SKIP
    closed = node_row("attic", address="127.0.0.1:1")
    verdict = check_peers(running(me, near, closed))
    assert verdict.result is Result.FAIL
    assert verdict.evidence == "attic at 127.0.0.1:1: Connection refused"


def test_a_member_that_is_down_is_named_with_its_reason() -> None:
    verdict = check_peers(running(node_row("desk"), node_row("attic", state="dead", reason="no answer")))
    assert (verdict.result, verdict.evidence) == (Result.WARN, "attic is dead: no answer")
    assert check_peers(running(node_row("desk"), node_row("attic", state="left"))).result is Result.PASS


def test_the_slowest_peer_is_told() -> None:
    peers = nodes_of(node_row("a"), node_row("b"))
    assert judge_peers(peers, [0.001, 0.02]).evidence == "2 peers reached, the slowest in 20 ms"
    (nowhere,) = nodes_of(node_row("a", address=""))
    assert reach(nowhere) == "it says no address"


@pytest.mark.parametrize(
    ("names", "result"),
    [
        (["desk", "laptop"], Result.PASS),
        (["desk", "desk"], Result.WARN),
        (["desk", "desk-09af"], Result.WARN),
        (["node-1234", "node-5678"], Result.PASS),
    ],
)
def test_two_nodes_of_one_name(names: list[str], result: Result) -> None:
    assert judge_names(names).result is result


def test_names_of_those_who_left_are_free_again() -> None:
    assert check_names(running(node_row("desk"), node_row("desk", state="left"))).result is Result.PASS
    assert check_names(SITUATION).result is Result.SKIP


def test_versions_should_be_one() -> None:
    assert check_versions(running(node_row("a"), node_row("b"))).evidence == "all nodes run 0.1.0"
    assert (
        check_versions(running(node_row("a"), node_row("b", version="0.2.0"))).evidence
        == "nodes run 0.1.0 and 0.2.0"
    )
    assert (
        check_versions(running(node_row("a"), node_row("b", version="0.2.0", state="dead"))).result
        is Result.PASS
    )
    assert check_versions(SITUATION).result is Result.SKIP
