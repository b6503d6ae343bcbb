"""The recorded models as a folder for the embedded engine.

Notes beside them say in Jinja what the recorded servers were told in Go's templates.
"""

import json
import shutil
from pathlib import Path
from typing import Any, Final

from tests.support.recordings import FOLDER

_PARAMETERS: Final = {"temperature": 0, "num_ctx": 1024}

_PLAIN: Final = (
    "{%- for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_TOOLS: Final = (
    "{%- if tools %}<|system|>Tools:"
    "{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}<|end|>{% endif %}"
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}"
    "{% if message.tool_calls %}<tool_call>{% for call in message.tool_calls %}\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
    "{% endfor %}\n</tool_call>{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_THINKING: Final = (
    "{%- for message in messages %}<|{{ message.role }}|>"
    "{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}"
    "{{ message.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"
)

_MINE: Final = {
    "parameters": {"num_ctx": 1024, "stop": ["lazy"], "temperature": 0.5},
    "system": "hello world",
    "license": ["Licence one", "Licence two"],
    "messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello you"}],
}

_MODELS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "tiny": ("markov", {"parameters": _PARAMETERS}),
    "tiny-random": ("random", {"parameters": {**_PARAMETERS, "seed": 7}}),
    "tiny-tools": ("tools", {"parameters": _PARAMETERS, "template": _TOOLS}),
    "tiny-think": ("think", {"parameters": _PARAMETERS, "template": _THINKING}),
    "tiny-uni": ("uni", {"parameters": _PARAMETERS, "template": _PLAIN}),
    "tiny-embed": ("embed", {}),
    "mine@v2": ("markov", _MINE),
    "ns/named": ("markov", {"parameters": _PARAMETERS}),
}


def lay_out_models(folder: Path, *names: str) -> None:
    """Put the models called ``names`` into ``folder``; all of them when none is named."""
    for name in names or _MODELS:
        source, notes = _MODELS[name]
        path = folder / f"{name}.gguf"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(FOLDER / "models" / f"{source}.gguf", path)
        if notes:
            path.with_suffix(".json").write_text(json.dumps(notes))
