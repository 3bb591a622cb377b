"""Masked diffusion decoding: score all masks, believe the best proposals, write them, again.

One step is one forward of the whole batch, one sweep over the logits of the current blocks and one
selection in place. Each row moves through its blocks at its own pace, and where it stands is kept
on the device: a row's tokens do not depend on its neighbours, and nothing waits for the host.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor
from transformers.generation.utils import GenerateDecoderOnlyOutput

from tokenburst import ops
from tokenburst.decoders.common import LateFlag, check_ids, end_tokens, pack_prompts
from tokenburst.decoders.hooks import check_generation, new_token_limit, refuse_unknown
from tokenburst.decoders.unmasking import (
    LowConfidence,
    Threshold,
    Unmasking,
    check_count,
    check_ranking,
)
from tokenburst.models.attention import TokenContext, installed

__all__ = [
    "DiffusionDecoder",
    "DiffusionOutput",
    "DiffusionStats",
    "LowConfidence",
    "Threshold",
    "Unmasking",
    "diffusion_generate",
]

# CPU matrix products may round the last one to three rows differently when their number is no
# multiple of four: whole groups of four make a row's bits the same alone and in a batch.
ROW_GROUP = 4

Callback = Callable[[int, Tensor], None]


@dataclass(frozen=True)
class DiffusionStats:
    """What a generation cost."""

    forwards: int  # of the whole batch
    new_tokens: list[int]  # committed in each sequence
    steps: list[list[int]]  # [B][blocks]: forwards that each row needed for each block
    seconds: float

    @property
    def tokens_per_forward(self) -> float:
        """Mean over the sequences of tokens per forward."""
        return sum(self.new_tokens) / max(1, len(self.new_tokens)) / max(1, self.forwards)


@dataclass(frozen=True)
class DiffusionOutput:
    """Result of a generation."""

    sequences: Tensor  # [B, L] int64 on the model's device
    stats: DiffusionStats


@dataclass(frozen=True)
class _Task:
    """Packed sequences and where their masks are; tensors on the model's device."""

    x: Tensor  # [B, L] int64, real tokens and masks first, 0 after them
    lengths: Tensor  # [B] int32
    places: Tensor  # [B, blocks, W] int64, positions of each block, -1 = none
    n_masks: int  # most masks of any block
    layout: Callable[[Tensor], Tensor]  # x as the caller sees it


