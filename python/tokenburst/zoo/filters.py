"""Training of a confidence filter on recorded traces of a model that fills sudokus.

python -m tokenburst.zoo.filters sudoku6 --out filter.pt
"""

import argparse

import torch
from torch import Tensor

from tokenburst import zoo
from tokenburst.decoders.diffusion import DiffusionDecoder
from tokenburst.decoders.unmasking import ConfidenceFilter, LowConfidence, Recorded
from tokenburst.zoo import sudoku


def traces(name: str, count: int, givens: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Steps of one token each on training puzzles.

    Returns:
        Confidences [N, R], whether each proposal is what was written in the end [N, R], and which
        positions were masks [N, R].
    """
    model, prompt = zoo.load(name), zoo.prompt_ids(name)
    side = int(name.removeprefix("sudoku"))
    questions, _ = sudoku.puzzles(side, count, seed, "train", givens)
    trace: list = []
    decoder = DiffusionDecoder(model, Recorded(LowConfidence(), trace))
    out = decoder.infill(torch.cat([prompt.expand(count, -1), questions], 1))
    parts = []
    for confidence, token, masked, position in trace:
        final = out.sequences.gather(1, position.clamp(min=0)) == token
        live = masked.any(1)
        parts.append((confidence[live].clone(), final[live], masked[live]))
    confidence, final, masked = (torch.cat(part) for part in zip(*parts, strict=True))
    return confidence, final, masked


def train(
    name: str, count: int = 400, givens: int = 14, seed: int = 3, epochs: int = 60
) -> ConfidenceFilter:
    """A filter for the built-in model `name`, from `count` training puzzles."""
    confidence, final, masked = traces(name, count, givens, seed)
    torch.manual_seed(seed)
    model = ConfidenceFilter(int(name.removeprefix("sudoku")) ** 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(confidence)).split(256):
            mask = masked[rows]
            loss = torch.nn.functional.binary_cross_entropy(
                model(confidence[rows])[mask], final[rows][mask].float()
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=[n for n in zoo.MODELS if n.startswith("sudoku")])
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    torch.save(train(args.model).state_dict(), args.out)


if __name__ == "__main__":
    main()
