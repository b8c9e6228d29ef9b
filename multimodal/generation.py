"""Texts from prompts, in batches."""

from collections.abc import Callable, Sequence

from core.training.runtime import Runtime
from multimodal.batch import Prompt
from multimodal.captioner import Captioner
from multimodal.ctc import agreed
from multimodal.reading import Reader
from multimodal.store import MediaStore


def answer(
    captioner: Captioner,
    reader: Reader,
    prompts: Sequence[Prompt],
    store: MediaStore,
    runtime: Runtime,
    *,
    beams: int = 1,
    batch_size: int = 64,
    on_token: Callable[[list[int], list[int]], None] | None = None,
) -> list[str]:
    """The captioner's text for every prompt; for sounds that it was trained to spell, as both ways of reading agree.

    Args:
        captioner: the model.
        reader: made the prompts.
        prompts: what to answer.
        store: holds their media.
        runtime: device and precision.
        beams: width of the beam; 1 is greedy.
        batch_size: prompts at a time, those of about equal length together.
        on_token: called with rows and tokens as they come, where all prompts are one batch and `beams` is 1.
    """
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].ids))
    texts = [""] * len(prompts)
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        contexts = reader.contexts([prompts[index] for index in part], store).to(runtime.device)
        with runtime.autocast():
            if beams == 1:
                samples = captioner.sample(contexts, greedy=True, on_token=on_token)
            else:
                samples = captioner.beam(contexts, beams=beams)
            answers = samples.lists()
            if captioner.ctc_weight:
                answers = agreed(captioner, contexts, answers)
        for index, ids in zip(part, answers):
            texts[index] = reader.text(ids)
    return texts
