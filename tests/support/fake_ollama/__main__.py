"""``python -m tests.support.fake_ollama --port 11434``: the fake as a program of its own."""

import argparse
import asyncio
import signal

from tests.support import recordings
from tests.support.fake_ollama import MODELS, FakeOllama


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fake_ollama", description="A scripted Ollama for tests.")
    parser.add_argument("--port", type=int, default=0, help="0: any free one, which is printed")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--age", default=recordings.VERSIONS[-1], choices=recordings.VERSIONS)
    parser.add_argument("--models", default=",".join(MODELS), help="NAME or NAME=ONE_OF_THE_SIX, by commas")
    parser.add_argument("--tokens-per-s", type=float, default=0.0, help="0: as fast as it goes")
    parser.add_argument("--slots", type=int, default=1, help="generations at once per model")
    parser.add_argument("--load-s", type=float, default=0.0, help="how long a load takes")
    return parser.parse_args()


async def _serve(arguments: argparse.Namespace) -> None:
    pairs = (entry.partition("=") for entry in arguments.models.split(",") if entry)
    fake = FakeOllama(
        arguments.age,
        models={name: origin or name for name, _, origin in pairs},
        tokens_per_s=arguments.tokens_per_s,
        slots=arguments.slots,
        load_s=arguments.load_s,
    )
    stopped = asyncio.Event()
    for wanted in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(wanted, stopped.set)
    await fake.start(arguments.port, arguments.host)
    print(fake.url, flush=True)
    await stopped.wait()
    await fake.stop()


if __name__ == "__main__":
    asyncio.run(_serve(_arguments()))
