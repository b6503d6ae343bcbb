"""What the embedded engine has to be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

GIB: Final = 2**30


@dataclass(frozen=True, slots=True)
class LlamaCppSettings:
    """Where the models are and how much of the machine they may have."""

    models_dir: Path
    """Folder of GGUF files: ``name.gguf``, ``name@tag.gguf``, ``namespace/name.gguf``, each perhaps with a
    ``.json`` of the same name beside it (`ollama_dist.wire.llamacpp.card.Notes`). Made if it is not there."""
    state_dir: Path
    """Where digests are remembered (``engine-digests.json``)."""
    slots: int = 1
    """Requests one loaded model answers at once. More: each slower, and memory for more contexts."""
    threads: int = 0
    """Threads per runner; 0: as many as the machine has cores."""
    context_length: int = 4096
    """Tokens of context where neither the request nor the model's notes say. More costs memory."""
    max_loaded: int = 3
    """Models in memory at once; the idle one with the shortest keep-alive makes room for the next."""
    max_waiting: int = 512
    """Requests that may wait for a model to be loaded; more are refused as busy."""
    keep_alive_s: float = 300.0
    """How long an idle model stays in memory where nobody says; infinite: for ever."""
    memory_bytes: int = 0
    """What all loaded models together may take, weights and contexts; 0: nine tenths of what there is."""
    load_timeout_s: float = 600.0
    """A model not loaded by then is given up. Forty gigabytes from a slow disk take five minutes."""
    first_token_timeout_s: float = 1800.0
    """A runner that has not begun to answer by then is stuck. Without a GPU a long prompt takes minutes."""
    stall_timeout_s: float = 120.0
    """A runner silent for so long within an answer is stuck."""
    warmup: bool = True
    """Run the model once, empty, when it is loaded, so that the first request does not pay for it."""
