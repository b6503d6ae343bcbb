from pathlib import Path

import pytest

from ollama_dist.api.auth import ATTEMPTS_AT_ONCE, Authorizer, Caller, ClientPolicy
from ollama_dist.core.dialects import Dialect
from ollama_dist.core.errors import Forbidden, TooManyAttempts, Unauthorized
from ollama_dist.core.scopes import Scope
from ollama_dist.node.client_keys import KeyFile, new_key

HERE, ELSEWHERE = "127.0.0.1", "192.168.1.20"
ADMIN = "the operators' token"


class Door:
    """An authorizer with one key that may chat, and a clock."""

    def __init__(self, folder: Path, *, trusts_this_machine: bool = True) -> None:
        self.file = KeyFile(folder / "keys.json", clock=lambda: self.now)
        self.now = 0.0
        key, text = new_key("phone", [Scope.CHAT])
        self.file.add(key)
        self.key = text.reveal()
        policy = ClientPolicy(self.file, trusts_this_machine)
        self.authorizer = Authorizer(ADMIN, policy, clock=lambda: self.now)

    def ask(
        self, scope: Scope, shown: str, address: str = ELSEWHERE, dialect: Dialect = Dialect.OLLAMA
    ) -> None:
        self.authorizer.check(scope, dialect, Caller(shown, address))


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path)


def test_a_key_opens_what_it_allows_and_nothing_else(door: Door) -> None:
    door.ask(Scope.CHAT, door.key)
    with pytest.raises(Forbidden, match="'phone' does not allow models-write"):
        door.ask(Scope.MODELS_WRITE, door.key)
    with pytest.raises(Unauthorized, match="admin token"):
        door.ask(Scope.ADMIN, door.key)


def test_the_operators_token_opens_everything(door: Door) -> None:
    for scope in Scope:
        door.ask(scope, ADMIN)


def test_without_a_key_only_what_is_public_is_open(door: Door) -> None:
    door.ask(Scope.PUBLIC, "")
    for scope in (Scope.CHAT, Scope.MODELS_READ, Scope.MODELS_WRITE, Scope.METRICS):
        with pytest.raises(Forbidden, match="wants a key"):
            door.ask(scope, "")


@pytest.mark.parametrize("dialect", [Dialect.OPENAI, Dialect.RESPONSES, Dialect.ANTHROPIC])
def test_libraries_with_a_word_for_it_hear_401_and_ollamas_own_never(door: Door, dialect: Dialect) -> None:
    with pytest.raises(Unauthorized):
        door.ask(Scope.CHAT, "wrong", dialect=dialect)
    with pytest.raises(Forbidden, match="does not know that key"):
        door.ask(Scope.CHAT, "wrong")


def test_this_machine_needs_no_key_whatever_it_shows(door: Door) -> None:
    door.ask(Scope.MODELS_WRITE, "", HERE)
    door.ask(Scope.CHAT, "none", "::1")


def test_what_a_proxy_on_this_machine_passes_on_is_from_elsewhere(door: Door) -> None:
    with pytest.raises(Forbidden):
        door.authorizer.check(Scope.CHAT, Dialect.OLLAMA, Caller("", HERE, is_forwarded=True))


@pytest.mark.parametrize("host", ["desk.local", "192.168.1.20", None])
def test_who_means_no_loopback_address_is_not_taken_for_this_machine(door: Door, host: str | None) -> None:
    with pytest.raises(Forbidden):
        door.authorizer.check(Scope.CHAT, Dialect.OLLAMA, Caller("", HERE, host=host))


def test_where_this_machine_is_not_trusted_it_needs_a_key_too(tmp_path: Path) -> None:
    door = Door(tmp_path, trusts_this_machine=False)
    with pytest.raises(Forbidden):
        door.ask(Scope.CHAT, "", HERE)
    door.ask(Scope.CHAT, door.key, HERE)


def test_who_guesses_has_to_wait_and_who_knows_does_not(door: Door) -> None:
    for _ in range(int(ATTEMPTS_AT_ONCE)):
        with pytest.raises(Forbidden):
            door.ask(Scope.CHAT, "guess")
    with pytest.raises(TooManyAttempts):
        door.ask(Scope.CHAT, "guess")
    door.ask(Scope.CHAT, door.key)
    with pytest.raises(Forbidden):
        door.ask(Scope.CHAT, "guess", "192.168.1.21")
    door.now += 5.0
    with pytest.raises(Forbidden):
        door.ask(Scope.CHAT, "guess")


def test_a_revoked_key_is_refused_within_a_second(door: Door) -> None:
    door.ask(Scope.CHAT, door.key)
    KeyFile(door.file._path).revoke("phone")
    door.now += 1.0
    with pytest.raises(Forbidden):
        door.ask(Scope.CHAT, door.key)


def test_nobody_gets_in_by_a_damaged_file(door: Door) -> None:
    door.file._path.write_text('{"schema": 1, "keys": [{}]}')
    door.now += 1.0
    with pytest.raises(Forbidden, match="cannot read its keys"):
        door.ask(Scope.CHAT, door.key)


def test_an_empty_admin_token_opens_nothing() -> None:
    with pytest.raises(Unauthorized):
        Authorizer("").check(Scope.ADMIN, Dialect.OLLAMA, Caller("", HERE))


def test_where_no_keys_are_wanted_none_is_asked_for() -> None:
    Authorizer(ADMIN).check(Scope.MODELS_WRITE, Dialect.OLLAMA, Caller("", ELSEWHERE))
