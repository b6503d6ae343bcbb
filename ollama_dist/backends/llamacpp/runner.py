"""The runner: a process that holds one model and serves it on a port of its own, until its stdin closes.

``python -m ollama_dist.backends.llamacpp.runner`` reads one line of JSON (`Job`) from stdin: the key that
requests must bring comes that way, for arguments are seen by everybody on the machine. It prints one line, its
port, when the model is loaded; what goes wrong is told on stderr and by the exit status.
"""

import json
import os
import sys
import threading
import time
from typing import Any, Final, TypedDict

LOAD_FAILED: Final = 3
NO_LIBRARY: Final = 4


class Job(TypedDict):
    """What to load and how."""

    key: str
    path: str
    context: int
    """Tokens of context, all slots together."""
    slots: int
    threads: int
    batch: int
    gpu_layers: int
    """Negative: as many as fit."""
    main_gpu: int
    mmap: bool
    shift: bool
    keep: int
    """Tokens at the beginning that a context shift spares."""
    embedding: bool
    template: str
    """In place of the file's own chat template; empty: the file's own."""
    warmup: bool


def main() -> None:
    job: Job = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, name="stdin", daemon=True).start()
    server = _load(job)
    print(server.listening_address, flush=True)
    while True:  # `_end_with_parent` ends the process; the server must live as long
        time.sleep(3600)


def _end_with_parent() -> None:
    """End at once when the parent closes our stdin or dies: no destructor, for the library's may deadlock."""
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(0)


def _load(job: Job) -> Any:
    try:
        import xllamacpp
    except ImportError as error:
        print(f"xllamacpp cannot be loaded: {error}", file=sys.stderr, flush=True)
        os._exit(NO_LIBRARY)
    params = xllamacpp.CommonParams()
    params.model.path = job["path"]
    params.n_ctx = job["context"]
    params.n_parallel = job["slots"]
    params.cpuparams.n_threads = job["threads"]
    params.cpuparams_batch.n_threads = job["threads"]
    params.n_batch = params.n_ubatch = job["batch"]
    params.n_gpu_layers = job["gpu_layers"]
    params.main_gpu = job["main_gpu"]
    if not job["mmap"]:
        params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    params.ctx_shift = job["shift"]
    params.n_keep = job["keep"]
    params.embedding = job["embedding"]
    params.chat_template = job["template"]
    params.warmup = job["warmup"]
    params.api_keys = [job["key"]]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_threads_http = job["slots"] + _SPARE_HTTP_THREADS
    params.ui = False
    params.endpoint_slots = False
    params.cors_origins = "http://127.0.0.1"
    params.cache_ram_mib = 0
    params.verbosity = _ERRORS_ONLY
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        print(f"llama.cpp refused the model: {error}", file=sys.stderr, flush=True)
        os._exit(LOAD_FAILED)


_SPARE_HTTP_THREADS: Final = 4
"""For health checks and token counting beside the answers."""

_ERRORS_ONLY: Final = 1


if __name__ == "__main__":
    main()
