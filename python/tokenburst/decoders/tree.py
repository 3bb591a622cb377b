"""Decoding with draft trees: the text of plain decoding, many tokens per forward."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.generation.stopping_criteria import StopStringCriteria
from transformers.generation.streamers import BaseStreamer

from tokenburst.decoders.autotree import TreeSizer
from tokenburst.decoders.common import check_ids, end_tokens, pack_prompts, whole
from tokenburst.decoders.drafting import Drafter
from tokenburst.decoders.plain import PlainDrafter
from tokenburst.decoders.session import Session
from tokenburst.decoders.treechance import Numbers, RowChances, per_row
from tokenburst.decoders.treerun import TreeRun
from tokenburst.decoders.treestats import TreeStats
from tokenburst.decoders.treestream import TokenStream
from tokenburst.decoders.treetarget import Target
from tokenburst.decoders.treetext import TreeText
from tokenburst.decoders.verifying import check_mode
from tokenburst.models.attention import installed


@dataclass(frozen=True)
class TreeOutput:
    """Result of a generation."""

    sequences: Tensor  # [B, P + longest] int64: the prompt as given, the new tokens, then padding
    stats: TreeStats


class TreeDecoder:
    """Decodes with a causal language model of transformers, many tokens per forward.

    Args:
        model: a stock model of an architecture in `models.attention.SUPPORTED`.
        drafter: what guesses the next tokens; None decodes plainly, one token per forward, through
            the same kernels.

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
        max_new_tokens: Numbers = 128,
        temperature: Numbers = 0.0,
        top_k: Numbers = 0,
        top_p: Numbers = 1.0,
        min_p: Numbers = 0.0,
        repetition_penalty: Numbers = 1.0,
        seed: Numbers = 0,
        sequence_ids: Numbers | None = None,
        verify: str | None = None,
        eos_token_id: int | Sequence[int] | None = None,
        pad_token_id: int | None = None,
        stop_strings: str | Sequence[str] | StopStringCriteria | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        session: Session | None = None,
        cache_length: int | None = None,
        streamer: BaseStreamer | None = None,
        callback: Callable[[Tensor, Tensor], None] | None = None,
    ) -> TreeOutput:
        """Continuation of each prompt; each row is decoded as if it were alone.

        Where a value is given per row, it is a list or tensor [B].

        Args:
            input_ids: [B, P] int64, padded on either side.
            attention_mask: [B, P], non-zero at real tokens; None = all are real.
            max_new_tokens: most new tokens, also per row.
            temperature: 0 takes the most likely token; above, tokens are drawn; also per row.
            top_k: draw from the k likeliest tokens only, 0 = all; also per row.
            top_p: draw from the likeliest tokens that together have this probability, after
                temperature and top_k; also per row.
            min_p: draw from tokens at least this fraction as likely as the likeliest; also per row.
            repetition_penalty: divides the positive logits of tokens in the text so far, multiplies
                the negative ones; also per row.
            seed: of all chance; also per row. A token is drawn by (seed, name of its row, position
                in the text), so the text depends on nothing else.
            sequence_ids: names of the rows for chance; None numbers them 0 .. B - 1.
            verify: how drawn tokens are verified: 'walk' draws the target's own token at each node,
                which gives the text of plain sampling with this seed whatever is drafted. 'rrs',
                'rrs_wr', 'kseq' and 'block' also leave the target's distribution as it is and
                accept more of drafts that were drawn in the way that each is made for; others are
                refused. 'lossy_typical' and 'lossy_grouped' change it. Default: what the drafter
                names.
            eos_token_id: ids that end a row; default: the model's generation config.
            pad_token_id: fills ended rows; default: the model's, the first eos id, or 0.
            stop_strings: a row ends with the token that completes one of them, exactly where
                transformers' `StopStringCriteria` ends it; needs `tokenizer`, or is that object.
            tokenizer: of the model, for `stop_strings`.
            session: keeps the KV of the text for the next turn of a conversation.
            cache_length: rows of the KV cache per sequence; default: as many as needed.
            streamer: of transformers; gets the prompt, then new tokens as they come, of one row.
            callback: called after each step with the new tokens so far [B, ...] and their number
                [B], both device tensors.

        Returns:
            `TreeOutput` with sequences [B, P + longest] int64 and statistics.

        Raises:
            ValueError: wrong shapes or dtypes, ids outside the vocabulary, an empty prompt, values
                out of range, or a cache that is too small.
            RuntimeError: the model's logits hold no number somewhere.
        """
        model, drafter = self.model, self.drafter
        vocab_size = model.get_output_embeddings().weight.shape[0]
        eos, pad = end_tokens(model, eos_token_id, pad_token_id)
        check_ids("input_ids", input_ids, vocab_size)
        check_ids("eos_token_id", torch.tensor(eos), vocab_size)
        given = input_ids.to(model.device)
        prompt, lengths = pack_prompts(given, attention_mask)
        batch, width = given.shape
        limit = per_row(
            "max_new_tokens", max_new_tokens, batch, torch.int32, "integers >= 0", lambda n: n >= 0
        )
        sampling = RowChances.of(
            batch,
            model.device,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            sequence_ids=sequence_ids,
        )
        mode = check_mode(verify, drafter)
        stop = stop_criteria(stop_strings, tokenizer)
        stream = None if streamer is None else TokenStream(streamer, given)
        most = int(limit.max()) if batch else 0
        if most == 0:
            return TreeOutput(sequences=given, stats=TreeStats(0, [0] * batch, 1, [], 0.0, {}))
        drafter.bind(vocab_size, model.device)
        needed = whole(width) + most + whole(drafter.most_nodes)
        if cache_length is not None and cache_length < needed:
            raise ValueError(
                f"generate: cache_length: expected >= {needed} (prompt {width}, new tokens "
                f"{most}, tree {whole(drafter.most_nodes)}), got {cache_length}"
            )
        with torch.inference_mode(), self._installed:
            cache = (session or Session()).resume(model, prompt, lengths, cache_length or needed)
            text = TreeText(
                prompt,
                lengths,
                limit.to(model.device),
                most,
                sampling,
                vocab_size=vocab_size,
                eos=eos,
                stop=stop,
                widest=whole(drafter.most_nodes),
            )
            run = TreeRun(Target(model, cache), drafter, self._sizer, text, mode)
            stats = run.decode(both(callback, stream))
            new_tokens, counts = text.new_tokens()
            if session is not None:
                session.remember(cache, text.tokens, text.length)
        if stream is not None:
            stream.end(new_tokens, counts)
        # Outside inference mode from here, so that the result is an ordinary tensor.
        new_tokens = new_tokens[:, : int(counts.max())]
        ended = torch.arange(new_tokens.shape[1], device=new_tokens.device) >= counts[:, None]
        new_tokens = new_tokens.masked_fill(ended, pad)
        if bool((new_tokens < 0).any()):
            raise RuntimeError("generate: expected logits that are numbers, got NaN or -inf alone")
        return TreeOutput(sequences=torch.cat([given, new_tokens], dim=1), stats=stats)


def stop_criteria(
    stop_strings: str | Sequence[str] | StopStringCriteria | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> StopStringCriteria | None:
    """What finds stop strings in ids; ValueError without a tokenizer."""
    if stop_strings is None or isinstance(stop_strings, StopStringCriteria):
        return stop_strings
    strings = [stop_strings] if isinstance(stop_strings, str) else list(stop_strings)
    if tokenizer is None or not all(strings):
        got = "no tokenizer" if tokenizer is None else repr(stop_strings)
        raise ValueError(f"generate: stop_strings: expected text and a tokenizer, got {got}")
    return StopStringCriteria(tokenizer, strings) if strings else None


def both(
    first: Callable[[Tensor, Tensor], None] | None, second: Callable[[Tensor, Tensor], None] | None
) -> Callable[[Tensor, Tensor], None] | None:
    """One callback of two."""
    if first is None or second is None:
        return first or second

    def call(tokens: Tensor, counts: Tensor) -> None:
        first(tokens, counts)
        second(tokens, counts)

    return call
