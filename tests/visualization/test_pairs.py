"""The nearest and the farthest pairs, with their similarities."""

import pytest
from PIL import Image

from contextcir.data.pairs import Pair
from contextcir.visualization import pairs_figure
from tests.visualization.layout import check_layout, texts


def pairs(count):
    shapes = ((90, 30), (30, 90), (40, 40))
    made = []
    for n in range(count):
        images = (Image.new("RGB", shapes[n % 3], (9 * n, 0, 0)), Image.new("RGB", (40, 40), (0, 9 * n, 0)))
        made.append(Pair(*images, f"a{n}", f"b{n}", similarity=0.7 + n / 100))
    return made


@pytest.mark.parametrize("count", [1, 3, 10, 25])
def test_the_nearest_and_the_farthest(count):
    figure = pairs_figure(pairs(count)[::-1])
    check_layout(figure)
    numbers = [text for text in texts(figure) if text.startswith("0.")]
    rising = [f"{0.7 + n / 100:.3f}" for n in range(count)]
    assert numbers == rising[::-1][:10] + rising[:10]
    assert len(figure.axes[0].images) == 2 * len(numbers)


def test_pairs_without_a_similarity_are_refused():
    with pytest.raises(ValueError, match="1 pairs.*similarity"):
        pairs_figure([Pair("a.png", "b.png", "a", "b")])
    with pytest.raises(ValueError, match="0 pairs"):
        pairs_figure([])
