"""Options of vector indexes that `index`, `search` and `serve` share."""

from dataclasses import dataclass
from typing import Any, Literal

from transformers.hf_argparser import HfArg

EXACT = "exact"
SETTINGS = {"lancedb": ("uri", "nprobes"), "postgres": ("dsn", "table", "ef_search"), "int8": (), "binary": ()}


@dataclass
class EngineChoice:
    """The index of a gallery. Each but the exact one is made by `contextcir index --index`."""

    _argument_group_name = "Index"

    index: Literal["exact", "int8", "binary", "lancedb", "postgres"] = HfArg(
        default="exact", help="How vectors are searched: int8 and binary take less memory, lancedb is on disk or S3."
    )
    uri: str | None = HfArg(default=None, help="lancedb: folder or s3://bucket/prefix (default: in the gallery).")
    nprobes: int | None = HfArg(default=None, help="lancedb: partitions that are searched.")
    dsn: str | None = HfArg(
        default=None, help="postgres: postgresql://user@host/database. Give the password as PGPASSWORD."
    )
    table: str | None = HfArg(default=None, help="postgres: table (default: gallery).")
    ef_search: int | None = HfArg(default=None, help="postgres: candidates of a search.")

    def __post_init__(self):
        every = {name for names in SETTINGS.values() for name in names}
        for name in sorted(every - set(SETTINGS.get(self.index, ()))):
            if getattr(self, name) is not None:
                raise ValueError(f"--{name} has no effect with --index {self.index}.")

    def settings(self) -> dict[str, Any]:
        """The settings that are given."""
        given = {name: getattr(self, name) for name in SETTINGS.get(self.index, ())}
        return {name: value for name, value in given.items() if value is not None}

    def build(self, gallery: Any, lowest_recall: float) -> str:
        """Make the index of a gallery. Returns a line that says how much it finds."""
        from contextcir.retrieval.engines.derived import build_index, new_index

        index = new_index(gallery, self.index, **self.settings())
        try:
            report = build_index(gallery, index, lowest_recall=lowest_recall)
            return f"Index {self.index}: {report}, {index.size_in_bytes() / 1e6:,.1f} MB."
        finally:
            index.close()

    def open(self, gallery: Any) -> None:
        """Let a gallery search with the index."""
        from contextcir.retrieval.engines.derived import open_index

        if self.index != EXACT:
            gallery.index = open_index(gallery, self.index, **self.settings())
