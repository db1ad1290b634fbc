"""A local transformers pipeline as one of ImageScope's roles, without a server.

Decoding is not constrained to the schema: the prompt contains the schema, and the answer is parsed like a server's. A
malformed answer is asked for once more, with sampling. Questions are answered one at a time; a server that batches
(vLLM) is many times faster.
"""

import asyncio
from typing import Any

from contextcir.chat.answers import parse_answer
from contextcir.chat.exchange import Ask, ChatRequest, Outcome
from contextcir.chat.plain_text import unicode_text
from contextcir.chat.schemas import schema_prompt
from contextcir.data.images import load_image


def pipeline_ask(pipeline: Any, *, max_new_tokens: int = 1024) -> Ask:
    """
    Make a function that asks a pipeline.

    Args:
        pipeline (`transformers.Pipeline`): For the task `image-text-to-text`, or `text-generation` for the reasoner,
            with a model that has a chat template.
        max_new_tokens (`int`, *optional*, defaults to 1024): Maximum length of an answer.

    Returns:
        `Ask`: For a [`~contextcir.retrieval.imagescope.roles.Role`]. Images for `text-generation` are a `ValueError`.
    """
    one_at_a_time = asyncio.Semaphore(1)

    async def ask(request: ChatRequest) -> Outcome:
        async with one_at_a_time:
            outcome = await asyncio.to_thread(_answer, pipeline, request, max_new_tokens, False)
            if outcome.kind == "malformed":
                outcome = await asyncio.to_thread(_answer, pipeline, request, max_new_tokens, True)
        return outcome

    return ask


def _answer(pipeline: Any, request: ChatRequest, max_new_tokens: int, do_sample: bool) -> Outcome:
    text = request.prompt if request.schema is None else f"{request.prompt}\n\n{schema_prompt(request.schema)}"
    options = {"max_new_tokens": max_new_tokens, "return_full_text": False}
    if pipeline.task == "image-text-to-text":
        shown = [{"type": "image", "image": load_image(image)} for image in request.images]
        messages = [{"role": "user", "content": [*shown, {"type": "text", "text": text}]}]
        generated = pipeline(text=messages, generate_kwargs={"do_sample": do_sample}, **options)
    elif request.images:
        raise ValueError(
            f"The {request.role} needs images: got a pipeline for {pipeline.task}, expected one with images."
        )
    else:
        generated = pipeline([{"role": "user", "content": text}], do_sample=do_sample, **options)
    text, model = unicode_text(generated[0]["generated_text"]), pipeline.model.name_or_path
    if request.schema is None:
        return Outcome("answered", text, text, model=model)
    try:
        return Outcome("answered", parse_answer(text, request.schema), text, model=model)
    except ValueError as error:
        return Outcome("malformed", text=text, error=str(error), model=model)
