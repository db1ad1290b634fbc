"""Learning rates over a run, as factors of the highest."""

import math


def cosine_with_restarts(step: int, *, warmup_steps: int, total_steps: int, num_cycles: int, floor: float) -> float:
    """Factor of the learning rate: linear warm-up to 1, then `num_cycles` cosines from 1 down to `floor`."""
    if step < warmup_steps:
        return step / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if progress >= 1:
        return floor
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (progress * num_cycles % 1)))
