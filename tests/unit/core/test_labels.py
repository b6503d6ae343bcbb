import pytest

from ollama_dist.core.labels import Label, Wanted


def test_a_label_is_a_name_and_a_value() -> None:
    assert Label.parse(" gpu=yes ") == Label("gpu", "yes")
    assert str(Label("gpu", "yes")) == "gpu=yes"


@pytest.mark.parametrize("text", ["", "gpu", "=yes", "gpu=", "g pu=yes", "gpu=a=b", "label:gpu=yes"])
def test_what_is_no_label_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="NAME=VALUE"):
        Label.parse(text)


@pytest.mark.parametrize(
    ("pin", "missing"),
    [
        ("label:gpu=yes", ""),
        ("label:gpu", ""),
        ("label:gpu=yes,room", ""),
        ("label:gpu=no", "gpu=no"),
        ("label:gpu=yes,floor", "floor"),
    ],
)
def test_all_that_is_wanted_must_be_there(pin: str, missing: str) -> None:
    assert Wanted.parse(pin).missing_of({"gpu": "yes", "room": "office"}) == missing


@pytest.mark.parametrize("pin", ["label:", "label:,", "label:gpu=", "label:gpu=yes,,room"])
def test_what_names_no_label_is_refused(pin: str) -> None:
    with pytest.raises(ValueError, match="after label:"):
        Wanted.parse(pin)
