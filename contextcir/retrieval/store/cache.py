"""Keep the embeddings of galleries beyond a process, by the content of their images and by who embeds."""

import hashlib
import os
from pathlib import Path

from tqdm.auto import tqdm

from contextcir.data.content import image_digest
from contextcir.retrieval.base import Gallery
from contextcir.retrieval.dense import DenseRetriever
from contextcir.retrieval.identity import digest
from contextcir.retrieval.store.gallery import StoredGallery
from contextcir.retrieval.store.layout import Manifest
from contextcir.retrieval.store.operations import index_images
from contextcir.retrieval.store.sources import MemorySource
from contextcir.runtime.distributed import process_state


class GalleryCache:
    """
    A folder of stored galleries. A gallery is embedded once for each model, by all processes together, and mapped into
    memory from then on. An interrupted one goes on. Use it as the `keep` of a retriever.

    Args:
        folder (`str` or `os.PathLike`): Any number of runs may share it.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder).expanduser()

    def __call__(self, retriever: DenseRetriever, gallery: Gallery):
        """
        Return the embeddings of a gallery: `(gallery_size, dim)`.

        Raises:
            `ImageError`: An image cannot be read.
        """
        silent = not process_state().is_main_process
        content = hashlib.sha256()
        for image in tqdm(gallery.images, "Looking for known images", disable=silent, leave=False):
            content.update(image_digest(image))
        key = digest([gallery.ids, content.hexdigest(), retriever.batch_size])[:16]
        path = self.folder / f"{retriever.identity.fingerprint[:16]}-{key}"
        if Manifest.read(path) is None:
            index_images(MemorySource(gallery), retriever, path, strict=True, quiet=silent)
        return StoredGallery.load(path, retriever).rows