class DiffusionDecoder:
    """Generates with a masked diffusion language model, many tokens per forward.

    Row i of the model's output predicts position i (LLaDA; no shift).

    Args:
        model: a stock transformers causal LM of an architecture in `models.attention.SUPPORTED`,
            trained to fill masks. Its attention is replaced by ours, without a causal mask, while
            it generates.
        unmasking: which proposals to believe: `Threshold`, `LowConfidence`, or any object with the
            methods of `Unmasking`.
        mask_id: id of the mask token; None takes `model.config.mask_token_id`.

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
        mask_id: int | None = None,
    ) -> None:
        installed(model)  # refuses what cannot be run
        self.model: Any = model
        self.unmasking = unmasking
        check_ranking("unmasking", unmasking.ranking)
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

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        gen_length: int = 128,
        block_length: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        sequence_ids: Tensor | None = None,
        eos_token_id: int | Sequence[int] | None = None,
        pad_token_id: int | None = None,
        callback: Callback | None = None,
        progress: bool = False,
    ) -> DiffusionOutput:
        """Append `gen_length` tokens to each prompt, block after block.

        Args:
            input_ids: [B, P] int64 prompts, padded on either side.
            attention_mask: [B, P], non-zero at real tokens; None = all are real.
            gen_length: tokens to append, a multiple of `block_length`.
            block_length: masks that may be committed before the ones after them; None = all.
            temperature: of the sampled tokens; 0 takes the most likely one. Ranking always uses the
                model's own probabilities.
            seed: of all chance: sampled tokens and the random ranking.
            sequence_ids: [B] int, names of the rows for chance; None numbers them 0 .. B - 1. A row
                draws by (seed, its name, step, position), so give a row its name again to get its
                tokens again in another batch.
            eos_token_id: ids that end a row; default: the model's.
            pad_token_id: id that follows an end; default: the model's, else the first eos id.
            callback: called as callback(forwards, sequences) after each step; masks not yet decided
                hold the mask id.
            progress: show a progress bar.

        Returns:
            `DiffusionOutput`, sequences [B, P + gen_length]: the prompts as given, then the new
            tokens, and padding after the first end.

        Raises:
            ValueError: wrong shapes, ids out of the vocabulary, a mask in a prompt (see `infill`),
                lengths or steps that do not divide, a negative temperature.
            RuntimeError: the model's logits hold no number at some mask.
        """
        check_count("generate: gen_length", gen_length)
        block_length = gen_length if block_length is None else block_length
        check_count("generate: block_length", block_length)
        if gen_length % block_length:
            raise ValueError(
                f"generate: gen_length: expected a multiple of block_length {block_length}, "
                f"got {gen_length}"
            )
        prompt, lengths, real = self._prompts(input_ids, attention_mask)
        if bool(((prompt == self.mask_id) & real).any()):
            raise ValueError(
                f"generate: input_ids: expected no mask token (id {self.mask_id}) in a prompt; "
                "use infill to fill masks in place"
            )
        eos, pad = self._ends(eos_token_id, pad_token_id)

        device, batch = prompt.device, len(prompt)
        place = torch.arange(_whole(prompt.shape[1] + gen_length), device=device)
        ends = (lengths + gen_length)[:, None]
        x = torch.nn.functional.pad(prompt, (0, len(place) - prompt.shape[1]))
        x = torch.where(place < lengths[:, None], x, self.mask_id).where(place < ends, 0)
        offset = torch.arange(_whole(block_length), device=device)
        starts = torch.arange(0, gen_length, block_length, device=device)
        places = lengths[:, None, None] + starts[:, None] + offset
        given, new = input_ids.to(device), lengths[:, None] + place[:gen_length]

        def layout(x: Tensor) -> Tensor:
            tail = x.gather(1, new)
            if eos is not None:
                is_end = torch.isin(tail, eos).to(torch.int32)
                tail = torch.where(is_end.cumsum(1) - is_end > 0, pad, tail)
            return torch.cat([given, tail], 1)

        return self._run(
            _Task(
                x=x,
                lengths=lengths + gen_length,
                places=places.where(offset < block_length, -1).expand(batch, -1, -1),
                n_masks=block_length,
                layout=layout,
            ),
            temperature=temperature,
            seed=seed,
            sequence_ids=sequence_ids,
            eos=eos,
            callback=callback,
            progress=progress,
        )

    def infill(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        temperature: float = 0.0,
        seed: int = 0,
        sequence_ids: Tensor | None = None,
        callback: Callback | None = None,
        progress: bool = False,
    ) -> DiffusionOutput:
        """Fill every mask in the given sequences, as one block.

        Args:
            input_ids: [B, L] int64, mask ids where a token is wanted, padded on either side.
            attention_mask: [B, L], non-zero at real tokens and masks; None = all are real.
            temperature: see `generate`.
            seed: see `generate`.
            sequence_ids: see `generate`.
            callback: see `generate`.
            progress: show a progress bar.

        Returns:
            `DiffusionOutput`, sequences [B, L]; every token that was no mask is as given.

        Raises:
            ValueError: wrong shapes, ids out of the vocabulary, a negative temperature.
            RuntimeError: the model's logits hold no number at some mask.
        """
        packed, lengths, real = self._prompts(input_ids, attention_mask)
        given = input_ids.to(packed.device)
        x = torch.nn.functional.pad(packed, (0, _whole(packed.shape[1]) - packed.shape[1]))
        masked = x == self.mask_id
        masked[:, : packed.shape[1]] &= real
        count = masked.sum(1)
        n_masks = int(count.max()) if len(x) else 0
        order = (~masked).to(torch.int8).argsort(dim=1, stable=True)
        order = order[:, : max(_whole(n_masks), ROW_GROUP)]
        slot = torch.arange(order.shape[1], device=x.device)
        places = order.where(slot < count[:, None], -1)[:, None]
        outside = torch.zeros_like(given, dtype=torch.int8)
        if attention_mask is not None:
            outside = (attention_mask.to(x.device) == 0).to(torch.int8)
        home = outside.argsort(dim=1, stable=True)  # where pack_prompts took each token from

        def layout(x: Tensor) -> Tensor:
            filled = given.scatter(1, home, x[:, : given.shape[1]])
            return torch.where((given == self.mask_id) & (outside == 0), filled, given)

        return self._run(
            _Task(x=x, lengths=lengths, places=places, n_masks=n_masks, layout=layout),
            temperature=temperature,
            seed=seed,
            sequence_ids=sequence_ids,
            eos=None,
            callback=callback,
            progress=progress,
        )

    def _prompts(
        self, input_ids: Tensor, attention_mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Packed ids with 0 in place of padding, lengths, and which of the ids are real."""
        ids, lengths = pack_prompts(input_ids.to(self.model.device), attention_mask)
        real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        ids = ids.where(real, 0)
        check_ids("input_ids", ids, self.vocab_size)
        return ids, lengths, real

    def _ends(
        self, eos_token_id: int | Sequence[int] | None, pad_token_id: int | None
    ) -> tuple[Tensor | None, int]:
        ids, pad = end_tokens(self.model, eos_token_id, pad_token_id)
        if self.mask_id in ids:
            raise ValueError(f"generate: eos_token_id: expected ids other than the mask, got {ids}")
        eos = torch.tensor(ids, dtype=torch.int64, device=self.model.device)
        check_ids("eos_token_id", eos, self.vocab_size)
        return (eos if ids else None), pad

    def _run(
        self,
        task: _Task,
        *,
        temperature: float,
        seed: int,
        sequence_ids: Tensor | None,
        eos: Tensor | None,
        callback: Callback | None,
        progress: bool,
    ) -> DiffusionOutput:
        if not 0 <= temperature < math.inf:
            raise ValueError(f"generate: temperature: expected a number >= 0, got {temperature}")
        if not -(2**63) <= seed < 2**63:
            raise ValueError(f"generate: seed: expected a 64-bit integer, got {seed}")
        x, device = task.x, task.x.device
        batch, n_blocks, width = task.places.shape
        names = torch.arange(batch, device=device)
        if sequence_ids is not None:
            if sequence_ids.shape != (batch,) or sequence_ids.is_floating_point():
                raise ValueError(
                    f"generate: sequence_ids: expected integers of shape ({batch},), "
                    f"got {sequence_ids.dtype} {tuple(sequence_ids.shape)}"
                )
            names = sequence_ids.to(device, torch.int64)
        limit = n_blocks * self.unmasking.most_steps(task.n_masks, n_blocks)

        began = time.perf_counter()
        masks_at_start = (task.places >= 0).sum(2)
        # Blocks finished so far; a row without masks has nothing to do.
        block = torch.where(masks_at_start.sum(1) > 0, 0, n_blocks)
        step = torch.zeros_like(block)
        spent = torch.zeros_like(masks_at_start)
        tokens = torch.zeros(batch, dtype=torch.int32, device=device)
        stuck = torch.zeros(batch, dtype=torch.bool, device=device)
        row = torch.arange(batch, device=device)
        chance = torch.stack([torch.full_like(row, seed), names, step], 1)
        rng = torch.zeros(batch, width, 4, dtype=torch.int64, device=device)
        rng[:, :, :3] = chance[:, None]
        heat = torch.full((batch * width,), temperature, device=device) if temperature else None
        suppress = torch.tensor([self.mask_id], device=device)
        context = TokenContext(
            kv_len=torch.zeros_like(task.lengths), n_nodes=task.lengths, causal=False
        )
        position_ids = torch.arange(x.shape[1], device=device)[None]
        finished = LateFlag(device)
        forwards = 0

        with torch.inference_mode(), installed(self.model) as model, _bar(progress) as advance:
            advance(0, int(masks_at_start.sum()) if progress else 0)
            head = model.get_output_embeddings()
            while batch and forwards < limit:
                active = block < n_blocks
                here = block.clamp(max=n_blocks - 1)
                position = task.places[row, here].where(active[:, None], -1)
                inside = position.clamp(min=0)
                undecided = (x.gather(1, inside) == self.mask_id) & (position >= 0)
                hidden = model.base_model(
                    input_ids=x,
                    position_ids=position_ids,
                    use_cache=False,
                    token_context=context,
                ).last_hidden_state
                logits = head(hidden[row[:, None], inside].flatten(0, 1))
                forwards += 1

                rng[:, :, 2], rng[:, :, 3] = step[:, None], position
                number = torch.arange(batch * width, device=device)
                stats = ops.vocab_stats(
                    logits,
                    rows=number.where(undecided.flatten(), -1),
                    suppress=suppress,
                    temperature=heat,
                    rng=None if heat is None else rng.flatten(0, 1),
                )
                chosen = ops.unmask_select_(
                    x,
                    position,
                    stats.token.view(batch, width),
                    self.mask_id,
                    **self._ranks(stats, rng[:, 0, :3], batch),
                    **self.unmasking.rules(step, masks_at_start[row, here], n_blocks),
                )

                spent[row, here] += active
                tokens += chosen.n_committed
                done = active & (chosen.n_left == 0)
                stuck |= active & ~done & (chosen.n_committed == 0)
                block = block + done
                step = torch.where(done, 0, step + 1)
                if eos is not None:
                    ended = (torch.isin(x.gather(1, inside), eos) & (position >= 0)).any(1)
                    block = torch.where(done & ended, n_blocks, block)
                block = torch.where(stuck, n_blocks, block)
                if progress:
                    advance(int(chosen.n_committed.sum()), 0)
                if callback is not None:
                    with torch.inference_mode(False):  # tensors the caller may change
                        callback(forwards, task.layout(x))
                if finished((block >= n_blocks).all()):
                    break

        stuck |= block < n_blocks
        if bool(stuck.any()):
            raise RuntimeError(
                "generate: no token could be chosen for some mask of rows "
                f"{stuck.nonzero().flatten().tolist()}: expected logits that are numbers, got NaN "
                "or -inf everywhere"
            )
        return DiffusionOutput(
            sequences=task.layout(x),
            stats=DiffusionStats(
                forwards=forwards,
                new_tokens=tokens.tolist(),
                steps=spent.tolist(),
                seconds=time.perf_counter() - began,
            ),
        )

    def _ranks(self, stats: Any, chance: Tensor, batch: int) -> dict[str, Any]:
        ranking = self.unmasking.ranking
        if ranking == "random":
            return {"rng": chance}
        score = getattr(stats, ranking).view(batch, -1)
        return {"score": score, "lowest_first": ranking == "entropy"}


def _whole(rows: int) -> int:
    return -(-rows // ROW_GROUP) * ROW_GROUP


class _bar:
    """Context manager: a progress bar as advance(steps, total), or nothing."""

    def __init__(self, shown: bool) -> None:
        self._progress = Progress() if shown else None

    def __enter__(self) -> Callable[[int, int], None]:
        progress = self._progress
        if progress is None:
            return lambda steps, total: None
        progress.start()
        task = progress.add_task("tokens")
        return lambda steps, total: progress.update(task, advance=steps, total=total or None)

    def __exit__(self, *exception: object) -> None:
        if self._progress is not None:
            self._progress.stop()


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
        mask_id: see `DiffusionDecoder`.
        callback: see there.
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
    out = DiffusionDecoder(model, unmasking, mask_id=mask_id).generate(
        input_ids,
        attention_mask,
        gen_length=gen_length or 128,
        block_length=block_length,
        temperature=temperature,
        seed=seed,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        callback=callback,
        progress=progress,
    )
    if config.return_dict_in_generate:
        return GenerateDecoderOnlyOutput(sequences=out.sequences)
    return out.sequences
