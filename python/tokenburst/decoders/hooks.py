"""Entry points for `model.generate(..., custom_generate=...)` of transformers."""

from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria


def check_generation(
    hook: str,
    logits_processor: LogitsProcessorList | None,
    stopping_criteria: StoppingCriteriaList | None,
    generation_config: GenerationConfig,
) -> None:
    """ValueError for what transformers was asked to do and a hook does not do."""
    config = generation_config
    refused = {
        "logits_processor": [type(p).__name__ for p in logits_processor or []],
        "stopping_criteria": [
            type(c).__name__
            for c in stopping_criteria or []
            if not isinstance(c, (EosTokenCriteria, MaxLengthCriteria))
        ],
    }
    for name, got in refused.items():
        if got:
            raise ValueError(f"{hook}: {name}: expected none, got {', '.join(got)}")
    for name, only in (("num_beams", 1), ("num_return_sequences", 1)):
        if (getattr(config, name, None) or only) != only:
            raise ValueError(f"{hook}: {name}: expected {only}, got {getattr(config, name)}")


def new_token_limit(input_ids: Tensor, generation_config: GenerationConfig) -> int:
    """Tokens to generate: transformers has resolved max_new_tokens into max_length by now."""
    return max(0, generation_config.max_length - input_ids.shape[1])


def refuse_unknown(hook: str, given: dict) -> None:
    """ValueError for keyword arguments that are not what transformers itself passes along."""
    own = {
        "position_ids",
        "past_key_values",
        "cache",
        "use_cache",
        "logits_to_keep",
        "streamer",
        "synced_gpus",
    }
    unknown = sorted(set(given) - own)
    if unknown:
        raise ValueError(f"{hook}: expected no argument {', '.join(unknown)}")
    if given.get("streamer") is not None:
        raise ValueError(f"{hook}: streamer: expected None (decoders take a callback), got one")
