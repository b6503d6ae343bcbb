"""A scripted Ollama: a small real HTTP server that behaves as one of a chosen age, with faults on a switch.

    async with FakeOllama("0.33.0-rc2", tokens_per_s=50) as fake:
        fake.faults.add(Fault(route="/api/chat", die_at_token=3))
        ... fake.url ... fake.journal.requests ...

or as a program of its own, ``python -m tests.support.fake_ollama --port 11434 --age 0.11.11``, told what to
do over ``/fake/faults`` and asked what it saw over ``/fake/journal``. A request on record for that age is
answered as recorded; any other by simple rules, in the shapes of the recorded answers.
"""

from tests.support.fake_ollama.faults import Fault, Faults
from tests.support.fake_ollama.journal import Journal, Seen
from tests.support.fake_ollama.server import MODELS, FakeOllama

__all__ = ["MODELS", "FakeOllama", "Fault", "Faults", "Journal", "Seen"]
