"""Masked diffusion decoding: score all masks, believe the best proposals, write them, again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.generation.utils import GenerateDecoderOnlyOutput

from tokenburst.decoders.caches import CachePolicy, check_cache
from tokenburst.decoders.chance import Chance
from tokenburst.decoders.common import check_ids, end_tokens, pack_prompts
from tokenburst.decoders.diffusionrun import Callback, run
from tokenburst.decoders.diffusionstats import DiffusionStats
from tokenburst.decoders.hooks import check_generation, new_token_limit, refuse_unknown
from tokenburst.decoders.reading import Sampling
from tokenburst.decoders.scoring import Scorer
from tokenburst.decoders.shadows import Shadows, check_shadows
from tokenburst.decoders.sparsed import SparseD, check_attention
from tokenburst.decoders.tasks import PerRow, Prompts, Task, to_generate, to_infill
from tokenburst.decoders.unmasking import (
    LowConfidence,
    Threshold,
    Unmasking,
)
from tokenburst.models.attention import installed

__all__ = [
    "DiffusionDecoder",
    "DiffusionOutput",
    "DiffusionStats",
    "LowConfidence",
    "Threshold",
    "Unmasking",
    "diffusion_generate",
]


@dataclass(frozen=True)
class DiffusionOutput:
    """Result of a generation."""

    sequences: Tensor  # [B, L] int64 on the model's device
    stats: DiffusionStats


class DiffusionDecoder:
    """Generates with a masked diffusion language model, many tokens per forward.

    Args:
        model: a stock transformers causal LM of an architecture in `models.attention.SUPPORTED`,
            trained to fill masks. Its attention is replaced by ours, without a causal mask, while
            it generates.
        unmasking: which proposals to believe: `Threshold`, `LowConfidence`, or any other policy
            (`decoders.unmasking`).
        cache: which keys and values a step computes anew: None = all of them, or an object of
            `decoders.caches`.
        attention: None = every token attends to every token in every step, or `SparseD`.
        mask_id: id of the mask token; None takes `model.config.mask_token_id`.
        shifted: row i of the model's output predicts position i + 1 (Dream), not i (LLaDA); None
            takes `model.config.shifted`, and without it, False.

    Raises:
        ValueError: an unsupported architecture, or no mask id.

    Example:
        >>> decoder = DiffusionDecoder(model, Threshold(0.9))
        >>> out = decoder.generate(ids, gen_length=256, block_length=32)
        >>> out.sequences, out.stats.tokens_per_forward
    """

    def __init__(
        self,
        model: torch.nn.Module,
        unmasking: Unmasking = Threshold(0.9),  # noqa: B008 (frozen)
        *,
        cache: CachePolicy | None = None,
        attention: SparseD | None = None,
        mask_id: int | None = None,
        shifted: bool | None = None,
    ) -> None:
        installed(model)  # refuses what cannot be run
        self.model: Any = model
        self.unmasking = unmasking
        if mask_id is None:
            mask_id = getattr(self.model.config, "mask_token_id", None)
        if mask_id is None:
            raise ValueError(
                "DiffusionDecoder: mask_id: expected the id of the mask token here or as "
                "config.mask_token_id, got neither"
            )
        self.vocab_size: int = self.model.get_input_embeddings().num_embeddings
        if not 0 <= mask_id < self.vocab_size:
            raise ValueError(
                f"DiffusionDecoder: mask_id: expected an id in 0..{self.vocab_size - 1}, "
                f"got {mask_id}"
            )
        self.mask_id = int(mask_id)
        config = self.model.config
        self.shifted = bool(getattr(config, "shifted", False) if shifted is None else shifted)
        self.causal_block: int | None = None
        if getattr(config, "block_causal", False):
            self.causal_block = int(config.block_length)
        self.cache = cache
        if self.causal_block is not None and unmasking.needs.sequence:
            raise ValueError(
                "DiffusionDecoder: unmasking: a block-causal model sees the current block alone, "
                f"got {unmasking}, which looks at all blocks"
            )
        check_cache(cache, config, self.causal_block, unmasking)
        self.attention = attention
        causal = self.causal_block is not None
        check_attention(attention, config, causal, unmasking.needs.cuts)
        check_shadows(unmasking.needs.shadows, cache, attention, self.shifted, causal)

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        gen_length: PerRow = 128,
        block_length: PerRow | None = None,
        temperature: float | Tensor = 0.0,
        seed: int | Tensor = 0,
        sequence_ids: Tensor | None = None,
        guidance: float | Tensor = 0.0,
        sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
        eos_token_id: int | Sequence[int] | None = None,
        pad_token_id: int | None = None,
        callback: Callback | None = None,
        progress: bool = False,
        trace: bool = False,
    ) -> DiffusionOutput:
        """Append `gen_length` tokens to each prompt, block after block.

        Args:
            input_ids: [B, P] int64 prompts, padded on either side.
            attention_mask: [B, P], non-zero at real tokens; None = all are real.
            gen_length: tokens to append, a multiple of `block_length`; an integer, or [B] int for
                the rows.
            block_length: masks that may be committed before the ones after them, an integer or [B]
                int; None = all, or the model's own blocks where it is block-causal.
            temperature: of the sampled tokens, a number or [B]; 0 takes the most likely one.
                Ranking always uses the model's own probabilities.
            seed: of all chance, an integer or [B] int: sampled tokens and the random ranking.
            sequence_ids: [B] int, names of the rows for chance; None numbers them 0 .. B - 1. A row
                draws by (seed, its name, step, position), so give a row its name again to get its
                tokens again in another batch.
            guidance: weight w of classifier-free guidance, a number >= 0 or [B]: logits are
                u + (w + 1) (l - u), u being those with masks in place of the prompt (Nie et al.,
                LLaDA, arXiv 2502.09992, appendix B). Twice the work where it is not 0.
            sampling: top-p, top-k, suppressed and biased ids, and the precision of scores.
            eos_token_id: ids that end a row; default: the model's.
            pad_token_id: id that follows an end; default: the model's, else the first eos id.
            callback: called as callback(forwards, sequences) after each step, also one that ran no
                forward; masks not yet decided hold the mask id.
            progress: show a progress bar, which reads a count from the device every step.
            trace: keep what each step saw and did, as `stats.trace`.

        Returns:
            `DiffusionOutput`, sequences [B, P + most gen_length]: the prompts as given, then the
            new tokens, and padding after the first end.

        Raises:
            ValueError: wrong shapes, ids out of the vocabulary, a mask in a prompt (see `infill`),
                lengths or steps that do not divide, a negative temperature.
            RuntimeError: the model's logits hold no number at some mask.
        """
        prompts = self._prompts(input_ids, attention_mask)
        if bool(((prompts.packed == self.mask_id) & prompts.real).any()):
            raise ValueError(
                f"generate: input_ids: expected no mask token (id {self.mask_id}) in a prompt; "
                "use infill to fill masks in place"
            )
        eos, pad = self._ends(eos_token_id, pad_token_id)
        task = to_generate(
            prompts,
            gen_length,
            block_length,
            causal_block=self.causal_block,
            mask_id=self.mask_id,
            eos=eos,
            pad=pad,
        )
        weight = self._guidance(guidance, len(task.x))
        chance = Chance(temperature, seed, sequence_ids, sampling, weight)
        return self._run(task, chance, callback, progress, trace)

    def infill(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        block_length: PerRow | None = None,
        temperature: float | Tensor = 0.0,
        seed: int | Tensor = 0,
        sequence_ids: Tensor | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
        callback: Callback | None = None,
        progress: bool = False,
        trace: bool = False,
    ) -> DiffusionOutput:
        """Fill every mask in the given sequences.

        Args:
            input_ids: [B, L] int64, mask ids where a token is wanted, padded on either side.
            attention_mask: [B, L], non-zero at real tokens and masks; None = all are real.
            block_length: masks that are filled before the ones after them, an integer or [B] int;
                a row's last block may hold fewer. None = all, or the model's own blocks where it is
                block-causal.
            temperature: see `generate`.
            seed: see `generate`.
            sequence_ids: see `generate`.
            sampling: see `generate`.
            callback: see `generate`.
            progress: show a progress bar.
            trace: see `generate`.

        Returns:
            `DiffusionOutput`, sequences [B, L]; every token that was no mask is as given.

        Raises:
            ValueError: wrong shapes, ids out of the vocabulary, blocks or steps that do not fit, a
                negative temperature.
            RuntimeError: the model's logits hold no number at some mask.
        """
        prompts = self._prompts(input_ids, attention_mask)
        causal_block, mask_id = self.causal_block, self.mask_id
        task = to_infill(
            prompts, attention_mask, block_length, causal_block=causal_block, mask_id=mask_id
        )
        chance = Chance(temperature, seed, sequence_ids, sampling)
        return self._run(task, chance, callback, progress, trace)

    def _guidance(self, weight: float | Tensor, batch: int) -> Tensor | None:
        if not isinstance(weight, Tensor):
            weight = torch.full((batch,), float(weight))
        if weight.shape != (batch,) or not bool(((weight >= 0) & weight.isfinite()).all()):
            raise ValueError(
                f"generate: guidance: expected a number >= 0 or {batch} of them, "
                f"got {weight.tolist()}"
            )
        return weight.to(self.model.device, torch.float32) if bool(weight.any()) else None

    def _run(
        self,
        task: Task,
        chance: Chance,
        callback: Callback | None,
        progress: bool,
        trace: bool,
    ) -> DiffusionOutput:
        attention = self.attention.begin(task, self.unmasking) if self.attention else None
        needs, shadows = self.unmasking.needs, None
        if needs.shadows:
            shadows = Shadows(task.places.shape[2], needs.shadows == "together", self.mask_id)
        scorer = Scorer(
            self.model,
            task.lengths,
            task.x.shape[1],
            self.cache,
            mask_id=self.mask_id,
            shift=int(self.shifted),
            block_length=task.block_length,
            prompt=None if chance.guidance is None else task.prompt,
            attention=attention,
            shadows=shadows,
        )
        return DiffusionOutput(
            *run(self.model, task, self.unmasking, chance, scorer, callback, progress, trace)
        )

    def _prompts(self, input_ids: Tensor, attention_mask: Tensor | None) -> Prompts:
        given = input_ids.to(self.model.device)
        ids, lengths = pack_prompts(given, attention_mask)
        real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        ids = ids.where(real, 0)
        check_ids("input_ids", ids, self.vocab_size)
        return Prompts(given, ids, lengths, real)

    def _ends(
        self, eos_token_id: int | Sequence[int] | None, pad_token_id: int | None
    ) -> tuple[Tensor | None, int]:
        ids, pad = end_tokens(self.model, eos_token_id, pad_token_id)
        if self.mask_id in ids:
            raise ValueError(f"generate: eos_token_id: expected ids other than the mask, got {ids}")
        eos = torch.tensor(ids, dtype=torch.int64, device=self.model.device)
        check_ids("eos_token_id", eos, self.vocab_size)
        return (eos if ids else None), pad


def diffusion_generate(
    model: Any,
    input_ids: Tensor,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
    generation_config: Any = None,
    *,
    gen_length: int | None = None,
    block_length: int | None = None,
    unmasking: Unmasking = Threshold(0.9),  # noqa: B008 (frozen)
    temperature: float = 0.0,
    seed: int = 0,
    guidance: float = 0.0,
    kv_cache: CachePolicy | None = None,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    attention: SparseD | None = None,
    mask_id: int | None = None,
    callback: Callback | None = None,
    progress: bool = False,
    **model_kwargs: Any,
) -> Any:
    """`DiffusionDecoder.generate` in the form that `model.generate(custom_generate=...)` calls.

    Args:
        model: see `DiffusionDecoder`.
        input_ids: [B, P] int64 prompts.
        logits_processor: must be empty.
        stopping_criteria: a length and end tokens at most.
        generation_config: read for max_new_tokens or max_length, eos and pad ids and
            return_dict_in_generate; None outside `generate`.
        gen_length: see `DiffusionDecoder.generate`; None takes the length of generation_config.
        block_length: see there.
        unmasking: see `DiffusionDecoder`.
        temperature: see there; it takes the place of do_sample.
        seed: see there.
        guidance: see there.
        kv_cache: the `cache` of `DiffusionDecoder`.
        sampling: see there.
        attention: see `DiffusionDecoder`.
        mask_id: see `DiffusionDecoder`.
        callback: see there; `Stream` feeds a streamer, which transformers does not hand to hooks.
        progress: show a progress bar.
        model_kwargs: attention_mask [B, P], non-zero at real tokens. What transformers prepares for
            left-to-right decoding beside it is not used.

    Returns:
        [B, P + gen_length] int64, or a `GenerateDecoderOnlyOutput` with return_dict_in_generate.

    Raises:
        ValueError: as `DiffusionDecoder.generate`; do_sample, beams, processors, criteria and
            arguments that would be ignored.

    Example:
        >>> model.generate(**inputs, custom_generate=diffusion_generate, gen_length=128, seed=1)
    """
    attention_mask = model_kwargs.pop("attention_mask", None)
    refuse_unknown("diffusion_generate", model_kwargs)
    config = generation_config if generation_config is not None else model.generation_config
    if generation_config is not None:
        if config.do_sample:
            raise ValueError(
                "diffusion_generate: do_sample: expected False (temperature=... samples), got True"
            )
        check_generation("diffusion_generate", logits_processor, stopping_criteria, config)
        gen_length = gen_length or new_token_limit(input_ids, config)
    decoder = DiffusionDecoder(
        model, unmasking, cache=kv_cache, attention=attention, mask_id=mask_id
    )
    out = decoder.generate(
        input_ids,
        attention_mask,
        gen_length=gen_length or 128,
        block_length=block_length,
        temperature=temperature,
        seed=seed,
        guidance=guidance,
        sampling=sampling,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        callback=callback,
        progress=progress,
    )
    if config.return_dict_in_generate:
        return GenerateDecoderOnlyOutput(sequences=out.sequences)
    return out.sequences
