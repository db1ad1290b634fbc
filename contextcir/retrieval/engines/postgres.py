"""Vectors in PostgreSQL with pgvector, for teams that have a server.

A table has the columns `id`, `digest`, `vector` (float16) and `facts` (jsonb). A second one, `NAME_columns`, lists the
facts that occur. Values travel as parameters and names as identifiers, never as text of SQL. Only this file imports
psycopg and pgvector.
"""

import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import BoundedSemaphore
from typing import Any

import torch

from contextcir.retrieval.engines.base import (
    Facts,
    Found,
    best_first,
    check_facts,
    check_queries,
    check_vectors,
    row_digests,
)
from contextcir.retrieval.filters import Where, require_column

try:
    import psycopg
    from pgvector import HalfVector
    from pgvector.psycopg import register_vector
    from psycopg import sql
    from psycopg.conninfo import conninfo_to_dict, make_conninfo
except ImportError as error:
    raise ImportError(f"This index needs psycopg and pgvector ({error}): pip install contextcir[postgres]") from error

NEEDED = (0, 8)  # version of pgvector: the first whose filters come before the limit
HIGHEST = 65504  # of float16
MOST_EF = 1000  # that pgvector takes
NAME_LENGTH = 48  # PostgreSQL cuts names at 63 bytes, and ours have endings
SECRETS = ("password", "sslpassword", "oauth_client_secret")

# A fact as what it is compared with; null if it is of the other type
TEXT = """CASE jsonb_typeof(facts -> {name}) WHEN 'string' THEN (facts ->> {name}) COLLATE "C" END"""
NUMBER = (
    "CASE jsonb_typeof(facts -> {name}) WHEN 'number' THEN (facts -> {name})::numeric"
    " WHEN 'boolean' THEN (facts -> {name})::boolean::integer::numeric END"
)
COMPARE = {"=": "= ANY({values})", "!=": "<> ALL({values})"} | {
    name: f"{name} ({{values}})[1]" for name in ("<", "<=", ">", ">=")
}


