"""What the six models say: fixed words for a fixed question, so that tests can tell answers apart."""

import hashlib
import random
from dataclasses import dataclass, field
from typing import Any, Final

SENTENCE: Final = (
    *(" The", " quick", " brown", " fox", " jumps", " over", " the", " lazy", " dog"),
    *(" and", " then", " it", " goes", " back", " to", " sleep", " until", " morning"),
)
UNICODE: Final = ("Grüße", " aus", " 東京", " <b>&", " 🦙", " end")
THOUGHT: Final = ("Let me", " think", " about it.\n")
CONCLUSION: Final = ("The answer", " is", " 42.")
NOISE: Final = (
    "h",
    "he",
    " mor",
    "bro",
    " fox",
    " ov",
    "q",
    " back",
    " it",
    "goes",
    " la",
    "7",
    " un",
    "\n",
    "<u",
)

MAX_TOKENS: Final = 10_240
"""Ollama lets nothing run on for longer than ten contexts; the six models were made with one of 1024."""


@dataclass(frozen=True)
class Speech:
    """One answer of a model, token by token."""

    content: tuple[str, ...] = ()
    thinking: tuple[str, ...] = ()
    tool_call: dict[str, Any] | None = None
    done_reason: str = "stop"
    prompt_tokens: int = 0
    output_tokens: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return "".join(self.content)


def speak(
    origin: str,
    prompt: str,
    *,
    options: dict[str, Any],
    continues: str = "",
    tools: list[Any] | None = None,
    thinks: bool = False,
) -> Speech:
    """What the model says to ``prompt``; ``continues`` is the end of an answer it is to go on with."""
    limit = options.get("num_predict")
    bound = limit if isinstance(limit, int) and limit > 0 else MAX_TOKENS
    words = _words(origin, prompt, continues, bound)
    prompt_tokens = 2 + len(prompt.split()) + 2 if prompt else 2
    if origin == "tiny-tools" and tools:
        name = tools[0].get("function", tools[0]).get("name", "get_weather")
        call = {"name": name, "arguments": {"city": "Paris"}}
        return Speech(tool_call=call, prompt_tokens=prompt_tokens, output_tokens=5)
    thinking = THOUGHT if origin == "tiny-think" and thinks else ()
    if origin == "tiny-think" and not thinks:
        words = ("\n\n" + words[0], *words[1:])
    said, reason = _bounded(words, bound, options.get("stop"))
    ran_out = said == words  # and said the token that ends a text
    output_tokens = len(said) + len(thinking) + (2 if thinking else 0) + ran_out
    return Speech(said, thinking, None, reason, prompt_tokens, output_tokens)


def embed(text: str, known: dict[str, list[float]], dimensions: int = 0) -> list[float]:
    """A unit vector for ``text``: the recorded one where there is one, else one drawn from its hash."""
    vector = known.get(text)
    if vector is None:
        rng = random.Random(hashlib.sha256(text.encode()).digest())
        vector = _unit([rng.gauss(0, 1) for _ in range(128)])
    return _unit(vector[:dimensions]) if dimensions else vector


def _words(origin: str, prompt: str, continues: str, bound: int) -> tuple[str, ...]:
    if origin == "tiny-random":
        rng = random.Random(prompt)
        return tuple(rng.choice(NOISE) for _ in range(bound + 1))
    if origin == "tiny-uni":
        return UNICODE
    if origin == "tiny-think":
        return CONCLUSION
    last = f" {continues.split()[-1]}" if continues.split() else ""
    return SENTENCE[SENTENCE.index(last) + 1 :] if last in SENTENCE else SENTENCE


def _bounded(words: tuple[str, ...], bound: int, stop: Any) -> tuple[tuple[str, ...], str]:
    for stop_word in [stop] if isinstance(stop, str) else stop or []:
        for place, word in enumerate(words[:bound]):
            if stop_word in word:
                return (*words[:place], word[: word.index(stop_word)]), "stop"
    return (words[:bound], "length") if len(words) >= bound else (words, "stop")


def _unit(vector: list[float]) -> list[float]:
    length = sum(part * part for part in vector) ** 0.5 or 1.0
    return [round(part / length, 8) for part in vector]
