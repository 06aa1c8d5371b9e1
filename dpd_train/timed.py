"""Progress that also measures."""

import time
from collections.abc import Callable


class Timed:
    """Steps of this call and steps a second, the first step (warming up) left out."""

    def __init__(self, progress: Callable[[int, int], None]) -> None:
        self.progress, self.begun = progress, time.monotonic()
        self.first: tuple[float, int] | None = None
        self.last = (self.begun, 0)

    def __call__(self, step: int, steps: int) -> None:
        self.last = (time.monotonic(), step)
        self.first = self.first or self.last
        self.progress(step, steps)

    def summary(self) -> dict[str, float]:
        """{"seconds": of the whole stage, "steps": done, "steps_per_second": once warm}."""
        seconds = round(time.monotonic() - self.begun, 2)
        if self.first is None:
            return {"seconds": seconds, "steps": 0, "steps_per_second": 0.0}
        warm, done = self.last[0] - self.first[0], self.last[1] - self.first[1]
        return {"seconds": seconds, "steps": done + 1, "steps_per_second": round(done / warm, 2) if warm else 0.0}
