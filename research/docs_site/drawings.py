"""Draw the pictures of "How it works".

python -m research.docs_site.drawings            # write docs/figures/how_*.svg
python -m research.docs_site.drawings --check    # exit with 1 if one of them differs
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from research.docs_site.drawing import Drawing

FOLDER = Path(__file__).parents[2] / "docs" / "figures"


def contextcir_fusion() -> Drawing:
    """`f(I, T)`, and what it is compared with."""
    d = Drawing(
        840,
        330,
        "ConText-CIR: tokens of the text are the queries of a cross-attention to those of the reference image. The"
        " pooled rows are the query embedding. Gallery images pass the same way with the empty text.",
    )
    d.scene(20, 26, 78, "red", "blue")
    d.words(59, 118, "reference $I_q$", kind="faint")
    d.box(20, 168, 156, 34, "“make the circle blue”", "text")
    d.words(98, 217, "modification text $T$", kind="faint")
    d.box(212, 40, 88, 50, "$φ_I$\nCLIP’s image", "image")
    d.box(212, 160, 88, 50, "$φ_T$\nCLIP’s text", "text")
    d.arrow((98, 65), (208, 65))
    d.arrow((176, 185), (208, 185))
    d.tokens(332, 57, 5, "image")
    d.tokens(332, 177, 5, "text")
    d.arrow((300, 65), (328, 65))
    d.arrow((300, 185), (328, 185))
    d.words(379, 96, "1 + patches", kind="faint")
    d.words(379, 216, "words", kind="faint")
    d.box(466, 40, 122, 170, "$φ_A$\ncross-attention,\nfeed-forward\n× 2", "new")
    d.arrow((429, 65), (462, 65))
    d.words(447, 44, "$K, V$", kind="faint")
    d.arrow((429, 185), (462, 185), label="$Q$")
    d.box(620, 92, 80, 66, "$φ_P$\nattention\npooling", "new")
    d.arrow((588, 125), (616, 125))
    d.box(732, 101, 88, 48, "$f(I_q, T)$", "paper")
    d.arrow((700, 125), (728, 125))
    d.scene(20, 246, 62, "blue", "blue")
    d.words(98, 277, "each gallery image $I_t$,\nwith the empty text", "start", "faint")
    d.box(466, 257, 234, 40, "the same $φ_I, φ_T, φ_A, φ_P$", "given")
    d.arrow((240, 277), (462, 277))
    d.box(732, 253, 88, 48, "$f(I_t, $“”$)$", "paper")
    d.arrow((700, 277), (728, 277))
    d.arrow((776, 249), (776, 153), label="")
    d.words(786, 201, "cosine", "start", "faint")
    return d


def contextcir_losses() -> Drawing:
    """The contrastive loss as a matrix, and the loss of one noun phrase as three maps."""
    d = Drawing(
        840,
        330,
        "The losses of ConText-CIR. Left: each query against all targets of the batch and its own reference image."
        " Right: the attention of a noun phrase in its text, that of the phrase alone, and what the first has more.",
    )
    d.words(150, 18, "contrastive loss", kind="title")
    size, left, top = 30, 96, 66
    for row in range(4):
        d.words(left - 8, top + size * (row + 0.5), f"$f(I_{{q{row + 1}}}, T_{row + 1})$", "end")
        d.map(left, top + size * row, [[0.85 if row == column else 0.12 for column in range(4)]], "blue", size)
        d.map(left + 4 * size + 14, top + size * row, [[0.45]], "strong", size)
    d.words(left + 1.7 * size, top - 18, "targets $f(I_t, $“”$)$", kind="faint")
    d.words(left + 4 * size + 40, top - 27, "own\n$f(I_q, $“”$)$", kind="faint")
    d.words(left + 2.6 * size, top + 4 * size + 26, "Each row is a softmax of cosines over $τ$:", kind="faint")
    d.words(left + 2.6 * size, top + 4 * size + 46, "up on the diagonal, down elsewhere.", kind="faint")
    d.words(576, 18, "concept-consistency loss, of one noun phrase", kind="title")
    context = [[0.1, 0.2, 0.1, 0], [0.2, 0.85, 0.3, 0], [0.1, 0.3, 0.1, 0.35], [0, 0, 0.3, 0.6]]
    isolated = [[0.1, 0.3, 0.1, 0], [0.3, 0.95, 0.4, 0], [0.1, 0.4, 0.1, 0.05], [0, 0, 0.05, 0.05]]
    more = [[max(a - b, 0) for a, b in zip(*lines, strict=True)] for lines in zip(context, isolated, strict=True)]
    for place, values in enumerate((context, isolated, more)):
        d.map(342 + 172 * place, 66, values, "strong" if place < 2 else "red", 30)
    d.words(482, 126, "–")
    d.words(656, 126, "→")
    d.words(402, 222, "$a$: the tokens of\n“the circle” in\n“make the circle blue”")
    d.words(574, 213, "$b$: “the circle”\nalone")
    d.words(746, 222, "ReLU($a – b – ε$),\nsummed over\nthe patches")
    d.words(
        574,
        286,
        "Both maps sum to 1. With $ε$ = 0 the sum is their total variation distance, in [0, 1].",
        kind="faint",
    )
    d.words(574, 306, "$b$ carries no gradient, unless it is asked for.", kind="faint")
    return d


def instructcir_model() -> Drawing:
    """One block of the image encoder, the predictor, and the target encoder."""
    d = Drawing(
        840,
        350,
        "InstructCIR: each block of the image encoder attends to the text between its self-attention and its MLP. A"
        " predictor g gives the reformulated embedding. Targets come from a moving average of the model with the null"
        " text.",
    )
    d.box(20, 40, 156, 34, "“make the circle blue”", "text")
    d.words(98, 24, "text $t$", kind="faint")
    d.box(212, 32, 88, 50, "$φ_t$\nCLIP’s text", "text")
    d.arrow((176, 57), (208, 57))
    d.scene(20, 128, 78, "red", "blue")
    d.words(59, 221, "reference", kind="faint")
    d.box(140, 118, 350, 98, "", "given")
    d.words(152, 205, "a block of the image encoder $f$, × its depth", "start", "faint")
    d.box(152, 130, 98, 58, "self-\nattention", "image")
    d.box(266, 130, 98, 58, "cross-\nattention", "new")
    d.box(380, 130, 98, 58, "MLP", "image")
    d.arrow((98, 159), (148, 159))
    d.arrow((250, 159), (262, 159))
    d.arrow((364, 159), (376, 159))
    d.line((300, 57), (315, 57))
    d.arrow((315, 57), (315, 126), label="tokens of the text")
    d.box(536, 130, 66, 58, "$g$\npredictor", "new")
    d.arrow((490, 159), (532, 159))
    d.arrow((315, 57), (569, 57), (569, 126))
    d.words(440, 45, "embedding of the text $φ_t(t)$", kind="faint")
    d.box(650, 135, 60, 48, "$e_r$", "paper")
    d.arrow((602, 159), (646, 159))
    d.box(744, 85, 76, 48, "$e_f$", "paper")
    d.arrow((569, 57), (782, 57), (782, 81))
    d.arrow((710, 159), (782, 159), (782, 137))
    d.words(800, 68, "1 – $λ$", "start", "faint")
    d.words(790, 150, "$λ$", "start", "faint")
    d.scene(20, 258, 62, "blue", "blue")
    d.words(96, 289, "target image,\nnull text", "start", "faint")
    d.box(212, 264, 390, 50, "moving average of $φ_t, f, g$: no gradient", "given")
    d.arrow((184, 289), (208, 289))
    d.box(650, 265, 60, 48, "$e_t$", "paper")
    d.arrow((602, 289), (646, 289))
    d.arrow((407, 220), (407, 260), dashed=True)
    d.words(417, 240, "after each step", "start", "faint")
    d.arrow((680, 187), (680, 261))
    d.words(690, 224, "contrastive loss", "start", "faint")
    return d


def good4cir_stages() -> Drawing:
    """From two images to texts."""
    d = Drawing(
        840,
        300,
        "good4cir: stage 1 lists the objects of the reference image, stage 2 those of the target image with the first"
        " list at hand, stage 3 writes the differences of both lists without an image. Gates drop what"
        " cannot be used, and further texts join several differences.",
    )
    d.scene(20, 30, 78, "red", "blue")
    d.words(59, 122, "reference", kind="faint")
    d.scene(20, 166, 78, "blue", "blue")
    d.words(59, 258, "target", kind="faint")
    d.box(140, 36, 120, 66, "1\nlist its objects", "image")
    d.box(140, 172, 120, 66, "2\nlist its objects,\nlist 1 at hand", "image")
    d.arrow((98, 69), (136, 69))
    d.arrow((98, 205), (136, 205))
    d.arrow((200, 102), (200, 168))
    d.box(298, 36, 156, 66, "circle: red, left\nsquare: blue, right", "given")
    d.box(298, 172, 156, 66, "circle: blue, left\nsquare: blue, right", "given")
    d.arrow((260, 69), (294, 69))
    d.arrow((260, 205), (294, 205))
    d.box(500, 104, 116, 66, "3\nwrite the\ndifferences", "text")
    d.arrow((454, 69), (477, 69), (477, 125), (496, 125))
    d.arrow((454, 205), (477, 205), (477, 149), (496, 149))
    d.words(558, 190, "sees no image", kind="faint")
    d.box(648, 104, 76, 66, "gates", "new")
    d.arrow((616, 137), (644, 137))
    d.words(686, 190, "rules, no model", kind="faint")
    d.box(700, 28, 124, 44, "“make the circle\nblue”", "text")
    d.arrow((686, 100), (686, 50), (696, 50))
    d.box(700, 232, 124, 44, "“…, and remove\nthe square”", "text")
    d.arrow((724, 137), (762, 137), (762, 228), label="")
    d.words(770, 160, "4\njoin\nseveral", "start", "faint")
    return d


def imagescope_stages() -> Drawing:
    """Reasoning, retrieval, verification and evaluation."""
    d = Drawing(
        840,
        330,
        "ImageScope: a captioner describes images, a reasoner describes the target three times, CLIP retrieves, a"
        " verifier answers yes or no about the best twenty, an evaluator accepts or rejects the best three.",
    )
    d.words(158, 18, "1  reason and retrieve", kind="title")
    d.words(500, 18, "2  verify", kind="title")
    d.words(752, 18, "3  evaluate", kind="title")
    d.scene(20, 44, 66, "red", "blue")
    d.box(116, 52, 100, 50, "captioner", "image")
    d.arrow((86, 77), (112, 77))
    d.box(20, 136, 196, 34, "“make the circle blue”", "text")
    d.box(258, 86, 104, 66, "reasoner", "text")
    d.arrow((216, 77), (237, 77), (237, 106), (254, 106))
    d.arrow((216, 153), (237, 153), (237, 132), (254, 132))
    d.box(236, 196, 148, 62, "core, detailed and\ncomprehensive\ndescription", "given")
    d.arrow((310, 152), (310, 192))
    d.box(60, 202, 136, 50, "CLIP: images,\nand their captions", "image")
    d.arrow((236, 227), (200, 227))
    d.box(20, 282, 216, 34, "a ranking of the gallery", "paper")
    d.arrow((128, 252), (128, 278))
    d.box(420, 44, 166, 80, "questions with\nthe expected answer\n“Is the circle blue?” yes", "given")
    d.arrow((362, 104), (416, 84))
    d.box(446, 162, 114, 50, "verifier", "new")
    d.arrow((503, 124), (503, 158))
    d.line((236, 299), (414, 299))
    d.arrow((414, 299), (414, 187), (442, 187))
    d.words(326, 286, "best $k$ = 20", kind="faint")
    d.box(420, 250, 166, 50, "sorted by the number\nof right answers", "paper")
    d.arrow((503, 212), (503, 246))
    d.box(690, 162, 124, 50, "evaluator", "new")
    d.arrow((586, 275), (638, 275), (638, 187), (686, 187))
    d.words(612, 262, "best", kind="faint")
    d.words(612, 290, "$α$ = 3", kind="faint")
    d.scene(722, 44, 60, "red", "blue")
    d.words(752, 118, "reference and text", kind="faint")
    d.arrow((752, 130), (752, 158))
    d.box(690, 250, 124, 50, "accepted ones\nto the front", "paper")
    d.arrow((752, 212), (752, 246))
    return d


DRAWINGS = (contextcir_fusion, contextcir_losses, instructcir_model, good4cir_stages, imagescope_stages)


def main(argv: Sequence[str]) -> int:
    """Write the drawings, or check them. Returns the exit code: 1 if one is stale."""
    files = {FOLDER / f"how_{draw.__name__}.svg": draw().svg() for draw in DRAWINGS}
    stale = [path for path, text in files.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if "--check" in argv:
        for path in stale:
            print(f"{path.name} is stale. Run `python -m research.docs_site.drawings`.")
        return int(bool(stale))
    for path in stale:
        path.write_text(files[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
