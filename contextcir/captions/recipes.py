"""The prompts of each recipe: `contextcir/captions/prompts/<recipe>/<stage>.txt`, or the user's own files."""

from pathlib import Path

from contextcir.chat.prompts import Prompt, read_prompt

FOLDER = Path(__file__).with_name("prompts")
PLACES = {  # recipe -> stage -> the placeholders of its prompt
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
        folder (`str` or `Path`, *optional*): Its files replace the default prompts; a stage without a file keeps its
            default.

    Returns:
        `dict[str, Prompt]`: Maps each stage to its prompt.

    Raises:
        `ValueError`: The folder has none of the files, or a file has no version or other placeholders than its stage.
    """
    places = PLACES[recipe]
    files = {stage: FOLDER / recipe / f"{stage}.txt" for stage in places}
    if folder:
        own = {stage: Path(folder, path.name) for stage, path in files.items() if Path(folder, path.name).is_file()}
        if not own:
            names = ", ".join(path.name for path in files.values())
            raise ValueError(f"{folder} holds no prompts of {recipe}. Put one or more of {names} there.")
        files |= own
    prompts = {stage: read_prompt(path) for stage, path in files.items()}
    for stage, prompt in prompts.items():
        if prompt.places != set(places[stage]):
            wanted = ", ".join(f"{{{name}}}" for name in places[stage]) or "none"
            raise ValueError(f"{files[stage]} has the placeholders {sorted(prompt.places)}, expected {wanted}.")
    return prompts
