"""Flickr30k and COCO: find photographs by their captions, test splits of Karpathy and Fei-Fei (CVPR 2015).

Text to image: every caption is a query, and its photograph is the only target. There is no reference image. The test
split of Flickr30k has 1,000 photographs with five captions each. The one of COCO has 5,000 photographs and 25,010
captions, since some have more than five. (Some papers cut these off, which is another protocol.) Captions are used as
they were typed, from the `raw` field.

On disk: Karpathy's `dataset_flickr30k.json` beside `flickr30k-images/*.jpg`, and `dataset_coco.json` beside
`val2014/`.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from contextcir.benchmarks import files
from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.image_files import find_images
from contextcir.retrieval.base import Gallery, Query

SPLITS = ("test",)
PROTOCOLS = ("every-caption",)
OFFICIAL = {
    "flickr30k": {"queries": 5000, "images": 1000},
    "coco": {"queries": 25_010, "images": 5000},
}


class Sentence(BaseModel):
    """A caption."""

    sentid: int
    raw: str


class Photograph(BaseModel):
    """An image with its captions."""

    split: str
    filename: str
    filepath: str = ""
    sentences: list[Sentence]


class Annotations(BaseModel):
    """The content of a file of Karpathy's."""

    images: list[Photograph]


@dataclass(frozen=True)
class CaptionBenchmark:
    """
    One of the two benchmarks, with the attributes of [`~contextcir.benchmarks.registry.BenchmarkModule`].

    Args:
        name (`str`): The name in tables.
        folder (`str`): Folder of the images, unless the annotations have another one.
        SOURCE (`str`): Where to get the data.
    """

    name: str
    folder: str
    SOURCE: str
    SPLITS: tuple[str, ...] = SPLITS
    PROTOCOLS: tuple[str, ...] = PROTOCOLS

    def load(
        self, path: str, split: str = SPLITS[0], *, protocol: str = PROTOCOLS[0], check_images: bool = True
    ) -> list[Benchmark]:
        """Read the split. Arguments, returns and errors as for
        [`~contextcir.benchmarks.registry.BenchmarkModule.load`]. A query id is the caption's `sentid`, an image id its
        file name."""
        files.check_choices(self.name, split=(split, self.SPLITS), protocol=(protocol, self.PROTOCOLS))
        file = Path(path, f"dataset_{self.name}.json")
        rows = [row for row in files.read_json(file, Annotations).images if row.split == split]
        captions = {str(sentence.sentid): (sentence.raw, row.filename) for row in rows for sentence in row.sentences}
        files.check_counts(
            f"{self.name} {split} in {path}", {"queries": len(captions), "images": len(rows)}, OFFICIAL[self.name]
        )
        places = {row.filename: (os.path.join(row.filepath or self.folder, row.filename),) for row in rows}
        found = find_images(Path(path), places, f"{self.name} {split}")
        if check_images:
            found.check()
        return [
            Benchmark(
                name=self.name,
                protocol_id=f"{self.name}/karpathy/{split}/{protocol}",
                gallery=Gallery([row.filename for row in rows], [found.paths[row.filename] for row in rows]),
                queries=[Query(id=id_, modification_text=text) for id_, (text, _) in captions.items()],
                relevance={id_: {image} for id_, (_, image) in captions.items()},
                exclude_reference=False,
                metrics={"recall": (1, 5, 10)},
                missing=found.missing,
                remarks=found.remarks,
            )
        ]


FLICKR30K = CaptionBenchmark(
    name="flickr30k",
    folder="flickr30k-images",
    SOURCE="annotations: cs.stanford.edu/people/karpathy/deepimagesent; images: shannon.cs.illinois.edu/Denotation"
    "Graph",
)
COCO = CaptionBenchmark(
    name="coco",
    folder="val2014",
    SOURCE="annotations: cs.stanford.edu/people/karpathy/deepimagesent; images: cocodataset.org, 2014 Val images",
)
