"""What can go wrong with a runner, as the rest of the engine sees it."""

from ollama_dist.core.errors import BadRequest, Busy, DistError, UpstreamFailed


class EngineMissing(DistError):
    """The library that runs models is not installed."""

    code = "engine_missing"

    def __init__(self) -> None:
        super().__init__("the embedded engine is not installed: pip install 'ollama-dist[engine]'")


class LoadFailed(UpstreamFailed):
    """The model could not be loaded; nothing of it is left in memory."""

    status = 500
    code = "load_failed"


class TooManyWaiting(Busy):
    """The words are Ollama's, the two spaces too: clients look for them."""

    code = "too_many_waiting"

    def __init__(self) -> None:
        super().__init__("server busy, please try again.  maximum pending requests exceeded")


class NotEnoughMemory(LoadFailed):
    """The model would not fit, whatever else is let go."""

    code = "not_enough_memory"


class RunnerRefused(DistError):
    """A runner answered with an error and did nothing; its own words and status."""

    code = "runner_refused"

    def __init__(self, http_status: int, body: bytes) -> None:
        super().__init__(body.decode("utf-8", "replace").strip())
        self.http_status = http_status
        self.body = body


class NoPictures(BadRequest):
    """Models here have no eyes. The words are those of the runner of a recorded Ollama, quoted as it does."""

    code = "no_pictures"

    def __init__(self) -> None:
        super().__init__(
            '{"error":{"code":400,"message":"Multimodal data provided, but model does not support multimodal'
            ' requests.","type":"invalid_request_error"}}'
        )


class NotSupported(DistError):
    """A route of Ollama's that makes no sense here."""

    status = 501
    code = "not_supported"


class InternalError(DistError):
    """A fault of ours; the log has it."""

    def __init__(self) -> None:
        super().__init__("the embedded engine failed; its log says how")


def status_of(error: DistError) -> int:
    """The HTTP status that tells ``error`` as an Ollama would."""
    match error:
        case RunnerRefused():
            return error.http_status
        case UpstreamFailed():
            return 500
    return error.status
