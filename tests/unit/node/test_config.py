import re

import pytest

from ollama_dist.node.config import all_settings
from ollama_dist.node.setting import ENV_PREFIX, Setting, Source
from ollama_dist.node.setting_values import Secret

EVERY = pytest.mark.parametrize("setting", all_settings(), ids=lambda setting: setting.key)

WELL_KNOWN = {
    "OLLAMA_DISTRIBUTED",
    "OLLAMA_STANDALONE",
    "OLLAMA_LOCAL_ADDR",
    "OLLAMA_FALLBACK",
    "OLLAMA_ADMIN_TOKEN",
    "OLLAMA_MAX_QUEUE",
}


@EVERY
def test_every_setting_says_what_it_means_and_what_it_is_by_default(setting: Setting) -> None:
    assert setting.meaning.endswith(".")
    assert setting.meaning[0].isupper()
    assert setting.default_text or setting.default not in (None, (), "")


@EVERY
def test_every_number_has_a_unit(setting: Setting) -> None:
    is_number = isinstance(setting.default, int) and not isinstance(setting.default, bool)
    assert bool(setting.unit) == is_number


@EVERY
def test_flag_variable_and_key_go_by_one_name(setting: Setting) -> None:
    assert setting.env == ENV_PREFIX + setting.key.upper() or setting.env in WELL_KNOWN
    assert setting.flag is None or setting.flag.removeprefix("--no-").removeprefix("--") == setting.dashed
    assert re.fullmatch(r"[a-z_]+", setting.key)


def test_no_name_is_used_twice() -> None:
    for names in (
        [setting.key for setting in all_settings()],
        [setting.env for setting in all_settings()],
        [setting.flag for setting in all_settings() if setting.flag],
    ):
        assert len(names) == len(set(names))


def test_secrets_cannot_be_given_where_a_process_list_shows_them() -> None:
    secret = [setting for setting in all_settings() if setting.secret]
    assert {setting.key for setting in secret} == {"cluster_key", "admin_token"}
    assert all(setting.flag is None for setting in secret)


def test_a_secret_does_not_show_itself() -> None:
    secret = Secret("open sesame")
    assert "sesame" not in f"{secret} {secret!r} {[secret]}"
    assert secret.reveal() == "open sesame"
    assert secret == Secret("open sesame")
    assert secret != Secret("other")


def test_what_is_on_by_default_is_turned_off_by_its_flag() -> None:
    flags = {setting.key: setting.flag for setting in all_settings() if setting.is_switch}
    assert flags == {
        "mdns": "--no-mdns",
        "splice": "--no-splice",
        "distributed": "--no-distributed",
        "standalone": "--standalone",
        "fallback": "--no-fallback",
    }


def test_a_flag_is_stronger_than_a_variable_than_a_file() -> None:
    assert list(Source) == [Source.FLAG, Source.ENVIRONMENT, Source.FILE, Source.DEFAULT]
