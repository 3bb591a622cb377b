"""Generation as users have it today: transformers' generate, and the published unmasking loops."""

import torch

from baselines import fast_dllm_step, llada_step


class Counted:
    """Counts the forwards of a model while it is entered."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.forwards = model, 0

    def __enter__(self) -> "Counted":
        self.hook = self.model.register_forward_pre_hook(self.count)
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()

    def count(self, *_: object) -> None:
        self.forwards += 1


@torch.inference_mode()
def transformers_generate(model, inputs, new: int, **extra):
    """Sequences and forwards of `model.generate`, exactly `new` tokens if the model has no eos."""
    with Counted(model) as counted:
        sequences = model.generate(
            inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            do_sample=False,
            max_new_tokens=new,
            **extra,
        )
    return sequences, counted.forwards


def unmasking_loop(model, mask_id: int, *, count: int = 0, threshold: float = 0.0):
    """A function from ids [1, L] to the filled ids and the forwards: the whole text each step."""

    @torch.inference_mode()
    def run(ids):
        x, forwards = ids, 0
        while bool((x == mask_id).any()):
            logits = model(x, use_cache=False).logits
            if threshold:
                x = fast_dllm_step(logits, x, mask_id, x.shape[1], threshold)
            else:
                x = llada_step(logits, x, mask_id, x.shape[1], [count] * len(x))
            forwards += 1
        return x, forwards

    return run