class PostgresIndex:
    """
    Search with pgvector.

    Args:
        dsn (`str`): How to connect, such as `postgresql://user@host/database`. What is missing comes from the usual
            `PGPASSWORD` and its like, or from `~/.pgpass`.
        table (`str`, *optional*, defaults to `gallery`): Name of the table. It is made when vectors are first added.
        ef_search (`int`, *optional*, defaults to 200): Candidates that a search keeps, 1 to 1000. More find more.
        links (`int`, *optional*, defaults to 24): Links of each vector in the index (`m` of HNSW).
        ef_construction (`int`, *optional*, defaults to 128): Candidates while the index is built.
        build_memory (`str`, *optional*): `maintenance_work_mem` while the index is built, such as `2GB`; by default
            the server's. An index that does not fit takes many times longer.
        connections (`int`, *optional*, defaults to 4): Most that are open at the same time. Other threads wait.

    Scores are dot products of vectors rounded to float16, those of unit vectors within 0.001.

    Raises:
        `ConnectionError`: The server cannot be reached.
        `ValueError`: The DSN cannot be read, or the database has no pgvector 0.8 or newer.
    """

    engine = "postgres"

    def __init__(
        self,
        dsn: str,
        table: str = "gallery",
        *,
        ef_search: int = 200,
        links: int = 24,
        ef_construction: int = 128,
        build_memory: str | None = None,
        connections: int = 4,
    ):
        if not 1 <= len(table.encode()) <= NAME_LENGTH or {"\0", "%"} & set(table):
            raise ValueError(f"Got the table {table!r}, expected a name of 1 to {NAME_LENGTH} bytes without %.")
        if not 1 <= ef_search <= MOST_EF or connections < 1:
            raise ValueError(f"Got ef_search={ef_search}, connections={connections}; expected 1 to {MOST_EF}, and 1.")
        self.table, self.ef_search, self.links, self.ef_construction = table, ef_search, links, ef_construction
        self.build_memory = build_memory
        self._connections = _Connections(dsn, connections)
        self._names = {
            "table": sql.Identifier(table),
            "columns": sql.Identifier(f"{table}_columns"),
            "index": sql.Identifier(f"{table}_hnsw"),
        }
        with self._connections.use():  # so that a mistake shows here
            pass

    @property
    def settings(self) -> dict[str, Any]:
        """See [`~contextcir.retrieval.engines.base.VectorIndex.settings`]. The DSN is without passwords."""
        names = ("table", "ef_search", "links", "ef_construction", "build_memory")
        return {"dsn": self._connections.public} | {name: getattr(self, name) for name in names}

    @property
    def exact(self) -> bool:
        """Whether there is no index, so that all vectors are compared."""
        with self._connections.use() as connection:
            return self._is_exact(connection)

    def _is_exact(self, connection: Any) -> bool:
        return connection.execute("SELECT to_regclass(%s)", [self._text("index")]).fetchone()[0] is None

    def __len__(self) -> int:
        with self._connections.use() as connection:
            return self._one(connection, "SELECT count(*) FROM {table}") if self._dim(connection) else 0

    def size_in_bytes(self) -> int:
        """See [`~contextcir.retrieval.engines.base.VectorIndex.size_in_bytes`]."""
        with self._connections.use() as connection:
            found = connection.execute("SELECT pg_total_relation_size(to_regclass(%s))", [self._text("table")])
            return found.fetchone()[0] or 0

    def digests(self, ids: Sequence[str] | None = None) -> dict[str, str]:
        """See [`~contextcir.retrieval.engines.base.VectorIndex.digests`]."""
        where, values = ("", []) if ids is None else (" WHERE id = ANY(%s)", [list(ids)])
        with self._connections.use() as connection:
            if not self._dim(connection):
                return {}
            return dict(connection.execute(self._sql("SELECT id, digest FROM {table}" + where), values).fetchall())

    def add(self, ids: Sequence[str], vectors: torch.Tensor, facts: Facts | None = None) -> None:
        """See [`~contextcir.retrieval.engines.base.VectorIndex.add`]."""
        given = check_facts(ids, facts)
        check_vectors(ids, vectors)
        if len(ids) and len(high := (vectors.abs() > HIGHEST).any(dim=1).nonzero()):
            row = int(high[0])
            raise ValueError(f"Row {row} ({ids[row]!r}) holds a number above {HIGHEST}, the highest of float16.")
        if not len(ids):
            return
        with self._connections.use() as connection, connection.transaction():
            dim = self._dim(connection) or self._create(connection, vectors.shape[1])
            check_vectors(ids[:1], vectors[:1], dim)
            connection.execute("CREATE TEMP TABLE incoming (id text, digest text, vector halfvec, facts jsonb)")
            rows = zip(ids, row_digests(vectors, given), vectors.float().cpu().numpy(), strict=True)
            with connection.cursor().copy("COPY incoming FROM STDIN WITH (FORMAT BINARY)") as copy:
                copy.set_types(["text", "text", "halfvec", "jsonb"])
                for row, (id_, digest, vector) in enumerate(rows):
                    own = {column: values[row] for column, values in given.items() if values[row] is not None}
                    copy.write_row((id_, digest, HalfVector(vector), own))
            # In the order of ids: two that add the same ones at the same time then wait for each other in one order.
            connection.execute(
                self._sql(
                    "INSERT INTO {table} SELECT id, digest, vector, facts FROM incoming ORDER BY id ON CONFLICT (id)"
                    " DO UPDATE SET digest = EXCLUDED.digest, vector = EXCLUDED.vector, facts = EXCLUDED.facts"
                )
            )
            connection.execute("DROP TABLE incoming")
            columns = self._sql("INSERT INTO {columns} SELECT unnest(%s::text[]) ORDER BY 1 ON CONFLICT DO NOTHING")
            connection.execute(columns, [sorted(given)])

    def _create(self, connection: Any, dim: int) -> int:
        """Make the tables. Whoever comes second waits here. Returns the dimension."""
        connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [self._text("table")])
        columns = (
            """id text COLLATE "C" PRIMARY KEY, digest text NOT NULL, vector halfvec({dim}) NOT NULL, facts jsonb"""
        )
        connection.execute(self._sql(f"CREATE TABLE IF NOT EXISTS {{table}} ({columns})", dim=sql.Literal(dim)))
        connection.execute(self._sql("CREATE TABLE IF NOT EXISTS {columns} (name text PRIMARY KEY)"))
        return self._dim(connection)

    def remove(self, ids: Sequence[str]) -> None:
        """See [`~contextcir.retrieval.engines.base.VectorIndex.remove`]."""
        with self._connections.use() as connection, connection.transaction():
            gone: set[str] = set()
            if self._dim(connection):
                delete = self._sql("DELETE FROM {table} WHERE id = ANY(%s) RETURNING id")
                gone = {id_ for (id_,) in connection.execute(delete, [list(ids)]).fetchall()}
            if missing := set(ids) - gone:
                raise ValueError(f"There is no vector {min(missing)!r}.")  # and the transaction is rolled back

    def build(self) -> None:
        """Make an index of the vectors (HNSW), if there is none. Later vectors are added to it at once. An index is
        there whole or not at all; searches go on meanwhile."""
        with self._connections.use() as connection, connection.transaction():
            if not self._dim(connection):
                return
            if self.build_memory is not None:
                connection.execute("SELECT set_config('maintenance_work_mem', %s, true)", [self.build_memory])
            options = {"m": sql.Literal(self.links), "ef": sql.Literal(self.ef_construction)}
            how = "USING hnsw (vector halfvec_ip_ops) WITH (m = {m}, ef_construction = {ef})"
            connection.execute(self._sql("CREATE INDEX IF NOT EXISTS {index} ON {table} " + how, **options))
            connection.execute(self._sql("ANALYZE {table}"))

    def search(self, queries: torch.Tensor, k: int, where: Where = ()) -> Found:
        """See [`~contextcir.retrieval.engines.base.VectorIndex.search`]."""
        with self._connections.use() as connection, connection.transaction():
            dim = self._dim(connection)
            check_queries(queries, k, dim or None)
            self._require_columns(connection, where, dim)
            if not dim:
                return [[] for _ in queries]
            texts, values = _conditions(where)
            asked = (
                f"SELECT id, -(vector <#> %(query)s) FROM {{table}} WHERE {' AND '.join(['true', *texts])}"
                " ORDER BY (vector <#> %(query)s){all} LIMIT %(k)s"
            )
            # A sum is not what the index is ordered by: then all that the filter leaves are compared.
            fast, thorough = (self._sql(asked, all=sql.SQL(all_)) for all_ in ("", " + 0"))
            candidates = str(min(max(self.ef_search, k), MOST_EF))
            connection.execute("SELECT set_config('hnsw.ef_search', %s, true)", [candidates])
            found = []
            for vector in queries.float().cpu().numpy():
                parameters = {"query": HalfVector(vector), "k": k, **values}
                some = connection.execute(fast, parameters).fetchall()
                if len(some) < k and not self._is_exact(connection):  # it may have given up before it had enough
                    some = connection.execute(thorough, parameters).fetchall()
                found.append(some)
        return [best_first(some, k) for some in found]

    def close(self) -> None:
        """See [`~contextcir.retrieval.engines.base.VectorIndex.close`]."""
        self._connections.close()

    def _sql(self, text: str, **more: sql.Composable) -> sql.Composed:
        return sql.SQL(text).format(**self._names, **more)  # type: ignore[arg-type]

    def _text(self, name: str) -> str:
        return self._names[name].as_string(None)

    def _one(self, connection: Any, text: str) -> Any:
        return connection.execute(self._sql(text)).fetchone()[0]

    def _dim(self, connection: Any) -> int:
        """Dimension of the vectors; 0 if there is no table yet."""
        asked = "SELECT atttypmod FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attname = 'vector'"
        found = connection.execute(asked, [self._text("table")]).fetchone()
        return found[0] if found else 0

    def _require_columns(self, connection: Any, where: Where, dim: int) -> None:
        if where:
            rows = connection.execute(self._sql("SELECT name FROM {columns}")).fetchall() if dim else []
            for condition in where:
                require_column(condition.column, [name for (name,) in rows])


