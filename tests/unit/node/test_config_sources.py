from pathlib import Path

import pytest

from ollama_dist.core.errors import ConfigError
from ollama_dist.node.config import Settings, all_settings
from ollama_dist.node.config_sources import Machine, as_text, load_settings, this_machine
from ollama_dist.node.setting import Origin, Setting, Source
from ollama_dist.node.setting_values import Address, EngineChoice, Listen, LogFormat, Secret

SAMPLES = {
    "labels": "gpu=yes,room=office",
    "client_keys": "always",
    "placement": "demand",
    "advertise": "10.0.0.1:1",
    "join": "a:1,b:2",
    "mdns_interfaces": "127.0.0.1",
    "cluster_key": "odk1-x",
    "listen": "127.0.0.1:1",
    "node_listen": "0.0.0.0:1",
    "ollama": "127.0.0.1:2",
    "engine": "none",
    "gossip_profile": "wan",
    "log_level": "debug",
    "log_format": "json",
    "max_queue": "7",
    "context_lengths": "tiny=2048,qwen*=8192",
    "cached_routes": "/api/embed,/v1/embeddings",
    "cache_bytes": "1000",
    "splice": "false",
    "cache_age_s": "60",
    "client_per_minute": "30",
    "client_at_once": "2",
    "slots": "3",
    "pull_registries": "registry.example:5000",
    "disk_reserve_bytes": "1000",
    "registry_listen": "172.17.0.1:5001",
    "registry_hosts": "172.17.0.1,host.docker.internal",
    "mirror_listen": "0.0.0.0:5000",
    "mirror_models": "llama3:8b,tiny*",
    "mirror_clients": "192.168.1.0/24",
    "transfer_rate": "1000",
    "transfer_rate_serving": "500",
    "scrub_days": "30",
    "scrub_rate": "100",
    "engine_store": "/srv/ollama/models",
    "mdns": "false",
    "distributed": "false",
    "standalone": "true",
    "fallback": "false",
}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine("desk", tmp_path / "state", tmp_path / "config.yaml", tmp_path)


def test_a_machine_nobody_set_up_gets_the_defaults(machine: Machine) -> None:
    settings = load_settings({}, {}, machine)
    assert settings.node.name == "desk"
    assert settings.node.state_dir == machine.state_dir
    assert settings.node.listen == Listen("127.0.0.1", 11434, search=True)
    assert settings.cluster.node_listen == Listen("0.0.0.0", 11436, search=True)
    assert settings.config is None
    assert all(settings.origin(setting.key) == Origin(Source.DEFAULT) for setting in all_settings())


def test_flag_beats_variable_beats_file_beats_default(machine: Machine) -> None:
    machine.config_file.write_text("slots: 1\nname: from-file\nmax_queue: 3\nlog_format: json\n")
    environ = {"OLLAMA_DIST_SLOTS": "2", "OLLAMA_DIST_NAME": "from-environment"}
    settings = load_settings({"slots": "5"}, environ, machine)
    assert settings.engine.slots == 5
    assert settings.node.name == "from-environment"
    assert settings.requests.max_queue == 3
    assert settings.log.log_format is LogFormat.JSON
    assert settings.engine.engine is EngineChoice.AUTO
    assert str(settings.origin("slots")) == "flag --slots"
    assert str(settings.origin("name")) == "environment OLLAMA_DIST_NAME"
    assert str(settings.origin("max_queue")) == f"file {machine.config_file}:3"
    assert str(settings.origin("engine")) == "default"
    assert settings.config == machine.config_file


@pytest.mark.parametrize("setting", all_settings(), ids=lambda setting: setting.key)
def test_each_setting_means_the_same_from_every_source(machine: Machine, setting: Setting) -> None:
    text = SAMPLES.get(setting.key, "given")
    if setting.key == "config":
        (machine.folder / text).write_text("")
    results = [load_settings({}, {setting.env: text}, machine)]
    if setting.has_flag:
        results.append(load_settings({setting.key: text}, {}, machine))
    if setting.in_file:
        machine.config_file.write_text(f"{setting.key}: '{text}'\n")
        results.append(load_settings({}, {}, machine))
    values = [settings.value(setting) for settings in results]
    assert all(value == values[0] for value in values)
    assert values[0] != load_settings({}, {}, without_file(machine)).value(setting)


def without_file(machine: Machine) -> Machine:
    return Machine(machine.host_name, machine.state_dir, machine.folder / "absent.yaml", machine.folder)


def test_a_named_file_is_read_instead_of_the_usual_one(machine: Machine) -> None:
    machine.config_file.write_text("name: usual\n")
    (machine.folder / "other.yaml").write_text("name: other\n")
    assert load_settings({"config": "other.yaml"}, {}, machine).node.name == "other"
    assert load_settings({}, {"OLLAMA_DIST_CONFIG": "other.yaml"}, machine).node.name == "other"
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read"):
        load_settings({"config": "absent.yaml"}, {}, machine)


