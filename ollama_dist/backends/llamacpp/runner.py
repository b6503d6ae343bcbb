"""The runner: a process that holds one model and serves it on a port of its own, until its stdin closes.

``python -m ollama_dist.backends.llamacpp.runner`` reads one line of JSON (`Job`) from stdin: the key that
requests must bring comes that way, for arguments are seen by everybody on the machine. It prints one line
(`Up`) when the model is loaded; what goes wrong is told on stderr and by the exit status.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
import time
from typing import Any, Final, TypedDict
from urllib.parse import urlsplit

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
    embedding: bool
    template: str
    """In place of the file's own chat template; empty: the file's own."""
    warmup: bool


class Up(TypedDict):
    """Where it listens, and whether a GPU does the work."""

    port: int
    gpu: bool


def main() -> None:
    _die_with_parent()
    line = sys.stdin.buffer.readline()
    if not line:
        return
    job: Job = json.loads(line)
    threading.Thread(target=_end_with_stdin, name="stdin", daemon=True).start()
    server, gpu = _load(job)
    up: Up = {"port": urlsplit(server.listening_address).port or 0, "gpu": gpu}
    print(json.dumps(up), flush=True)
    while True:  # `_end_with_stdin` ends the process; the server must live as long
        time.sleep(3600)


def _die_with_parent() -> None:
    """Linux ends us when the parent dies: while it loads, the library lets no other thread look at stdin."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


_PR_SET_PDEATHSIG: Final = 1


def _end_with_stdin() -> None:
    """End at once when the parent closes our stdin: without destructors, for the library's may deadlock."""
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(0)


def _load(job: Job) -> tuple[Any, bool]:
    """The server, with the model in memory, and whether a GPU does the work."""
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
    gpu = job["gpu_layers"] != 0 and _has_gpu(xllamacpp)
    params.fit_params = gpu  # without one there is nothing to fit, and trying reads the file twice
    params.n_gpu_layers = job["gpu_layers"]
    params.main_gpu = job["main_gpu"]
    if not job["mmap"]:
        params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    params.ctx_shift = job["shift"]
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
        return xllamacpp.Server(params), gpu
    except RuntimeError as error:
        print(f"llama.cpp refused the model: {error}", file=sys.stderr, flush=True)
        os._exit(LOAD_FAILED)


def _has_gpu(xllamacpp: Any) -> bool:
    kinds = xllamacpp.ggml_backend_dev_type
    gpus = (kinds.GGML_BACKEND_DEVICE_TYPE_GPU, kinds.GGML_BACKEND_DEVICE_TYPE_IGPU)
    return any(device["type"] in gpus for device in xllamacpp.get_device_info())


_SPARE_HTTP_THREADS: Final = 4
"""For health checks and token counting beside the answers."""

_ERRORS_ONLY: Final = 1


if __name__ == "__main__":
    main()
