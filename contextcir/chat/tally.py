"""Count the outcomes of each role, say why some have failed, and give up on a role that does not answer."""

import re
from collections import Counter, defaultdict, deque
from collections.abc import Collection
from typing import Any

from contextcir.chat.exchange import OUTCOMES, ChatStop, Outcome
from contextcir.chat.ledger import TEMPORARY
from contextcir.chat.plain_text import printable

GIVE_UP_AFTER = 20  # first requests of a role, none of them answered
WINDOW, SHARE = 50, 0.9  # give up if this share of the last requests of a role failed, as when a server goes down
SUMS = ("prompt_tokens", "completion_tokens", "usd")  # fields of an outcome
MAX_SHOWN = 300  # characters of a server's sentence
MAX_REASONS = 1000  # that are told apart, for each role

_PARTICULARS = re.compile(r"[0-9a-fA-F-]{8,}|\d+")  # of one request: its id, a time, a number of tokens
_FAILURES = [kind for kind in OUTCOMES if kind != "answered"]


class Tally:
    """
    The outcomes of a run, by role.

    Attributes:
        counts (`dict[str, Counter]`): For each role `asked`, `reused` (answered by a ledger or cache at no cost), and
            of those asked the kinds of outcome, `prompt_tokens`, `completion_tokens`, `usd`, and how many are
            `doubtful`.
    """

    def __init__(self) -> None:
        self.counts: dict[str, Counter] = defaultdict(Counter)
        self._reasons: dict[str, Counter[str]] = defaultdict(Counter)  # without particulars
        self._examples: dict[str, str] = {}  # reason -> the first sentence of its kind
        self._failed: dict[str, set[str]] = defaultdict(set)  # ids: pairs may share a request
        self._recent: dict[str, deque[bool]] = defaultdict(lambda: deque(maxlen=WINDOW))

    def add(self, role: str, outcome: Outcome, name: str = "") -> None:
        """
        Count an outcome.

        Args:
            role (`str`): The role or stage.
            outcome ([`~contextcir.chat.exchange.Outcome`]): Its outcome.
            name (`str`, *optional*): How to name the role in an error; by default its name.

        Raises:
            [`~contextcir.chat.exchange.ChatStop`]: The role answered none of its first 20 requests, or failed in
                nine tenths of the last 50. What is answered is kept, so the same command goes on.
        """
        count = self.counts[role]
        if outcome.recalled and outcome.kind == "answered":
            count["reused"] += 1
            return
        count.update({"asked": 1, outcome.kind: 1})
        count.update({sum_: getattr(outcome, sum_) for sum_ in SUMS if not outcome.recalled})
        if outcome.doubtful and not outcome.recalled:
            count["doubtful"] += 1
        failed, recent = self._failed[role], self._recent[role]
        if outcome.kind == "answered":
            recent.append(False)
            return
        sentence = outcome.error or outcome.text or "no reason was given"
        self._count_reason(role, f"{outcome.kind}: {sentence}")
        if outcome.request_id in failed:
            return
        failed.add(outcome.request_id or f"failure {len(failed)}")
        recent.append(outcome.kind == TEMPORARY)
        self._give_up(role, name or f"The stage {role}", outcome.kind == TEMPORARY)

    def _count_reason(self, role: str, sentence: str) -> None:
        reason, reasons = _PARTICULARS.sub("#", sentence[: 2 * MAX_SHOWN]), self._reasons[role]
        if reason in reasons or len(reasons) < MAX_REASONS:
            reasons[reason] += 1
            self._examples.setdefault(reason, sentence)

    def _give_up(self, role: str, name: str, is_temporary: bool) -> None:
        recent = self._recent[role]
        if len(self._failed[role]) >= GIVE_UP_AFTER and self.failed(role) == self.total(role):
            raise ChatStop(
                "model",
                f"{name} answered none of its first {self.total(role)} questions. Most often: {self.most_often(role)}"
                " Check the model and the server.",
            )
        if is_temporary and len(recent) == WINDOW and sum(recent) >= SHARE * WINDOW:
            raise ChatStop(
                "failing",
                f"{name}: {sum(recent)} of the last {WINDOW} requests failed. Most often: {self.most_often(role)}"
                " Check the server.",
            )

    # --- reports -----------------------------------------------------------------------------------------------------

    def total(self, role: str) -> int:
        """Return the number of outcomes of a role."""
        return self.counts[role]["asked"] + self.counts[role]["reused"]

    def failed(self, role: str, kinds: Collection[str] = _FAILURES) -> int:
        """Return how many of these were of such kinds; by default, not answered."""
        return sum(self.counts[role][kind] for kind in kinds)

    def most_often(self, role: str) -> str:
        """Return the server's own sentence for the most frequent failure, safe to print. It ends with a full stop."""
        ((reason, _),) = self._reasons[role].most_common(1)
        sentence = printable(self._examples[reason], MAX_SHOWN)
        return sentence if sentence.endswith((".", "!", "?", "…")) else f"{sentence}."

    def lines(self) -> list[str]:
        """Return a line for each role: how many were answered, how many failed, and why most of them."""
        lines = []
        for role in self.counts:
            failed, total = self.failed(role), self.total(role)
            line = f"{role}: {total - failed:,} answered, {failed:,} failed"
            if doubtful := self.counts[role]["doubtful"]:
                line += f", {doubtful:,} booked at the upper bound since nobody can believe their usage"
            if failed:
                some = [f"{count:,} {kind}" for kind in _FAILURES if (count := self.counts[role][kind])]
                line += f" ({', '.join(some)}). Most often: {self.most_often(role)}"
            lines.append(line)
        return lines

    def failures(self) -> dict[str, dict[str, Any]]:
        """Return what failed, as JSON: role -> `failed`, `of`, and the sentence that came `most_often`."""
        return {
            role: {"failed": self.failed(role), "of": self.total(role), "most_often": self.most_often(role)}
            for role in self.counts
            if self.failed(role)
        }

    def too_many(self, most: float, kinds: Collection[str] = _FAILURES) -> str:
        """Return a sentence about the roles in which more than a share has failed; empty if there is none."""
        roles = [
            f"{role} {self.failed(role, kinds):,} of {self.total(role):,}"
            for role in self.counts
            if self.failed(role, kinds) > most * self.total(role)
        ]
        return f"More than {most:.0%} failed: {'; '.join(roles)}." if roles else ""
