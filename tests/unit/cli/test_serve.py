import logging
from collections.abc import Iterator

import pytest
import structlog

from ollama_dist.cli.failures import Exit
from ollama_dist.core.errors import ConfigError
from ollama_dist.node.config import Settings
from ollama_dist.node.setting_values import Listen
from tests.unit.cli.conftest import Command


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers, root.level)
    yield
    root.handlers, level = before
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def test_the_node_gets_its_settings_and_a_log_without_secrets(
    cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Settings] = []

    def run_node(settings: Settings) -> int:
        served.append(settings)
        structlog.get_logger().info("started", said="sesame opens")
        return 0

    monkeypatch.setattr("ollama_dist.cli.serve.run_node", run_node)
    monkeypatch.setenv("OLLAMA_ADMIN_TOKEN", "sesame")
    ended = cli("serve", "--listen", "127.0.0.1:0", "--no-mdns", "--standalone", "--log-format", "json")
    assert ended.code == Exit.OK
    (settings,) = served
    assert settings.node.listen == Listen("127.0.0.1", 0)
    assert (settings.cluster.mdns, settings.mode.standalone) == (False, True)
    assert '"said": "*** opens"' in ended.err
    assert ended.out == ""


def test_what_keeps_the_node_from_starting_is_one_line(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_node(settings: Settings) -> int:
        raise ConfigError("state_dir /state is in use by another node")

    monkeypatch.setattr("ollama_dist.cli.serve.run_node", run_node)
    ended = cli("serve")
    assert ended.code == Exit.USAGE
    assert ended.err.startswith("ollama-dist: state_dir /state is in use by another node\n")
