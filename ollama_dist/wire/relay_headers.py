"""What two nodes say to each other in the headers of a relayed request and its answer."""

from typing import Final

REQUEST_ID: Final = "x-request-id"

PRIORITY: Final = "x-ollama-priority"

QUEUE: Final = "x-ollama-queue"
"""On a request: its caller wants to know its place. On answers, interim and last: see `wire.places`."""

REFUSAL: Final = "x-ollama-refusal"
"""On an answer of the owning node itself, not of its engine: why it did not serve the request.

The value is a `core.outcomes.Result`; the body is an error in the dialect of the route.
"""
