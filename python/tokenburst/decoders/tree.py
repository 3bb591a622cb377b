"""Greedy decoding with draft trees; the output is that of plain greedy decoding."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.utils import GenerateDecoderOnlyOutput

from tokenburst.decoders.autotree import TreeSizer
from tokenburst.decoders.common import check_ids, end_tokens, pack_prompts, whole
from tokenburst.decoders.drafting import Drafter
from tokenburst.decoders.hooks import check_generation, new_token_limit, refuse_unknown
from tokenburst.decoders.plain import PlainDrafter
from tokenburst.decoders.recycling import TokenRecycling
from tokenburst.decoders.treerun import TreeRun, TreeStats
from tokenburst.decoders.treetext import TreeText
from tokenburst.models.attention import installed


@dataclass(frozen=True)
class TreeOutput:
    """Result of a generation."""

    sequences: Tensor  # [B, P + longest] int64: the prompt as given, the new tokens, then padding
    stats: TreeStats


class TreeDecoder:
    """Decodes with a causal language model of transformers, many tokens per forward.

    Args:
        model: a stock Llama, Qwen2 or Qwen3 model for causal language modelling.
        drafter: what fills the tree; None decodes plainly, one token per forward, through the
            same kernels.

    Raises:
        ValueError: a model of no supported architecture.
    """

    def __init__(self, model: torch.nn.Module, drafter: Drafter | None = None) -> None:
        self._installed = installed(model)
        self.model, self.drafter = model, drafter or PlainDrafter()
        self._sizer = TreeSizer()

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        max_new_tokens: int = 128,
        eos_token_id: int | Sequence[int] | None = None,
        pad_token_id: int | None = None,
        cache_length: int | None = None,
        callback: Callable[[Tensor, Tensor], None] | None = None,
    ) -> TreeOutput:
        """Greedy continuation of each prompt; each row is decoded as if it were alone.

        Args:
            input_ids: [B, P] int64, padded on either side.
            attention_mask: [B, P], non-zero at real tokens; None = all are real.
            max_new_tokens: most new tokens per sequence.
            eos_token_id: ids that end a sequence; default: the model's generation config.
            pad_token_id: fills ended sequences; default: the model's, the first eos id, or 0.
            cache_length: rows of the KV cache per sequence; default: as many as needed.
            callback: called after each step with the new tokens so far [B, ...] and their number
                [B], both device tensors that change with the next step.

        Returns:
            `TreeOutput` with sequences [B, P + longest] int64 and statistics.

        Raises:
            ValueError: wrong shapes or dtypes, ids outside the vocabulary, an empty prompt, or a
                cache that is too small.
            RuntimeError: the model's logits hold no number somewhere.
        """
        if max_new_tokens < 0:
            raise ValueError(f"generate: max_new_tokens: expected >= 0, got {max_new_tokens}")
        model = self.model
        vocab_size = model.get_output_embeddings().weight.shape[0]
        eos, pad = end_tokens(model, eos_token_id, pad_token_id)
        check_ids("input_ids", input_ids, vocab_size)
        check_ids("eos_token_id", torch.tensor(eos), vocab_size)
        given = input_ids.to(model.device)
        prompt, lengths = pack_prompts(given, attention_mask)
        if len(given) == 0 or max_new_tokens == 0:
            return TreeOutput(sequences=given, stats=TreeStats(0, [0] * len(given), 1, [], 0.0, {}))
        self.drafter.bind(vocab_size, model.device)
        with torch.inference_mode(), self._installed:
            limit = torch.full_like(lengths, max_new_tokens)
            widest = whole(self.drafter.most_nodes)
            text = TreeText(prompt, lengths, limit, max_new_tokens, eos, widest)
            run = TreeRun(self.model, self.drafter, self._sizer, text, cache_length)
            new_tokens, counts, stats = run.decode(callback)
        # Outside inference mode from here, so that the result is an ordinary tensor.
        new_tokens = new_tokens[:, : int(counts.max())]
        column = torch.arange(new_tokens.shape[1], device=new_tokens.device)
        if bool((new_tokens < 0).any()):
            raise RuntimeError("generate: expected logits that are numbers, got NaN or -inf alone")
        new_tokens = new_tokens.masked_fill(column >= counts[:, None], pad)
        return TreeOutput(sequences=torch.cat([given, new_tokens], dim=1), stats=stats)


def token_recycling(
    model: torch.nn.Module,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList | None = None,
    stopping_criteria: StoppingCriteriaList | None = None,
    generation_config: GenerationConfig | None = None,
    drafter: TokenRecycling | None = None,
    **model_kwargs: Any,
) -> Tensor | GenerateDecoderOnlyOutput:
    """Token Recycling inside transformers: `model.generate(ids, custom_generate=token_recycling)`.

    Greedy only. Pass `drafter=TokenRecycling(...)` to keep its matrix from call to call. Returns
    sequences [B, P + n], or a `GenerateDecoderOnlyOutput` with return_dict_in_generate.

    Raises:
        ValueError: sampling, beams, logits processors, stopping criteria but length and eos.
    """
    generation_config = generation_config or model.generation_config
    if generation_config.do_sample:
        raise ValueError("token_recycling: do_sample: expected False (greedy decoding), got True")
    check_generation("token_recycling", logits_processor, stopping_criteria, generation_config)
    attention_mask = model_kwargs.pop("attention_mask", None)
    refuse_unknown("token_recycling", model_kwargs)
    decoder = TreeDecoder(model, drafter or TokenRecycling())
    output = decoder.generate(
        input_ids,
        attention_mask,
        max_new_tokens=new_token_limit(input_ids, generation_config),
        eos_token_id=generation_config.eos_token_id,
        pad_token_id=generation_config.pad_token_id,
    )
    if generation_config.return_dict_in_generate:
        return GenerateDecoderOnlyOutput(sequences=output.sequences)
    return output.sequences
