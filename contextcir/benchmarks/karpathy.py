"""Flickr30k and COCO: photographs by their captions, on the test splits of Karpathy and Fei-Fei (CVPR 2015).

Text to image: every caption is a query and its photograph the one target; there is no reference image. Five captions
for each of 1,000 photographs of Flickr30k; for 5,000 of COCO 25,010, as some have more. (Some cut these off, which is
another protocol.) Captions are as they were typed, in the `raw` field.

On disk: Karpathy's `dataset_flickr30k.json` beside `flickr30k-images/*.jpg`, and `dataset_coco.json` beside
`val2014/`.
"""

from dataclasses import dataclass
from pathlib import Path

from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.files import check_choice, check_counts, images_on_disk, read_json
from contextcir.retrieval.base import Gallery, Query

SPLITS = ("test",)
PROTOCOLS = ("every-caption",)
OFFICIAL = {
    "flickr30k": {"queries": 5000, "images": 1000},
    "coco": {"queries": 25_010, "images": 5000},
}
SPLIT_CITATION = """\
@inproceedings{karpathy2015deep,
  title={Deep Visual-Semantic Alignments for Generating Image Descriptions},
  author={Karpathy, Andrej and Fei-Fei, Li},
  booktitle={IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year={2015}
}"""


@dataclass(frozen=True)
class CaptionBenchmark:
    """
    One of the two, with what a benchmark's module has.

    Args:
        name (`str`): What tables call it.
        folder (`str`): Where its images are, unless the annotations say.
        SOURCE (`str`): Where to get it.
        CITATION (`str`): BibTeX.
    """

    name: str
    folder: str
    SOURCE: str
    CITATION: str
    SPLITS: tuple[str, ...] = SPLITS
    PROTOCOLS: tuple[str, ...] = PROTOCOLS

    def load(
        self, path: str, split: str = SPLITS[0], *, protocol: str = PROTOCOLS[0], check_images: bool = True
    ) -> list[Benchmark]:
        """
        Read the test split from Karpathy's file.

        Args:
            path (`str`): Folder with the file and the images.
            split (`str`): There is one.
            protocol (`str`): There is one.
            check_images (`bool`): Whether every image must be there. Protocols can be tested without.

        Returns:
            `list[Benchmark]`: One. Queries are called by their `sentid`, images by their file's name.

        Raises:
            `ValueError`: for an unknown split or protocol; a file that is missing, malformed or laid out otherwise;
                counts that are not the official ones; missing images.
        """
        check_choice(self.name, "splits", split, self.SPLITS)
        check_choice(self.name, "protocols", protocol, self.PROTOCOLS)
        root = Path(path)
        file = root / f"dataset_{self.name}.json"
        annotations = read_json(file)
        try:
            rows = [row for row in annotations["images"] if row["split"] == split]
            paths = [root / row.get("filepath", self.folder) / row["filename"] for row in rows]
            captions = {
                str(sentence["sentid"]): (sentence["raw"], image.name)
                for row, image in zip(rows, paths, strict=True)
                for sentence in row["sentences"]
            }
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{file}: {error} is missing. Expected 'images' with 'split', 'filename' and 'sentences', and these"
                " with 'sentid' and 'raw'."
            ) from error
        found = {"queries": len(captions), "images": len(rows)}
        check_counts(f"{self.name} {split} in {path}", found, OFFICIAL[self.name])
        benchmark = Benchmark(
            name=self.name,
            protocol_id=f"{self.name}/karpathy/{split}/{protocol}",
            gallery=Gallery(
                [image.name for image in paths],
                images_on_disk(paths, f"{self.name} {split}") if check_images else paths,
            ),
            queries=[Query(id=id_, modification_text=text) for id_, (text, _) in captions.items()],
            relevance={id_: {image} for id_, (_, image) in captions.items()},
            exclude_reference=False,
            metrics={"recall": (1, 5, 10)},
        )
        return [benchmark]


FLICKR30K = CaptionBenchmark(
    name="flickr30k",
    folder="flickr30k-images",
    SOURCE="annotations: cs.stanford.edu/people/karpathy/deepimagesent; images: shannon.cs.illinois.edu/Denotation"
    "Graph",
    CITATION="""\
@article{young2014image,
  title={From Image Descriptions to Visual Denotations},
  author={Young, Peter and Lai, Alice and Hodosh, Micah and Hockenmaier, Julia},
  journal={Transactions of the Association for Computational Linguistics},
  volume={2},
  year={2014}
}

"""
    + SPLIT_CITATION,
)
COCO = CaptionBenchmark(
    name="coco",
    folder="val2014",
    SOURCE="annotations: cs.stanford.edu/people/karpathy/deepimagesent; images: cocodataset.org, 2014 Val images",
    CITATION="""\
@inproceedings{lin2014microsoft,
  title={Microsoft {COCO}: Common Objects in Context},
  author={Lin, Tsung-Yi and Maire, Michael and Belongie, Serge and Hays, James and Perona, Pietro and Ramanan, Deva and
    Doll{\\'a}r, Piotr and Zitnick, C. Lawrence},
  booktitle={European Conference on Computer Vision (ECCV)},
  year={2014}
}

"""
    + SPLIT_CITATION,
)
