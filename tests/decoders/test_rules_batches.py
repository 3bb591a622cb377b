"""Every policy through the decoder: invariants, ragged batches, sampling options."""

import pytest
import torch

from tiny import VOCAB, prompts, tiny_model
from tokenburst.decoders import unmasking as u
from tokenburst.decoders.diffusion import DiffusionDecoder
from tokenburst.decoders.reading import Sampling

MASK = VOCAB - 1
POLICIES = {
    "factor": u.Factor(2.0),
    "budget": u.EntropyBudget(4.0),
    "leap": u.LocalLeap(0.2, 0.1, 2),
    "ascending": u.Ascending(),
    "eoser": u.EosDamping(u.LowConfidence(6), (3, 4)),
    "dream": u.Dream(6, "entropy"),
    "dream-noise": u.Dream(6, "maskgit_plus", noise=0.5),
    "dream-origin": u.Dream(6, "origin"),
    "dimple": u.Dimple(0.2, 6),
    "dimple-left": u.Dimple(0.2, 6, "autoregressive"),
    "prophet": u.Prophet(u.LowConfidence(6), answer=2, bounds=((1.0, 0.3),)),
    "sdar": u.sdar_dynamic(0.2, 6),
    "editing": u.Editing(u.llada2(0.2), threshold=0.3, post_steps=3),
    "credit": u.Credit(u.Threshold(0.3)),
    "stable": u.Stable(0.2, divergence=0.5, history=1),
    "slowfast": u.SlowFast(0.2, hint=0.1),
    "wino": u.Wino(0.1, 0.2, least=2, most=3),
    "rcr": u.RunningConfidence(6),
    "remdm-cap": u.ReMDM(6, eta=0.3),
    "remdm-rescale": u.ReMDM(6, "rescale", eta=0.5),
    "remdm-conf": u.ReMDM(6, "conf"),
    "remdm-loop": u.ReMDM(6, "loop", eta=0.1),
    "spans": u.SpanMasking(4, span=3),
    "union": u.Threshold(0.3) | u.Factor(1.0) | u.LowConfidence(6),
}
SAMPLINGS = [
    (0.0, Sampling()),
    (0.8, Sampling(top_p=0.9, top_k=20, suppress=(5,), bias={3: -2.0}, unranked=(4,))),
]


def decoder(policy):
    return DiffusionDecoder(tiny_model("qwen2", torch.float32, False), policy, mask_id=MASK)


@pytest.mark.parametrize(("temperature", "sampling"), SAMPLINGS, ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", POLICIES)
def test_invariants_and_a_batch_equals_its_rows_alone(name, temperature, sampling):
    policy, d = POLICIES[name], decoder(POLICIES[name])
    ids, mask = prompts(3, 7, seed=3, ragged=True)
    options = {"gen_length": 6, "block_length": 3, "temperature": temperature, "seed": 5}
    names = torch.tensor([10, 11, 12])
    together = d.generate(ids, mask, sequence_ids=names, sampling=sampling, **options)
    new = together.sequences[:, 7:]
    assert together.sequences[:, :7].tolist() == ids.tolist()
    assert not bool((new == MASK).any()) and not bool(
        torch.isin(new, torch.tensor(sampling.suppress)).any()
    )
    assert together.stats.new_tokens == [6] * 3
    assert all(s <= policy.most_steps(3, 2) for row in together.stats.steps for s in row)
    for b in range(3):
        row, one = ids[b : b + 1, mask[b] == 1], names[b : b + 1]
        alone = d.generate(row, sequence_ids=one, sampling=sampling, **options)
        assert alone.sequences[0, -6:].tolist() == new[b].tolist()
        assert alone.stats.steps[0] == together.stats.steps[b]


def test_tokens_come_from_the_kept_ids():
    ids, _ = prompts(1, 5, seed=2)
    d = decoder(u.LowConfidence())
    plain = d.generate(ids, gen_length=8).sequences
    options = {"gen_length": 8, "temperature": 3.0, "seed": 4}
    first = d.generate(ids, sampling=Sampling(top_k=1), **options).sequences
    tiny = d.generate(ids, sampling=Sampling(top_p=1e-6), **options).sequences
    assert torch.equal(first, plain) and torch.equal(tiny, plain)
    only = tuple(i for i in range(VOCAB) if i not in (7, 9))
    new = d.generate(ids, sampling=Sampling(suppress=only), **options).sequences[:, 5:]
    assert set(new.flatten().tolist()) <= {7, 9}
    pushed = d.generate(ids, gen_length=8, sampling=Sampling(bias={6: 1e4})).sequences[:, 5:]
    assert (pushed == 6).all()


def test_numerics_round_scores_or_tell_saturated_ones_apart():
    seen = {}

    class Look(u.LowConfidence):
        def select(self, step):
            seen["step"] = step
            return super().select(step)

    ids, _ = prompts(1, 5, seed=2)
    want = decoder(Look()).generate(ids, gen_length=4).sequences
    for numerics in ("bf16", "fp64"):
        decoder(Look()).generate(ids, gen_length=4, sampling=Sampling(numerics=numerics))
        step = seen["step"]
        score = step.stats.confidence
        if numerics == "bf16":
            assert torch.equal(score, score.bfloat16().float())
        else:
            torch.testing.assert_close(step.log_odds.sigmoid(), score, rtol=1e-5, atol=1e-7)
    fine = decoder(u.Threshold(0.3)).generate(ids, gen_length=4, sampling=Sampling(numerics="fp64"))
    assert fine.stats.steps == decoder(u.Threshold(0.3)).generate(ids, gen_length=4).stats.steps
    assert want.shape == fine.sequences.shape


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sampling(top_p=0.0), "top_p: expected > 0 and <= 1, got 0.0"),
        (lambda: Sampling(top_k=-1), "top_k: expected an integer >= 0"),
        (lambda: Sampling(bias={1: float("nan")}), "bias: expected finite numbers"),
        (lambda: Sampling(numerics="fp8"), "numerics: expected one of fp32, bf16, fp64"),
        (lambda: run(Sampling(suppress=(VOCAB,))), "suppress: expected ids in 0..63, got 63..64"),
        (
            lambda: run(Sampling(suppress=tuple(range(VOCAB)))),
            "suppress: expected some id that may",
        ),
        (lambda: run(Sampling(), u.Dream(3)), "expected a multiple of the 2 blocks, got 3"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def run(sampling, policy=u.LowConfidence()):  # noqa: B008
    ids, _ = prompts(1, 5, seed=2)
    return decoder(policy).generate(ids, gen_length=4, block_length=2, sampling=sampling)
