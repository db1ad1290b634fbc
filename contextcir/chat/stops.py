"""The errors of a server that every request would meet: one sentence each, with what to do."""

from contextcir.chat.exchange import ChatStop

ALWAYS = ("key", "quota", "queue", "model")  # kinds that end a run even after answers


def stop_for(kind: str, text: str, model: str, num_images: int) -> ChatStop | None:
    """
    Return the reason to stop for a kind of error, or `None` if it concerns one request.

    Args:
        kind (`str`): From [`~contextcir.chat.errors.kind_of`].
        text (`str`): The server's words, fit to print.
        model (`str`): The requested model.
        num_images (`int`): Images of the request.
    """
    if kind in ("quota", "queue"):
        return ChatStop("quota", f"The quota is exhausted ({text}). Raise it and run again.")
    if kind in ("key", "forbidden"):
        return ChatStop("key", f"The key was rejected ({text}). Set OPENAI_API_KEY or give a file with the key.")
    if kind == "model":
        return ChatStop("model", f"There is no model {model!r} ({text}). Check the model and the base_url.")
    if kind == "address":
        return ChatStop("address", f"This is no chat API ({text}). Check the base_url: most end in /v1.")
    if kind == "images" and num_images:
        return ChatStop("images", f"{model!r} takes no images ({text}). Choose a model that does.")
    if kind == "one_image" and num_images > 1:
        return ChatStop(
            "images",
            f"{model!r} takes one image, and a request has {num_images} ({text}). Choose another model, or raise the"
            " limit of the server (vLLM: --limit-mm-per-prompt).",
        )
    return None


def enough_images(kind: str) -> int:
    """Return how many images a request must have had whose answer shows that an error is not everyone's."""
    return {"images": 1, "one_image": 2}.get(kind, 0)
