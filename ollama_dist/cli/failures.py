"""How a command ends, and what it says when it does not end well."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes; scripts may rely on them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    DEGRADED = 3
    """It runs, with a problem that is named."""
    NOT_RUNNING = 4
    NOT_ALLOWED = 5


class Failure(Exception):
    """What happened, why, and what to do about it: at most three lines on standard error."""

    def __init__(self, what: str, *, why: str = "", do: str = "", exit_code: Exit = Exit.FAILED) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.do = do
        self.exit_code = exit_code

    def lines(self) -> list[str]:
        """Each part in a line of its own; line breaks within a part are flattened."""
        parts = [f"ollama-dist: {self.what}", self.why and f"  {self.why}", self.do and f"  try: {self.do}"]
        return [" ".join(part.split("\n")) for part in parts if part]
