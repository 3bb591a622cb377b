"""Tree decoding from inside transformers: `model.generate(..., custom_generate=...)`."""

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import logits_process as processors
from transformers.generation.stopping_criteria import StopStringCriteria
from transformers.generation.streamers import BaseStreamer
from transformers.generation.utils import GenerateDecoderOnlyOutput

from tokenburst.decoders.drafting import Drafter
from tokenburst.decoders.hooks import check_generation, new_token_limit, refuse_unknown
from tokenburst.decoders.plain import PlainDrafter
from tokenburst.decoders.recycling import TokenRecycling
from tokenburst.decoders.session import Session
from tokenburst.decoders.tree import TreeDecoder

# In the order in which they are applied here and in transformers.
_PARAMETERS = (
    (processors.RepetitionPenaltyLogitsProcessor, "penalty", "repetition_penalty"),
    (processors.TemperatureLogitsWarper, "temperature", "temperature"),
    (processors.TopKLogitsWarper, "top_k", "top_k"),
    (processors.TopPLogitsWarper, "top_p", "top_p"),
    (processors.MinPLogitsWarper, "min_p", "min_p"),
)


def tree_generate(
    model: torch.nn.Module,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList | None = None,
    stopping_criteria: StoppingCriteriaList | None = None,
    generation_config: GenerationConfig | None = None,
    drafter: Drafter | None = None,
    verify: str | None = None,
    seed: int | None = None,
    session: Session | None = None,
    stream: BaseStreamer | None = None,
    **model_kwargs: Any,
) -> Tensor | GenerateDecoderOnlyOutput:
    """`TreeDecoder.generate` in the form that `model.generate(custom_generate=...)` calls.

    do_sample, temperature, top_k, top_p, min_p, repetition_penalty, max_new_tokens, eos and pad
    ids and return_dict_in_generate are taken from the call or the generation config. transformers
    passes `tokenizer` and `streamer` to no hook: give stop strings as
    `stopping_criteria=[StopStringCriteria(tokenizer, strings)]`, a streamer as `stream`.

    Args:
        drafter: what guesses the next tokens; None = nothing.
        verify: see `TreeDecoder.generate`.
        seed: of all chance; None draws one from torch's generator, as `torch.manual_seed` set it.
        session: see `TreeDecoder.generate`.
        stream: the `streamer` of `TreeDecoder.generate`.

    Returns:
        [B, P + n] int64, or a `GenerateDecoderOnlyOutput` with return_dict_in_generate.

    Raises:
        ValueError: beams, other logits processors or stopping criteria, unknown arguments.

    Example:
        >>> model.generate(**inputs, custom_generate=tree_generate, drafter=TokenRecycling())
    """
    hook = "tree_generate"
    config = generation_config or model.generation_config
    chance = sampling_parameters(hook, logits_processor, bool(config.do_sample))
    if seed is None:
        seed = int(torch.randint(2**31, ())) if config.do_sample else 0
    stops = [c for c in stopping_criteria or [] if isinstance(c, StopStringCriteria)]
    others = [c for c in stopping_criteria or [] if c not in stops[:1]]
    check_generation(hook, None, others, config)
    attention_mask = model_kwargs.pop("attention_mask", None)
    refuse_unknown(hook, model_kwargs)
    output = TreeDecoder(model, drafter or PlainDrafter()).generate(
        input_ids,
        attention_mask,
        max_new_tokens=new_token_limit(input_ids, config),
        **chance,
        seed=seed,
        verify=verify,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        stop_strings=stops[0] if stops else None,
        session=session,
        streamer=stream,
    )
    if config.return_dict_in_generate:
        return GenerateDecoderOnlyOutput(sequences=output.sequences)
    return output.sequences


def token_recycling(
    model: torch.nn.Module,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList | None = None,
    stopping_criteria: StoppingCriteriaList | None = None,
    generation_config: GenerationConfig | None = None,
    drafter: TokenRecycling | None = None,
    verify: str | None = None,
    seed: int | None = None,
    session: Session | None = None,
    stream: BaseStreamer | None = None,
    **model_kwargs: Any,
) -> Tensor | GenerateDecoderOnlyOutput:
    """`tree_generate` with Token Recycling.

    Pass `drafter=TokenRecycling(...)` to keep its matrix from call to call.

    Raises:
        ValueError: as `tree_generate`.
    """
    return tree_generate(
        model,
        input_ids,
        logits_processor,
        stopping_criteria,
        generation_config,
        drafter=drafter or TokenRecycling(),
        verify=verify,
        seed=seed,
        session=session,
        stream=stream,
        **model_kwargs,
    )


def sampling_parameters(
    hook: str, logits_processor: LogitsProcessorList | None, do_sample: bool
) -> dict[str, Any]:
    """The parameters behind transformers' processors; ValueError for one that has none here."""
    found: dict[str, Any] = {"temperature": 1.0 if do_sample else 0.0}
    given, place = list(logits_processor or []), -1
    for processor in given:
        kinds = [i for i, (kind, _, _) in enumerate(_PARAMETERS) if type(processor) is kind]
        # Padding, as a tensor, is ignored here too.
        part = isinstance(getattr(processor, "prompt_ignore_length", None), int)
        if not kinds or kinds[0] <= place or part:
            known = ", ".join(kind.__name__ for kind, _, _ in _PARAMETERS)
            raise ValueError(
                f"{hook}: logits_processor: expected at most {known}, in this order and over the "
                f"whole text, got {', '.join(type(p).__name__ for p in given)}"
            )
        place = kinds[0]
        _, attribute, name = _PARAMETERS[place]
        if name != "temperature" or do_sample:
            found[name] = getattr(processor, attribute)
    return found
