"""Vectors in LanceDB: embedded, in a local folder or on object storage, for as many readers as there are machines.

A table has the columns `id`, `digest` and `vector`, and for each fact one for the texts and one for the numbers that
occur (`text:NAME`, `number:NAME`). New facts become new columns. Every change is a new version, which appears whole:
readers hold no state, look for the newest version before each search, and go on when a writer is killed. There may be
one writer at a time. Only this file imports LanceDB.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import reduce
from operator import and_, or_
from threading import Lock
from typing import Any
from urllib.parse import quote, unquote

import pyarrow as pa
import torch

from contextcir.retrieval.engines.base import (
    CANDIDATES,
    Facts,
    Found,
    best_first,
    check_facts,
    check_queries,
    check_vectors,
    row_digests,
)
from contextcir.retrieval.filters import OPERATORS, Condition, Where, require_column

LEAST_ROWS = 5000  # below, comparing all rows is fast and exact
IDS = 4096  # that one condition names
MOST = 2**31 - 1  # rows: LanceDB wants a limit where we want none
INDEX = "vector_idx"
TYPES = {"text": pa.string(), "number": pa.float64()}


class LanceIndex:
    """
    Search with LanceDB.

    Args:
        uri (`str`): A local folder, or `s3://bucket/prefix`.
        table (`str`, *optional*, defaults to `gallery`): Name of the table. It is made when vectors are first added.
        storage_options (`dict[str, str]`, *optional*): Keys, endpoint and region of object storage; by default from
            `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_ENDPOINT` and `AWS_REGION`.
        nprobes (`int`, *optional*, defaults to 64): Partitions that a search looks into. More find more.
        refine (`int`, *optional*, defaults to 10): Candidates for each result, whose true vectors are read. At
            least 100 in all.
        bits (`int`, *optional*, defaults to 4): Of each dimension in the index, 1 to 8.
        partitions (`int`, *optional*): Of the index; by default one for every 8,192 vectors.
        least_rows (`int`, *optional*, defaults to 5000): With fewer vectors, [`LanceIndex.build`] makes no index: all
            are compared.

    Scores are true dot products. Numbers among the facts are float64. Raises an `OSError` if the storage cannot be
    reached.
    """

    engine = "lancedb"

    def __init__(
        self,
        uri: str | os.PathLike,
        table: str = "gallery",
        *,
        storage_options: dict[str, str] | None = None,
        nprobes: int = 64,
        refine: int = 10,
        bits: int = 4,
        partitions: int | None = None,
        least_rows: int = LEAST_ROWS,
    ):
        self.uri = os.fspath(uri) if "://" in os.fspath(uri) else os.path.abspath(os.path.expanduser(uri))
        self.table, self.nprobes, self.refine = table, nprobes, refine
        self.bits, self.partitions, self.least_rows = bits, partitions, least_rows
        if min(nprobes, refine, bits, partitions or 1, least_rows) < 1 or bits > 8:
            raise ValueError(
                f"Got nprobes={nprobes}, refine={refine}, bits={bits}, partitions={partitions},"
                f" least_rows={least_rows}; expected at least 1, and at most 8 bits."
            )
        self._writing = Lock()
        self._opened: Any = None
        with self._storage():
            try:
                self._database = _library().connect(
                    self.uri, storage_options=self._options(storage_options), read_consistency_interval=timedelta(0)
                )
            except ValueError as error:  # such as a bucket that is not there
                raise OSError(error) from error

    def _options(self, given: dict[str, str] | None) -> dict[str, str] | None:
        options = dict(given or {})
        endpoint = next((options[name] for name in ("aws_endpoint", "endpoint") if name in options), None)
        endpoint = endpoint or os.environ.get("AWS_ENDPOINT") or os.environ.get("AWS_ENDPOINT_URL") or ""
        if self.uri.startswith("s3://") and endpoint.startswith("http://"):
            options.setdefault("allow_http", "true")  # whoever says http:// means it
        return options or None

    @property
    def settings(self) -> dict[str, Any]:
        """See [`~contextcir.retrieval.engines.base.VectorIndex.settings`]. Without storage options."""
        names = ("uri", "table", "nprobes", "refine", "bits", "partitions", "least_rows")
        return {name: getattr(self, name) for name in names}

    @property
    def exact(self) -> bool:
        """Whether there is no index, so that all vectors are compared."""
        with self._storage():
            table = self._open()
            return table is None or not any(index.name == INDEX for index in table.list_indices())

    def __len__(self) -> int:
        with self._storage():
            table = self._open()
            return 0 if table is None else table.count_rows()

    def size_in_bytes(self) -> int:
        """See [`~contextcir.retrieval.engines.base.VectorIndex.size_in_bytes`]. Versions that are gone are not
        counted, though their files stay for a week."""
        with self._storage():
            if (table := self._open()) is None:
                return 0
            indexes = sum(index.size_bytes or 0 for index in table.list_indices())
            return int(table.stats()["total_bytes"]) + indexes

    def digests(self, ids: Sequence[str] | None = None) -> dict[str, str]:
        """See [`~contextcir.retrieval.engines.base.VectorIndex.digests`]."""
        found: dict[str, str] = {}
        with self._storage():
            if (table := self._open()) is not None:
                for rows in [table.search()] if ids is None else _having(table, ids):
                    for batch in rows.select(["id", "digest"]).limit(MOST).to_batches():
                        found.update(zip(batch["id"].to_pylist(), batch["digest"].to_pylist(), strict=True))
        return found

    def add(self, ids: Sequence[str], vectors: torch.Tensor, facts: Facts | None = None) -> None:
        """See [`~contextcir.retrieval.engines.base.VectorIndex.add`]. One process may add at a time."""
        given = check_facts(ids, facts)
        with self._writing, self._storage():
            table = self._open()
            check_vectors(ids, vectors, None if table is None else _dim(table))
            if not len(ids):
                return
            columns = _columns(given)
            if table is None:
                table = self._create(vectors.shape[1])
            if new := [pa.field(name, _type(name)) for name in columns if name not in table.schema.names]:
                table.add_columns(new)
            values = pa.array(vectors.float().cpu().contiguous().numpy().reshape(-1))
            columns |= {
                "id": pa.array(ids, pa.string()),
                "digest": pa.array(row_digests(vectors, given), pa.string()),
                "vector": pa.FixedSizeListArray.from_arrays(values, vectors.shape[1]),
            }
            # Facts that are not given become null: those of a vector that is replaced go with it.
            rows = {
                field.name: columns[field.name] if field.name in columns else pa.nulls(len(ids), field.type)
                for field in table.schema
            }
            merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            merge.execute(pa.table(rows, schema=table.schema))

    def _create(self, dim: int) -> Any:
        fields = [pa.field("id", pa.string()), pa.field("digest", pa.string())]
        fields.append(pa.field("vector", pa.list_(pa.float32(), dim)))
        self._opened = self._database.create_table(self.table, schema=pa.schema(fields), exist_ok=True)
        return self._opened

    def remove(self, ids: Sequence[str]) -> None:
        """See [`~contextcir.retrieval.engines.base.VectorIndex.remove`]."""
        if missing := set(ids).difference(self.digests(ids)):
            raise ValueError(f"There is no vector {min(missing)!r}.")
        with self._writing, self._storage():
            for start in range(0, len(ids), IDS):
                self._open().delete(_column("id").isin(ids[start : start + IDS]))

    def build(self) -> None:
        """Join small files, and make an index of the vectors (IVF with RaBitQ codes; with whole vectors, if their
        dimension is no multiple of 8). A process that is killed meanwhile leaves the table as it was before."""
        from lancedb.index import BTree, IvfFlat, IvfRq

        with self._writing, self._storage():
            if (table := self._open()) is None:
                return
            table.optimize()
            if table.count_rows() < self.least_rows:
                return
            how: dict[str, Any] = {"distance_type": "dot", "num_partitions": self.partitions}
            config = IvfFlat(**how) if _dim(table) % 8 else IvfRq(num_bits=self.bits, **how)
            table.create_index("vector", config=config, replace=True, name=INDEX)
            table.create_index("id", config=BTree(), replace=True)

    def search(self, queries: torch.Tensor, k: int, where: Where = ()) -> Found:
        """See [`~contextcir.retrieval.engines.base.VectorIndex.search`]."""
        with self._storage():
            table = self._open()
            check_queries(queries, k, None if table is None else _dim(table))
            names = set(table.schema.names) if table is not None else set()
            condition = _all_of(where, names)
            if table is None or not len(queries):
                return [[] for _ in queries]
            found = self._ask(table, queries, k, condition, self.nprobes)
            wanted = min(k, table.count_rows())
            # A filter, or a high `k`, may leave too few in these partitions: look into all.
            if short := [number for number, some in enumerate(found) if len(some) < wanted]:
                for number, some in zip(short, self._ask(table, queries[short], k, condition, 0), strict=True):
                    found[number] = some
        return found

    def _ask(self, table: Any, queries: torch.Tensor, k: int, condition: Any, nprobes: int) -> Found:
        """Search in the `nprobes` nearest partitions; 0 means in all."""
        asked = table.search(queries.float().cpu().numpy(), vector_column_name="vector").distance_type("dot")
        asked = asked.minimum_nprobes(nprobes or self.nprobes).maximum_nprobes(nprobes)
        asked = asked.refine_factor(max(self.refine, -(-CANDIDATES // k)))
        if condition is not None:
            asked = asked.where(condition, prefilter=True)
        rows = asked.select(["id", "_distance"]).limit(k).to_arrow()
        numbers = rows["query_index"].to_pylist() if "query_index" in rows.schema.names else [0] * len(rows)
        found: Found = [[] for _ in queries]
        for number, id_, distance in zip(numbers, rows["id"].to_pylist(), rows["_distance"].to_pylist(), strict=True):
            found[number].append((id_, 1 - distance))
        return [best_first(some, k) for some in found]

    def close(self) -> None:
        """See [`~contextcir.retrieval.engines.base.VectorIndex.close`]."""
        self._opened = None

    def _open(self) -> Any:
        """The table at its newest version; `None` if nobody has made it yet."""
        if self._opened is None:
            try:
                self._opened = self._database.open_table(self.table)
            except ValueError as error:
                if "not found" not in str(error):
                    raise
        return self._opened

    @contextmanager
    def _storage(self) -> Iterator[None]:
        """Errors of storage in one line."""
        try:
            yield
        except (RuntimeError, OSError) as error:
            raise OSError(f"{self.uri}: {' '.join(str(error).split())[:500]}") from error


def _library() -> Any:
    os.environ.setdefault("LANCEDB_LOG", "error")  # it warns of every table that it makes
    try:
        import lancedb
    except ImportError as error:
        raise ImportError(f"This index needs LanceDB ({error}): pip install contextcir[lance]") from error
    return lancedb


def _column(name: str) -> Any:
    from lancedb.expr import col

    return col(name)


def _name(kind: str, fact: str) -> str:
    """The column of a fact. LanceDB takes a dot for a path, and a backtick for the end of a name."""
    return f"{kind}:{quote(fact, safe=' ').replace('.', '%2E')}"


def _type(name: str) -> pa.DataType:
    return TYPES[name.split(":")[0]]


def _dim(table: Any) -> int:
    return table.schema.field("vector").type.list_size


def _columns(facts: Facts) -> dict[str, pa.Array]:
    """Columns of facts: of numbers, of texts, or of both where both occur."""
    found = {}
    for fact, values in facts.items():
        texts = [value if isinstance(value, str) else None for value in values]
        numbers = [None if value is None or isinstance(value, str) else float(value) for value in values]
        has_numbers = any(value is not None for value in numbers)
        if has_numbers:
            found[_name("number", fact)] = pa.array(numbers, TYPES["number"])
        if not has_numbers or any(value is not None for value in texts):
            found[_name("text", fact)] = pa.array(texts, TYPES["text"])
    return found


def _having(table: Any, ids: Sequence[str]) -> Iterator[Any]:
    """Queries for rows with some ids."""
    for start in range(0, len(ids), IDS):
        yield table.search().where(_column("id").isin(ids[start : start + IDS]))


def _all_of(where: Where, names: set[str]) -> Any:
    """A condition of LanceDB, with values as values, never as text of SQL. Raises a `ValueError` for a column that is
    not there."""
    facts = {unquote(name.split(":", 1)[1]) for name in names if ":" in name}
    for condition in where:
        require_column(condition.column, sorted(facts))
    parts = [_one_of(condition, names) for condition in where]
    return reduce(and_, parts) if parts else None


def _one_of(condition: Condition, names: set[str]) -> Any:
    from lancedb.expr import lit

    parts = []
    for kind, values in (("text", condition.texts), ("number", [float(value) for value in condition.numbers])):
        name = _name(kind, condition.column)
        if not values or name not in names:
            continue
        if condition.operator in ("=", "!="):
            part = _column(name).isin(values)
            parts.append(~part if condition.operator == "!=" else part)
        else:
            parts.append(OPERATORS[condition.operator](_column(name), values[0]))
    return reduce(or_, parts) if parts else lit(False)
