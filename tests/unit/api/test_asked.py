import pytest

from ollama_dist.api.asked import FallbackChange, JoinRequest, ModeChange, Nothing, read_asked
from ollama_dist.core.errors import BadRequest
from ollama_dist.core.modes import Mode


def test_what_is_asked_properly_is_understood() -> None:
    assert read_asked(ModeChange, {"mode": "local"}).mode is Mode.LOCAL
    assert read_asked(FallbackChange, {"enabled": False}).enabled is False
    assert read_asked(JoinRequest, {"code": "odi1abc"}).replace is False
    assert read_asked(Nothing, {}) == Nothing()


@pytest.mark.parametrize(
    ("shape", "document", "sentence"),
    [
        (ModeChange, {}, '"mode" is missing'),
        (ModeChange, {"mode": "lokal"}, "\"mode\": input should be 'distributed', 'local' or 'standalone'"),
        (ModeChange, {"mode": None}, "\"mode\": input should be 'distributed', 'local' or 'standalone'"),
        (FallbackChange, {"enabled": "no"}, '"enabled": input should be a valid boolean'),
        (FallbackChange, {"enable": True}, '"enabled" is missing'),
        (JoinRequest, {"code": ""}, '"code": string should have at least 1 character'),
        (JoinRequest, {"code": "x", "replace": 1}, '"replace": input should be a valid boolean'),
        (JoinRequest, {"code": "x", "force": True}, '"force" is not known here; known: "code", "replace"'),
        (Nothing, {"x": 1}, '"x" is not known here'),
        (ModeChange, ["local"], "the body must be a JSON object"),
    ],
)
def test_what_is_not_is_named(shape: type, document: object, sentence: str) -> None:
    with pytest.raises(BadRequest) as raised:
        read_asked(shape, document)
    assert str(raised.value) == sentence
