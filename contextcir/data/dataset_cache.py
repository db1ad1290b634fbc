"""Where `datasets` keeps its copy of a local data set."""

import hashlib
from pathlib import Path

from contextcir.data.folders import files_in


def cache_of(name: str) -> str | None:
    """
    Return the folder in which `datasets.load_dataset` shall keep its copy of a data set.

    `datasets` knows a local folder whose card lists configurations by the folder's name alone. Another folder of this
    name, or the same one after it was built again, would give the old rows.

    Args:
        name (`str`): Name on the Hub, or path.

    Returns:
        `str` or `None`: For a local folder, one for its path and the names, sizes and times of its files. `None`, the
        usual place, for a name on the Hub.
    """
    path = Path(name)
    if not path.is_dir():
        return None
    from datasets import config  # here: some who ask read no data set in the end, and it takes much memory

    found = hashlib.sha256(str(path.resolve()).encode())
    for name in files_in(path):
        facts = (path / name).stat()
        found.update(f"{name} {facts.st_size} {facts.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return str(Path(config.HF_DATASETS_CACHE) / "contextcir" / found.hexdigest()[:16])
