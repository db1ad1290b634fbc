"""ImageScope: retrieval without training, by the reasoning of several models (Luo et al., WWW 2025).

The results of a first retriever are verified and evaluated. With [`ReasonedRetriever`] first, this is the published
system for composed queries, texts and conversations. Any other retriever is re-ranked. A candidate without a usable
answer keeps its place, and the failure is counted.

The paper also ranks subsets (CIRR's): a query's candidates pass the same stages separately, and each image is asked
about once.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from operator import eq
from typing import Any

from contextcir.retrieval.base import Gallery, Query, Ranking, Retriever
from contextcir.retrieval.imagescope.panel import Panel, together
from contextcir.retrieval.imagescope.reason import ReasonedRetriever, check_queries
from contextcir.retrieval.imagescope.roles import Proposition
from contextcir.retrieval.imagescope.trace import QueryRecord

Orders = list[list[str]]  # of one query: of the gallery, and of the query's own candidates


class ImageScope:
    """
    Re-rank the best results of a first retriever, by verification and then by evaluation.

    The second stage splits the text into propositions, each a yes/no question with its expected answer, and sorts the
    candidates by the number of propositions that hold. The third shows the evaluator the reference image, the text
    and one of the best candidates; accepted ones move to the front. Both keep the order of equal candidates. For an
    empty text there is nothing to verify, so the first retriever's ranking stays.

    Each query leaves a line in the panel's trace, see [`~contextcir.retrieval.imagescope.trace`].

    Args:
        panel ([`~contextcir.retrieval.imagescope.panel.Panel`]): The four roles, and the trace.
        first (`Retriever`): The first retriever.
        verified (`int`, *optional*, defaults to 20): Candidates of a query to verify. The paper's k.
        evaluated (`int`, *optional*, defaults to 3): Candidates of a query to evaluate. The paper's alpha.

    Raises:
        `ValueError`: A number is negative.
    """

    def __init__(self, panel: Panel, first: Retriever, *, verified: int = 20, evaluated: int = 3):
        if min(verified, evaluated) < 0:
            raise ValueError(f"Got verified={verified} and evaluated={evaluated}, expected at least 0 (none).")
        self.panel, self.first = panel, first
        self.verified, self.evaluated = verified, evaluated

    def search(
        self,
        queries: Sequence[Query],
        gallery: Gallery,
        k: int,
        *,
        exclude_reference: bool = False,
        wanted: Mapping[str, str] | None = None,
    ) -> Ranking:
        """
        Rank the gallery, and each query's candidates, for each query. Arguments, results and errors as for
        [`~contextcir.retrieval.base.Retriever.search`], without scores, as the order comes from several kinds of them.

        Raises:
            `ChatStop`: The run cannot continue; the message names the role.
            `ValueError`: A query has neither a reference nor a text.
        """
        check_queries(queries, gallery)
        depth = max(k, self.verified, self.evaluated)
        found = self.first.search(queries, gallery, depth, exclude_reference=exclude_reference, wanted=wanted)
        captions = self.panel.reference_captions(queries, gallery) if self.verified else {}
        judged = self.panel.on_main(lambda: self._judge_all(queries, gallery, found, captions))
        ranks = None
        if wanted is not None:
            before = found.wanted_ranks or {}
            ranks = {
                query.id: order.index(wanted[query.id]) if wanted[query.id] in order else before[query.id]
                for query, (order, _) in zip(queries, judged, strict=True)
                if query.id in wanted
            }
        return Ranking(
            query_ids=[query.id for query in queries],
            gallery_ids=[order[:k] for order, _ in judged],
            candidate_ids=None if found.candidate_ids is None else [candidates for _, candidates in judged],
            wanted_ranks=ranks,
        )

    def report(self) -> dict[str, Any]:
        """Return the `calls` so far by role, and the `failures` among them, for the record of a measurement."""
        tally = self.panel.tally
        return {
            "calls": {role: dict(count) for role, count in tally.counts.items()},
            "failures": tally.failures(),
        }

    async def _judge_all(
        self, queries: Sequence[Query], gallery: Gallery, found: Ranking, captions: Mapping[str, str]
    ) -> list[Orders]:
        """The last orders of all queries. The number of queries at a time keeps the panel's limit of questions."""
        places = {id_: place for place, id_ in enumerate(found.query_ids)}
        jobs = (self._judge(query, gallery, found, places[query.id], captions.get(query.id)) for query in queries)
        at_a_time = max(1, self.panel.waiting // max(self.verified, self.evaluated, 1))
        orders = await self.panel.in_flight(jobs, len(queries), "Verifying", at_a_time)
        if self.panel.trace is not None:
            self.panel.trace.compact()
        return orders

    async def _judge(self, query: Query, gallery: Gallery, found: Ranking, place: int, caption: str | None) -> Orders:
        """The last orders of a query. Both orders pass the stages together, so that an image in both is asked about
        once."""
        records = self.first.records if isinstance(self.first, ReasonedRetriever) else {}
        record = records.get(query.id) or QueryRecord(query, self.panel.ask)
        retrieved = [found.gallery_ids[place], found.candidate_ids[place] if found.candidate_ids else []]
        verified = evaluated = retrieved
        propositions: list[Proposition] = []
        answers: dict[str, list[str] | None] = {}
        verdicts: dict[str, dict[str, str] | None] = {}
        if query.modification_text.strip():
            heads = [ids[: self.verified] for ids in retrieved]
            if any(heads):
                propositions = await self._propose(query, caption, record)
            if propositions:
                answers = await _ask_each(heads, lambda id_: self._verify(propositions, gallery, id_, record))
            verified = [_reorder(ids, _satisfied(propositions, answers), self.verified) for ids in retrieved]
            heads = [ids[: self.evaluated] for ids in verified]
            verdicts = await _ask_each(heads, lambda id_: self._evaluate(query, gallery, id_, record))
            evaluated = [_reorder(ids, _accepted(verdicts), self.evaluated) for ids in verified]
        orders = {"retrieved": retrieved, "verified": verified, "evaluated": evaluated}
        shown = max(self.verified, self.evaluated)
        record.facts |= {
            "scores": found.scores[place][:shown] if found.scores else None,
            **{stage: ids[:shown] for stage, (ids, _) in orders.items()},
            "candidates": {stage: own for stage, (_, own) in orders.items()},
            "depths": {"verified": self.verified, "evaluated": self.evaluated},
            "propositions": [proposition.model_dump() for proposition in propositions],
            "answers": answers,
            "verdicts": verdicts,
            "prompts": self.panel.questions.versions,
        }
        if self.panel.trace is not None:
            self.panel.trace.write(record.line())
        return evaluated

    async def _propose(self, query: Query, caption: str | None, record: QueryRecord) -> list[Proposition]:
        """The propositions; none if the reasoner has no usable answer. For a conversation, the reasoner also gets the
        last description, which resolves references between turns."""
        description = record.facts["descriptions"][-1] if query.turns and "descriptions" in record.facts else None
        request = self.panel.questions.propose(
            query.modification_text, caption, description, composed=query.has_reference
        )
        answer = await record.ask(request)
        return [] if answer is None else answer.propositions

    async def _verify(
        self, propositions: list[Proposition], gallery: Gallery, id_: str, record: QueryRecord
    ) -> list[str] | None:
        image = gallery.images[gallery.positions[id_]]
        request = self.panel.questions.verify([proposition.question for proposition in propositions], image)
        answer = await record.ask(request)
        return None if answer is None else answer.answers

    async def _evaluate(self, query: Query, gallery: Gallery, id_: str, record: QueryRecord) -> dict[str, str] | None:
        image = gallery.images[gallery.positions[id_]]
        reference = gallery.reference_source(query) if query.has_reference else None
        request = self.panel.questions.evaluate(query.modification_text, reference, image)
        answer = await record.ask(request)
        return None if answer is None else answer.model_dump()


async def _ask_each(heads: Orders, ask: Callable[[str], Awaitable[Any]]) -> dict[str, Any]:
    """Ask about each image that is in any of the lists."""
    ids = list(dict.fromkeys(id_ for head in heads for id_ in head))
    return dict(zip(ids, await together(map(ask, ids)), strict=True))


def _satisfied(propositions: Sequence[Proposition], answers: Mapping[str, list[str] | None]) -> dict[str, int]:
    """Image id -> number of propositions that hold, for images with a usable answer."""
    expected = [proposition.expected for proposition in propositions]
    return {id_: sum(map(eq, given, expected)) for id_, given in answers.items() if given is not None}


def _accepted(verdicts: Mapping[str, dict[str, str] | None]) -> dict[str, int]:
    """Image id -> 1 if it was accepted and 0 if not, for images with a usable verdict."""
    return {id_: int(verdict["verdict"] == "accept") for id_, verdict in verdicts.items() if verdict is not None}


def _reorder(ids: Sequence[str], points: Mapping[str, int], depth: int) -> list[str]:
    """
    Sort images among the first `depth` by descending points, and keep the order of equal ones.

    Images without points (no usable answer) keep their places. So do images below `depth`, even if they have points
    from the other list: a query's candidates must not influence the order of the gallery.
    """
    head = ids[:depth]
    movable = [id_ for id_ in head if id_ in points]
    best_first = iter(sorted(movable, key=lambda id_: -points[id_]))
    return [next(best_first) if id_ in points else id_ for id_ in head] + list(ids[depth:])