def test_relative_paths_start_where_they_were_written(machine: Machine, tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "node.yaml").write_text("cluster_key_file: secret.key\n")
    settings = load_settings({"config": "etc/node.yaml", "state_dir": "here"}, {}, machine)
    assert settings.cluster.cluster_key_file == folder / "secret.key"
    assert settings.node.state_dir == tmp_path / "here"


def test_an_empty_value_counts_as_not_set(machine: Machine) -> None:
    environ = {"OLLAMA_DIST_JOIN": "", "OLLAMA_ADMIN_TOKEN": "", "OLLAMA_DIST_NAME": ""}
    settings = load_settings({"listen": ""}, environ, machine)
    assert settings.admin.admin_token is None
    assert settings.cluster.join == ()
    assert settings.node.name == "desk"
    assert settings.node.listen.search


def test_values_are_read_as_what_they_are(machine: Machine) -> None:
    environ = {
        "OLLAMA_LOCAL_ADDR": "http://10.0.0.2:11434",
        "OLLAMA_DIST_JOIN": "desk, attic:7946",
        "OLLAMA_DISTRIBUTED": "0",
        "OLLAMA_ADMIN_TOKEN": "sesame",
    }
    settings = load_settings({}, environ, machine)
    assert settings.engine.ollama == Address("10.0.0.2", 11434)
    assert settings.cluster.join == (Address("desk", 11436), Address("attic", 7946))
    assert not settings.mode.distributed
    assert settings.admin.admin_token == Secret("sesame")
    assert "sesame" not in repr(settings)


@pytest.mark.parametrize(
    ("environ", "complaint"),
    [
        (
            {"OLLAMA_DIST_LISSTEN": "x"},
            r"OLLAMA_DIST_LISSTEN \(environment\) is not a setting; .*'OLLAMA_DIST_LISTEN'",
        ),
        (
            {"OLLAMA_DISTRIBUTE": "x"},
            r"OLLAMA_DISTRIBUTE \(environment\) is not a setting; .*'OLLAMA_DISTRIBUTED'",
        ),
        (
            {"OLLAMA_DIST_SLOTS": "many"},
            r"OLLAMA_DIST_SLOTS \(environment\) = 'many': must be a whole number from 0 to",
        ),
        ({"OLLAMA_DIST_ENGINE": "olama"}, r"= 'olama': must be one of .*; did you mean 'ollama'\?"),
    ],
)
def test_a_mistake_in_the_environment_is_named(
    machine: Machine, environ: dict[str, str], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        load_settings({}, environ, machine)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("slots: 1\nlissten: x\n", r":2: 'lissten' is not a setting; did you mean 'listen'\?"),
        ("node-listen: x\n", r":1: 'node-listen' is not a setting; did you mean 'node_listen'\?"),
        ("zzz: x\n", r":1: 'zzz' is not a setting$"),
        ("cluster_key: odk1-x\n", r":1: 'cluster_key' cannot be in a file; use OLLAMA_DIST_CLUSTER_KEY"),
        ("mdns: maybe\n", r":1: mdns = 'maybe': must be true or false"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_line(machine: Machine, text: str, complaint: str) -> None:
    machine.config_file.write_text(text)
    with pytest.raises(ConfigError, match=f"{machine.config_file}{complaint}"):
        load_settings({}, {}, machine)


def test_a_flag_with_a_bad_value_is_named(machine: Machine) -> None:
    with pytest.raises(ConfigError, match=r"--node-listen \(flag\) = 'x:y': must have a port"):
        load_settings({"node_listen": "x:y"}, {}, machine)


def test_two_places_for_one_secret_are_refused(machine: Machine) -> None:
    environ = {"OLLAMA_ADMIN_TOKEN": "sesame", "OLLAMA_DIST_ADMIN_TOKEN_FILE": "token"}
    with pytest.raises(ConfigError, match=r"admin_token .* and admin_token_file .* are both set") as caught:
        load_settings({}, environ, machine)
    assert "sesame" not in str(caught.value)


def test_variables_that_are_not_ours_are_let_be(machine: Machine) -> None:
    environ = {"OLLAMA_MODELS": "/m", "OLLAMA_DIST_VENV": ".venv", "PATH": "/bin"}
    assert load_settings({}, environ, machine).origins == {}


def test_values_are_written_as_they_are_read(machine: Machine) -> None:
    settings: Settings = load_settings(
        {}, {"OLLAMA_ADMIN_TOKEN": "sesame", "OLLAMA_DIST_JOIN": "a:1,b:2"}, machine
    )
    shown = {setting.key: as_text(settings.value(setting)) for setting in all_settings()}
    assert shown["join"] == "a:1,b:2"
    assert shown["mdns"] == "true"
    assert shown["cluster_key_file"] == ""
    assert shown["admin_token"] == "(set, not shown)"
    assert shown["log_format"] == "text"


@pytest.mark.parametrize(
    ("host_name", "name"),
    [("desk.lan", "desk"), ("my computer", "my-computer"), ("büro", "b-ro"), ("...", "node")],
)
def test_the_host_name_becomes_a_usable_name(
    host_name: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host_name)
    assert this_machine().host_name == name
