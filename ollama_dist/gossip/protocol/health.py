"""How well this member itself is doing (Lifeguard section IV-A): who misses things should judge slowly."""


class LocalHealth:
    """A score from 0 (well) up to a bound; timeouts and periods are multiplied by one more than it."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self.score = 0

    @property
    def factor(self) -> int:
        return 1 + self.score

    def worse(self, by: int = 1) -> None:
        self.score = min(self._bound, self.score + by)

    def better(self) -> None:
        self.score = max(0, self.score - 1)
