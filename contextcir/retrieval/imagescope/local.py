"""A local transformers pipeline in one of ImageScope's roles, without a server.

Nothing holds its answers to a schema while they are written: the schema stands in the prompt, and what comes is parsed
as a server's would be. A malformed answer is asked for once more, and sampled this time. One question is answered at a
time; a server that batches (vLLM) is many times faster.
"""

import asyncio

from contextcir.chat.answers import parse_answer, schema_prompt
from contextcir.chat.server import Ask, ChatRequest, Outcome
from contextcir.data.images import load_image


def pipeline_ask(pipeline, *, max_new_tokens: int = 1024) -> Ask:
    """
    What asks a pipeline.

    Args:
        pipeline (`transformers.Pipeline`): Of the task `image-text-to-text`, or `text-generation` for the reasoner,
            with a model that has a chat template.
        max_new_tokens (`int`, *optional*, defaults to 1024): Of an answer.

    Returns:
        `Ask`: For a [`~contextcir.retrieval.imagescope.roles.Role`].
    """
    one_at_a_time = asyncio.Semaphore(1)

    async def ask(request: ChatRequest) -> Outcome:
        async with one_at_a_time:
            outcome = await asyncio.to_thread(_answer, pipeline, request, max_new_tokens, False)
            if outcome.kind == "malformed":
                outcome = await asyncio.to_thread(_answer, pipeline, request, max_new_tokens, True)
        return outcome

    return ask


def _answer(pipeline, request: ChatRequest, max_new_tokens: int, sampled: bool) -> Outcome:
    text = request.prompt if request.schema is None else f"{request.prompt}\n\n{schema_prompt(request.schema)}"
    options = {"max_new_tokens": max_new_tokens, "return_full_text": False}
    if pipeline.task == "image-text-to-text":
        shown = [{"type": "image", "image": load_image(image)} for image in request.images]
        messages = [{"role": "user", "content": [*shown, {"type": "text", "text": text}]}]
        generated = pipeline(text=messages, generate_kwargs={"do_sample": sampled}, **options)
    elif request.images:
        raise ValueError(f"The {request.role} is shown images, and a pipeline for {pipeline.task} sees none.")
    else:
        generated = pipeline([{"role": "user", "content": text}], do_sample=sampled, **options)
    text, model = generated[0]["generated_text"], pipeline.model.name_or_path
    if request.schema is None:
        return Outcome("answered", text, text, model=model)
    try:
        return Outcome("answered", parse_answer(text, request.schema), text, model=model)
    except ValueError as error:
        return Outcome("malformed", text=text, error=str(error), model=model)
