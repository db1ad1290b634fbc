"""Methods that need a CLIP and no training on triplets, each from its paper.

- `compose`: image, text, sum, slerp, product
- `basic`: BASIC (Psomas et al., NeurIPS 2025)
- `inversion`: a picture as a word: Pic2Word (Saito et al., CVPR 2023), SEARLE (Baldrati et al., ICCV 2023)
- `cirevl`: caption, reason, retrieve: CIReVL (Karthik et al., ICLR 2024)
"""
