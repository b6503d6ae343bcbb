from ollama_dist.gossip.addresses import announced, interface_addresses

INTERFACES = [
    "127.0.0.1",
    "192.168.1.20",
    "fd00::20",
    "10.8.0.2",
    "100.101.102.103",
    "169.254.3.4",
    "8.8.8.8",
    "::1",
    "fe80::1%eth0",
    "2001:4860::1",
]


def test_what_was_asked_for_is_announced() -> None:
    assert announced(["desk.example:7000"], "0.0.0.0", 11436, INTERFACES) == ("desk.example:7000",)


def test_who_listens_at_one_address_announces_it() -> None:
    assert announced([], "192.168.1.20", 11436, INTERFACES) == ("192.168.1.20:11436",)
    assert announced([], "127.0.0.1", 11436, INTERFACES) == ("127.0.0.1:11436",)
    assert announced([], "fd00::20", 11436, INTERFACES) == ("[fd00::20]:11436",)


def test_who_listens_everywhere_announces_its_private_addresses_in_order() -> None:
    private = ("192.168.1.20:11436", "10.8.0.2:11436", "100.101.102.103:11436")
    assert announced([], "0.0.0.0", 11436, INTERFACES) == private
    assert announced([], "::", 11436, INTERFACES) == (*private, "[fd00::20]:11436")


def test_without_a_private_address_what_there_is_is_announced() -> None:
    assert announced([], "0.0.0.0", 1, ["127.0.0.1", "8.8.8.8"]) == ("8.8.8.8:1", "127.0.0.1:1")
    assert announced([], "0.0.0.0", 1, ["127.0.0.1"]) == ("127.0.0.1:1",)


def test_no_more_than_four_are_announced() -> None:
    assert len(announced([], "0.0.0.0", 11436, [f"10.0.0.{number}" for number in range(20)])) == 4
    assert len(announced([f"host{number}:1" for number in range(20)], "0.0.0.0", 11436, [])) == 4


def test_an_address_on_two_interfaces_is_announced_once() -> None:
    assert announced([], "0.0.0.0", 1, ["10.0.0.1", "10.0.0.1"]) == ("10.0.0.1:1",)


def test_this_machine_has_a_loopback_address() -> None:
    assert "127.0.0.1" in interface_addresses()
