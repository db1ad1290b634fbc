"""Codes of one byte and of one bit: what they keep, what they weigh, and files of them."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from contextcir.retrieval.engines.base import CANDIDATES
from contextcir.retrieval.engines.exact import ExactIndex
from contextcir.retrieval.engines.quantised import BinaryCodes, Int8Codes, QuantisedIndex
from contextcir.retrieval.index import CONVERTED
from tests.retrieval.engines.rows import IDS, QUERY, VECTORS, ids_of, unit

BOTH = pytest.mark.parametrize("precision", ["int8", "binary"])


def read(codes, dim):
    """The rows that codes stand for."""
    return codes.prepare(torch.eye(dim)) @ codes[0 : len(codes)].T


@pytest.mark.parametrize("dim", [8, 13])
def test_bytes_are_places_in_the_range_of_a_dimension(dim):
    rows = torch.randn(50, dim) * torch.arange(1, dim + 1) + 5
    codes = Int8Codes.make(rows)
    span = rows.amax(dim=0) - rows.amin(dim=0)
    assert codes.codes.dtype == torch.uint8 and codes.codes.shape == rows.shape
    assert (codes.codes.amin(dim=0) == 0).all() and (codes.codes.amax(dim=0) == 255).all()
    error = (read(codes, dim).T - rows).abs()
    assert (error <= span / 510 * 1.01 + 1e-5).all() and error.max() > 0


@pytest.mark.parametrize("dim", [8, 13, 1])
def test_bits_are_sides_of_the_mean(dim):
    rows = torch.randn(50, dim) * torch.arange(1, dim + 1) + 5
    codes = BinaryCodes.make(rows)
    assert codes.bits.dtype == torch.uint8 and codes.bits.shape == (50, -(-dim // 8))
    mean = rows.mean(dim=0)
    assert torch.allclose(read(codes, dim).T, mean + (rows - mean).sign() * (rows - mean).abs().mean(dim=0), atol=1e-5)
    assert torch.equal(codes.gather(torch.tensor([3, 1])), torch.stack([codes[3:4][0], codes[1:2][0]]))


@BOTH
def test_rows_that_are_all_the_same(precision):
    index = QuantisedIndex(precision, IDS[:3], VECTORS[:1].expand(3, -1))
    assert ids_of(index.search(VECTORS[:1], 3)) == [sorted(IDS[:3])]
    assert [score for _, score in index.search(VECTORS[:1], 3)[0]] == pytest.approx([1] * 3)


@BOTH
def test_codes_are_small(precision):
    rows = unit(1000, dim=64)
    index = QuantisedIndex(precision, [str(row) for row in range(1000)], rows)
    assert index.size_in_bytes() == 0
    index.build()
    assert index.size_in_bytes() == 1000 * 64 // {"int8": 1, "binary": 8}[precision] + 2 * 64 * 4


class OnDisk:
    """Rows that say which of them are read."""

    ndim = 2

    def __init__(self, rows):
        self.rows, self.shape, self.gathered, self.longest = rows, rows.shape, [], 0

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, rows):
        self.longest = max(self.longest, rows.stop - rows.start)
        return self.rows[rows]

    def gather(self, places):
        self.gathered += places.tolist()
        return self.rows[places].float()


@BOTH
def test_a_search_reads_only_the_rows_of_candidates(precision):
    size = 3 * CONVERTED
    rows = OnDisk(unit(size, dim=24).half())
    index = QuantisedIndex(precision, [str(row) for row in range(size)], rows, rescore=3)
    index.build()
    rows.longest = 0
    found = index.search(unit(1, 5, dim=24), 50)
    assert rows.longest == 0 and len(rows.gathered) == 150 and len(found[0]) == 50
    index.search(unit(1, 5, dim=24), 5)
    assert len(rows.gathered) == 150 + CANDIDATES
    true = dict(ExactIndex([str(row) for row in range(size)], rows.rows.float()).search(unit(1, 5, dim=24), size)[0])
    assert dict(found[0]) == pytest.approx({id_: true[id_] for id_, _ in found[0]}, abs=1e-6)


@BOTH
def test_queries_in_parts(precision):
    rows, parts = unit(80, dim=8) + 0.3, unit(6, 1, dim=8).unflatten(0, (2, 3))
    ids = [f"{row:02d}" for row in range(80)]
    exact, index = ExactIndex(ids, rows), QuantisedIndex(precision, ids, rows, rescore=8)
    assert [dict(some[:3]) for some in index.search(parts, 10)] == [
        pytest.approx(dict(some[:3]), abs=1e-6) for some in exact.search(parts, 10)
    ]


@BOTH
def test_a_file_of_codes(precision, tmp_path):
    path, rows = tmp_path / "codes.safetensors", np.array(VECTORS)
    index = QuantisedIndex(precision, IDS, rows)
    index.save(path, "gallery 1")
    first = path.read_bytes()
    index.save(path, "gallery 1")
    assert path.read_bytes() == first
    again = QuantisedIndex(precision, IDS, rows)
    again.load(path, "gallery 1")
    assert again.size_in_bytes() == index.size_in_bytes() and again.search(QUERY, 9) == index.search(QUERY, 9)


@BOTH
def test_a_file_of_other_codes_is_refused(precision, tmp_path):
    path, index = tmp_path / "codes.safetensors", QuantisedIndex(precision, IDS, VECTORS)
    other = "int8" if precision == "binary" else "binary"
    with pytest.raises(ValueError, match="codes.safetensors"):
        index.load(path, "gallery 1")
    index.save(path, "gallery 1")
    good, tensors = path.read_bytes(), load_file(path)
    for change in (
        lambda: QuantisedIndex(precision, IDS[:5], VECTORS[:5]).save(path, "gallery 1"),
        lambda: QuantisedIndex(precision, IDS, torch.cat([VECTORS, VECTORS], dim=1)).save(path, "gallery 1"),
        lambda: QuantisedIndex(other, IDS, VECTORS).save(path, "gallery 1"),
        lambda: index.save(path, "gallery 2"),
        lambda: path.write_bytes(good[:-10]),
        lambda: path.write_bytes(b"[]"),
        lambda: save_file(tensors, path),
    ):
        change()
        with pytest.raises(ValueError, match="codes.safetensors"):
            QuantisedIndex(precision, IDS, VECTORS).load(path, "gallery 1")
    path.write_bytes(good)
    QuantisedIndex(precision, IDS, VECTORS).load(path, "gallery 1")


@pytest.mark.parametrize("wrong", [{"precision": "int4"}, {"precision": "int8", "rescore": 0}])
def test_settings_out_of_range(wrong):
    with pytest.raises(ValueError, match="int8"):
        QuantisedIndex(**wrong)
