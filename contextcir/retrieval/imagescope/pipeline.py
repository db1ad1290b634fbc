"""ImageScope: retrieval without training, by the reasoning of several models (Luo et al., WWW 2025).

What a first retriever finds is verified and evaluated. With [`ReasonedRetriever`] as the first this is the published
system, of composed queries, texts and conversations; with any other it re-ranks what that one returns. A candidate of
which a role has no usable answer keeps its place, and the failure is counted: nothing is read into a broken answer.

Where the paper looks at a subset (CIRR's), a query's candidates go through the same stages by themselves, each image
asked about once.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from operator import eq
from typing import Any

from contextcir.retrieval.base import Gallery, Query, Ranking, Retriever
from contextcir.retrieval.imagescope.panel import Panel, together
from contextcir.retrieval.imagescope.reason import ReasonedRetriever, check_queries
from contextcir.retrieval.imagescope.roles import Proposition
from contextcir.retrieval.imagescope.trace import Line


class ImageScope:
    """
    Re-rank the best of a first retriever by what holds in them, and then by a verdict.

    The second stage cuts the text into propositions, each a yes/no question with its expected answer, and re-orders
    the candidates by how many of them hold. The third shows the evaluator the reference image, the text and one of the
    best; those that it accepts go first. Both keep the order of equals. An empty text says nothing that could be
    verified: its ranking stays as the first retriever has it.

    Every query leaves a line in the panel's trace: `query` (its id), `text`, `reference` (its id); `descriptions`,
    from a [`ReasonedRetriever`]; `retrieved` with `scores`, the best before; `propositions`; `answers`, what the
    verifier says of each image (null: nothing usable); `verified`, the order after; `verdicts` with reasons;
    `evaluated`, the last order; `candidates`, these orders of the query's own candidates; `depths`, how many of each
    order were verified and evaluated; `prompts`, versions and digests of the texts; and `calls` with what each took
    and gave, and their sums.

    Args:
        panel ([`~contextcir.retrieval.imagescope.panel.Panel`]): The four roles, and where they are recorded.
        first (`Retriever`): What is re-ranked.
        verified (`int`, *optional*, defaults to 20): How many candidates of a query are verified. The paper's k.
        evaluated (`int`, *optional*, defaults to 3): How many are evaluated then. The paper's alpha.

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
        Rank the gallery, and each query's candidates, for each query.

        Args:
            queries (`Sequence[Query]`): As for [`~contextcir.retrieval.base.Retriever.search`], like all others.
            gallery (`Gallery`): The images. There may be fewer than are verified.
            k (`int`): How many to return.
            exclude_reference (`bool`, *optional*, defaults to `False`): Whether references are left out.
            wanted (`Mapping[str, str]`, *optional*): Whose ranks are wanted.

        Returns:
            `Ranking`: Without scores: its order comes of several kinds of them.

        Raises:
            `ChatStop`: Going on is pointless; the message names the role. Answers so far are kept.
            `ImageError`: An image cannot be read.
            `ValueError`: A reference is missing, or a query has neither a reference nor a text.
        """
        check_queries(queries, gallery)
        if not queries:
            return Ranking([], [], None, [], None if wanted is None else {})
        depth = max(k, self.verified, self.evaluated)
        found = self.first.search(queries, gallery, depth, exclude_reference=exclude_reference, wanted=wanted)
        places = {id_: place for place, id_ in enumerate(found.query_ids)}
        captions = self.panel.reference_captions(queries, gallery) if self.verified else {}
        orders = self.panel.on_main(lambda: self._judge_all(queries, gallery, found, places, captions))
        ranks = None
        if wanted is not None:
            ranks = {
                query.id: order.index(wanted[query.id]) if wanted[query.id] in order else found.wanted_ranks[query.id]
                for query, (order, _) in zip(queries, orders, strict=True)
                if query.id in wanted
            }
        return Ranking(
            query_ids=[query.id for query in queries],
            gallery_ids=[order[:k] for order, _ in orders],
            candidate_ids=None if found.candidate_ids is None else [candidates for _, candidates in orders],
            wanted_ranks=ranks,
        )

    def report(self) -> dict[str, Any]:
        """What was asked so far, by role: part of the record of a measurement."""
        return {"calls": self.panel.tally.report()}

    async def _judge_all(self, queries, gallery, found, places, captions) -> list[tuple[list[str], list[str]]]:
        """The orders of all queries, so many at a time that no more questions wait than may."""
        jobs = (self._judge(query, gallery, found, places[query.id], captions.get(query.id)) for query in queries)
        at_a_time = max(1, self.panel.waiting // max(self.verified, self.evaluated, 1))
        orders = await self.panel.in_flight(jobs, len(queries), "Verifying", at_a_time)
        self.panel.trace.compact()
        return orders

    async def _judge(self, query: Query, gallery: Gallery, found: Ranking, place: int, caption: str | None):
        """The last orders of what was found for a query and of its candidates. Both go through the stages together, so
        that an image which is in both is asked about once."""
        retrieved = found.gallery_ids[place], found.candidate_ids[place] if found.candidate_ids else []
        propositions, answers, verdicts = [], {}, {}
        verified = evaluated = retrieved
        with self.panel.line(query) as line:
            if not isinstance(self.first, ReasonedRetriever):
                line.record.pop("descriptions", None)  # of an earlier run: by these, nothing was retrieved now
            if query.modification_text.strip():
                heads = [ids[: self.verified] for ids in retrieved]
                if any(heads):
                    propositions = await self._propose(query, caption, line)
                if propositions:
                    answers = await self._of_each(heads, lambda id_: self._verify(propositions, gallery, id_, line))
                points = _satisfied(propositions, answers)
                verified = tuple(_reorder(ids, points, self.verified) for ids in retrieved)
                heads = [ids[: self.evaluated] for ids in verified]
                verdicts = await self._of_each(heads, lambda id_: self._evaluate(query, gallery, id_, line))
                points = _accepted(verdicts)
                evaluated = tuple(_reorder(ids, points, self.evaluated) for ids in verified)
            orders = {"retrieved": retrieved, "verified": verified, "evaluated": evaluated}
            shown = max(self.verified, self.evaluated)
            line.save(
                query=query.id,
                text=query.modification_text,
                reference=query.reference_id,
                scores=found.scores[place][:shown] if found.scores else None,
                **{stage: ids[:shown] for stage, (ids, _) in orders.items()},
                candidates={stage: own for stage, (_, own) in orders.items()},
                depths={"verified": self.verified, "evaluated": self.evaluated},
                propositions=[proposition.model_dump() for proposition in propositions],
                answers=answers,
                verdicts=verdicts,
                prompts=self.panel.questions.versions,
            )
        return evaluated

    async def _of_each(self, heads: Sequence[Sequence[str]], ask: Callable[[str], Awaitable[Any]]) -> dict[str, Any]:
        """What is said of each image that is in any of the lists."""
        ids = list(dict.fromkeys(id_ for head in heads for id_ in head))
        return dict(zip(ids, await together(map(ask, ids)), strict=True))

    async def _propose(self, query: Query, caption: str | None, line: Line) -> list[Proposition]:
        """By what the target is known; nothing where the reasoner has no usable answer. Of a conversation the reasoner
        is also shown the last description, which resolves what was said."""
        description = line.record["descriptions"][-1] if query.turns and "descriptions" in line.record else None
        request = self.panel.questions.propose(
            query.modification_text, caption, description, composed=query.has_reference
        )
        answer = await line.ask(self.panel.roles.reasoner, request)
        return [] if answer is None else answer.propositions

    async def _verify(self, propositions: list[Proposition], gallery: Gallery, id_: str, line: Line):
        image = gallery.images[gallery.positions[id_]]
        request = self.panel.questions.verify([proposition.question for proposition in propositions], image)
        answer = await line.ask(self.panel.roles.verifier, request, [self.panel.content_id(gallery, id_)])
        return answer and answer.answers

    async def _evaluate(self, query: Query, gallery: Gallery, id_: str, line: Line):
        image, reference = gallery.images[gallery.positions[id_]], None
        content = [self.panel.content_id(gallery, id_)]
        if query.has_reference:
            reference = self.panel.reference(query, gallery)
            content.insert(0, self.panel.reference_content_id(query, gallery))
        request = self.panel.questions.evaluate(query.modification_text, reference, image)
        answer = await line.ask(self.panel.roles.evaluator, request, content)
        return answer and answer.model_dump()


def _satisfied(propositions: Sequence[Proposition], answers: Mapping[str, list[str] | None]) -> dict[str, int | None]:
    """How many propositions hold in each image."""
    expected = [proposition.expected for proposition in propositions]
    return {id_: given and sum(map(eq, given, expected)) for id_, given in answers.items()}


def _accepted(verdicts: Mapping[str, dict[str, str] | None]) -> dict[str, int | None]:
    """1 for each image that was accepted, 0 for each that was not."""
    return {id_: verdict and int(verdict["verdict"] == "accept") for id_, verdict in verdicts.items()}


def _reorder(ids: Sequence[str], points: Mapping[str, int | None], depth: int) -> list[str]:
    """Of the first `depth`, those with points by falling points, equals in their order, in the places that they hold
    together. The others of them, which had no usable answer, stay where they are; and so does what lies deeper, though
    it be known from another list: which images are a query's candidates is not for the gallery's order to tell."""
    head = ids[:depth]
    movable = [id_ for id_ in head if points.get(id_) is not None]
    best_first = iter(sorted(movable, key=lambda id_: -points[id_]))
    return [next(best_first) if points.get(id_) is not None else id_ for id_ in head] + list(ids[depth:])
