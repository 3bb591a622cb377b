"""Training of a joint sampler for a model that fills sudokus.

python -m tokenburst.zoo.samplers sudoku6 --out sampler.pt
"""

import argparse

import torch
from torch import Tensor, nn

from tokenburst import zoo
from tokenburst.zoo import sudoku
from tokenburst.zoo.train import Muon


class LayerSampler(nn.Module):
    """One layer of attention over the masks of a step, for `JointSampling`.

    It begins as the identity: then each token is drawn from the model's own distribution.

    Args:
        width: of the model's hidden states.
        length: positions of a sequence.
        heads: of the layer.
    """

    def __init__(self, width: int, length: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.place = nn.Embedding(length, width)
        self.enter = nn.Linear(2 * width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.mix, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU())
        self.outer = nn.Linear(4 * width, width)
        self.leave = nn.Linear(width, width)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, hidden: Tensor, embedded: Tensor, position: Tensor) -> Tensor:
        """[B, R, D] moved hidden states.

        Args:
            hidden: [B, R, D] of the masks that the step began with.
            embedded: [B, R, D] what has been drawn since, 0 elsewhere.
            position: [B, R], -1 = no mask.
        """
        told = nn.functional.layer_norm(embedded, embedded.shape[2:])
        x = self.enter(torch.cat([hidden, told], 2)) + self.place(position.clamp(min=0))
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.mix(self.norms[0](x)).chunk(3, 2)
        )
        live = position >= 0
        seen = live | ~live.any(1, keepdim=True)  # a row without masks looks anywhere
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, seen[:, None, None])
        x = x + self.mixed(mixed.transpose(1, 2).flatten(2))
        x = x + self.outer(self.inner(self.norms[1](x)))
        return hidden + self.leave(self.norms[2](x))


@torch.no_grad()
def start_places(sampler: LayerSampler, frequency: Tensor) -> None:
    """Lets the sampler begin with the angles by which the model tells positions apart."""
    length, width = sampler.place.weight.shape
    angle = torch.arange(length)[:, None] * frequency
    waves = torch.cat([angle.cos(), angle.sin()], 1)
    copies = -(-width // waves.shape[1])
    sampler.place.weight.copy_(waves.repeat(1, copies)[:, :width])


def train(
    name: str,
    steps: int = 500,
    batch: int = 32,
    reveal: tuple[int, ...] = (1, 2, 3, 5),
    seed: int = 5,
) -> LayerSampler:
    """A sampler for the built-in model `name`, which stays as it is.

    Of grids of the training split with some cells masked, `reveal` many of the masks that the model
    is surest of are shown, and the sampler learns the others.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model, prompt = zoo.load(name).requires_grad_(False), zoo.prompt_ids(name)
    side, size = int(name.removeprefix("sudoku")), int(name.removeprefix("sudoku")) ** 2
    embed, head = model.get_input_embeddings(), model.get_output_embeddings()
    sampler = LayerSampler(embed.embedding_dim, len(prompt) + size)
    start_places(sampler, model.model.rotary_emb.inv_freq)
    matrices = [w for n, w in sampler.named_parameters() if w.ndim == 2 and "place" not in n]
    other = [w for n, w in sampler.named_parameters() if w.ndim != 2 or "place" in n]
    optimizers = Muon(matrices, lr=0.02), torch.optim.Adam(other, lr=5e-3)
    copies, shown = len(reveal), torch.tensor(reveal).repeat_interleave(batch)[:, None]
    place = (len(prompt) + torch.arange(size)).expand(copies * batch, -1)
    share = torch.linspace(0.2, 1, batch)[:, None]
    for step, grids in enumerate(sudoku.grids(side, steps * batch, generator).split(batch)):
        masked = torch.rand(batch, size, generator=generator) < share
        ids = torch.cat([prompt.expand(batch, -1), grids.masked_fill(masked, 0)], 1)
        with torch.no_grad():
            hidden = model.model(ids, use_cache=False).last_hidden_state[:, len(prompt) :]
            sure = head(hidden).softmax(-1).amax(-1).masked_fill(~masked, -1)
        rank = sure.argsort(1, descending=True).argsort(1)
        hidden, rank, masked, grids = (
            torch.cat([t] * copies) for t in (hidden, rank, masked, grids)
        )
        drawn = masked & (rank < shown)
        moved = sampler(hidden, embed(grids) * drawn[..., None], place.where(masked, -1))
        asked = masked & ~drawn
        loss = nn.functional.cross_entropy(head(moved[asked]), grids[asked])
        loss.backward()
        for optimizer, rate in zip(optimizers, (0.02, 5e-3), strict=True):
            optimizer.param_groups[0]["lr"] = rate * min(1.0, 2 * (1 - step / steps))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return sampler.eval().requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=[n for n in zoo.MODELS if n.startswith("sudoku")])
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    torch.save(train(args.model).state_dict(), args.out)


if __name__ == "__main__":
    main()
