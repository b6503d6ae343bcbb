from ollama_dist.cli.answers import Problem, read_nodes, read_status
from ollama_dist.cli.problems import all_problems, is_degraded
from tests.support.fake_node import NODES, STATUS, node_row

UNREACHABLE = {
    "kind": "ollama",
    "address": "127.0.0.1:1",
    "version": "",
    "state": "unreachable",
    "error": "refused",
}


def test_a_healthy_cluster_has_none() -> None:
    assert all_problems(read_status(STATUS), read_nodes(NODES)) == []


def test_an_engine_that_is_gone_is_one() -> None:
    (problem,) = all_problems(read_status(STATUS | {"engine": UNREACHABLE}), ())
    assert (problem.code, problem.severity) == ("engine_unreachable", "error")
    assert problem.message.startswith("refused -> ")
    (unexplained,) = all_problems(read_status(STATUS | {"engine": UNREACHABLE | {"error": None}}), ())
    assert unexplained.message.startswith("Ollama at 127.0.0.1:1 does not answer -> ")


def test_a_node_that_passes_requests_on_is_none() -> None:
    assert all_problems(read_status(STATUS | {"engine": UNREACHABLE | {"kind": "none"}}), ()) == []


def test_what_the_node_reports_itself_is_not_said_twice() -> None:
    told = {"severity": "warning", "code": "member_dead", "message": "attic died", "fix": "start it"}
    status = read_status(STATUS | {"problems": [told]})
    nodes = read_nodes({"nodes": [node_row("attic", state="dead"), node_row("laptop", state="suspect")]})
    assert [problem.code for problem in all_problems(status, nodes)] == ["member_dead", "member_suspect"]


def test_a_notice_is_no_degradation() -> None:
    assert not is_degraded([])
    assert not is_degraded([Problem("info", "x", "", "")])
    assert is_degraded([Problem("info", "x", "", ""), Problem("warning", "y", "", "")])
