"""The prompts of each recipe: `contextcir/captions/prompts/<recipe>/<stage>.txt`, or files of the user's instead."""

from pathlib import Path

from contextcir.chat.prompts import Prompt, read_prompt

FOLDER = Path(__file__).with_name("prompts")
RECIPES = {  # recipe -> stage -> what its prompt is given
    "good4cir": {
        "reference_objects": (),
        "target_objects": ("reference_objects",),
        "differences": ("reference_objects", "target_objects"),
    },
    "instructcir": {"image_caption": (), "reformulation": ("caption_a", "caption_b")},
}


def load_prompts(recipe: str, folder: str | Path | None = None) -> dict[str, Prompt]:
    """
    Read the prompts of a recipe.

    Args:
        recipe (`str`): `good4cir` or `instructcir`.
        folder (`str` or `Path`, *optional*): Its files replace ours; stages that it has no file for keep ours.

    Returns:
        `dict[str, Prompt]`: One for each stage.

    Raises:
        `ValueError`: The folder has none of the files, or a file has no version or other places than its stage fills.
    """
    stages, folder = RECIPES[recipe], Path(folder) if folder else None
    files = {stage: FOLDER / recipe / f"{stage}.txt" for stage in stages}
    if folder:
        own = {stage: folder / path.name for stage, path in files.items() if (folder / path.name).is_file()}
        if not own:
            names = ", ".join(path.name for path in files.values())
            raise ValueError(f"{folder} holds no prompts of {recipe}. Put one or more of {names} there.")
        files |= own
    prompts = {stage: read_prompt(path) for stage, path in files.items()}
    for stage, prompt in prompts.items():
        if prompt.places != set(stages[stage]):
            wanted = ", ".join(f"{{{name}}}" for name in stages[stage]) or "none"
            raise ValueError(
                f"{files[stage]} has the places {sorted(prompt.places)}, expected {wanted}. They are where the data"
                " goes."
            )
    return prompts