def _conditions(where: Where) -> tuple[list[str], dict[str, Any]]:
    """Conditions as SQL that names parameters, and the parameters. Numbers travel as decimal text, so that 0.1 is the
    0.1 of JSON."""
    texts, values = [], dict[str, Any]()
    for number, condition in enumerate(where):
        values[f"name{number}"] = condition.column
        parts = []
        decimals = [str(int(value) if isinstance(value, bool) else value) for value in condition.numbers]
        for kind, type_, some in ((TEXT, "text", condition.texts), (NUMBER, "numeric", decimals)):
            if some:
                values[f"{type_}{number}"] = some
                left = kind.format(name=f"%(name{number})s::text")
                right = COMPARE[condition.operator].format(values=f"%({type_}{number})s::text[]::{type_}[]")
                parts.append(f"{left} {right}")
        texts.append(f"({' OR '.join(parts)})")
    return texts, values


class _Connections:
    """A few connections that threads take turns with. One that is lost is replaced."""

    def __init__(self, dsn: str, most: int):
        try:
            parts = conninfo_to_dict(dsn)
        except psycopg.Error:
            raise ValueError(
                "The DSN cannot be read (it is not shown, since it may hold a password). Expected"
                " postgresql://user@host:port/database, or words such as host=... dbname=..."
            ) from None
        self._dsn = dsn
        self.public = make_conninfo("", **{name: str(value) for name, value in parts.items() if name not in SECRETS})
        self._free: queue.LifoQueue = queue.LifoQueue()
        self._turns = BoundedSemaphore(most)

    @contextmanager
    def use(self) -> Iterator[Any]:
        """Take a connection, for one thread."""
        with self._turns:
            connection = None
            try:
                connection = self._take()
                yield connection
            except psycopg.OperationalError as error:
                raise ConnectionError(f"PostgreSQL ({self.public}): {_line(error)}") from None
            except psycopg.Error as error:
                raise ValueError(f"PostgreSQL ({self.public}): {_line(error)}") from None
            finally:
                if connection is not None and not connection.closed:
                    self._free.put(connection)

    def _take(self) -> Any:
        with suppress(queue.Empty):
            while True:
                connection = self._free.get_nowait()
                try:
                    connection.execute("")  # the server may have been restarted meanwhile
                    return connection
                except psycopg.OperationalError:
                    connection.close()
        return self._open()

    def _open(self) -> Any:
        connection = psycopg.connect(self._dsn, autocommit=True, connect_timeout=10, prepare_threshold=None)
        try:
            asked = "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
            if (found := connection.execute(asked).fetchone()) is None:
                with suppress(psycopg.Error):
                    connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
                found = connection.execute(asked).fetchone()
            version = found[0] if found else "not installed"
            if found is None or tuple(map(int, version.split(".")[:2])) < NEEDED:
                raise ValueError(
                    f"PostgreSQL ({self.public}): pgvector is {version}, expected 0.8 or newer. Install it on the"
                    " server, and as an administrator run CREATE EXTENSION vector or ALTER EXTENSION vector UPDATE in"
                    " this database."
                )
            register_vector(connection)
            connection.execute("SET hnsw.iterative_scan = strict_order")
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        with suppress(queue.Empty):
            while True:
                self._free.get_nowait().close()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
