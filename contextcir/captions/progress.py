"""What a run shows of itself while it goes on: a bar of pairs, with failures, tokens and dollars."""

from typing import Any

from tqdm import tqdm

from contextcir.captions.pipeline import NOT_REACHED, PairResult


class Bar:
    """
    A bar on the screen, told of each result.

    Args:
        total (`int`): Number of pairs.
        progress: `prompt_tokens`, `completion_tokens` and `usd` of the run so far, such as a dispatcher's `progress`.
    """

    def __init__(self, total: int, progress: Any):
        self._bar = tqdm(total=total, unit="pair", smoothing=0.05)
        self._progress = progress
        self.failed = self.refused = 0

    def __call__(self, result: PairResult) -> None:
        """Another pair is done, or left open by a stop."""
        if result.reason == NOT_REACHED:
            return
        self.failed += bool(result.reason)
        self.refused += result.reason.endswith((": refused", ": filtered"))
        tokens = self._progress.prompt_tokens + self._progress.completion_tokens
        numbers = {
            "failed": self.failed,
            "refused": self.refused,
            "tokens": f"{tokens:,}",
            "usd": f"{self._progress.usd:.4f}",
        }
        self._bar.set_postfix(numbers, refresh=False)
        self._bar.update()

    def close(self) -> None:
        """Leave the last state on the screen."""
        self._bar.close()
