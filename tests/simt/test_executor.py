"""The host executor sees each defect in planted/, and lets the healthy kernels pass."""

import ctypes

import pytest
import torch

import executor

PLANTED = executor.HERE / "planted"


def run(name, *tensors, schedule="forward", checked=True):
    """Runs planted/<name>.cu on tensors made by the caller inside executor.memory()."""
    path = executor.library(PLANTED / f"{name}.cu", checked=checked)
    arguments = [ctypes.c_void_p(t.data_ptr()) if torch.is_tensor(t) else t for t in tensors]
    with executor.opened(path, schedule) as loaded:
        error = loaded.planted(*arguments)
        if error:
            loaded.tokenburst_cuda_error.restype = ctypes.c_char_p
            raise executor.KernelError(loaded.tokenburst_cuda_error(error).decode())


DEFECTS = {  # what the message says, and the line it names
    "global_read": (r"add_neighbour, block .*: out of bounds: reads 4 .*0 bytes past the end", 6),
    "global_write": (r"copy, block .*: out of bounds: writes 4 .*past the end", 6),
    "shared_static": (r"out of bounds: index (3[2-9]|[45]\d|6[0-3]) of an array", 7),
    "shared_dynamic": (r"thread \(63,0,0\): out of bounds: writes .*\(252 dynamic", 7),
    "shared_uninitialised": (r"uninitialised: reads 4 bytes at static shared memory", 10),
    "shared_race": (r"race: (reads|writes) 4 bytes at static shared memory", None),
    "shared_race_reuse": (r"race: (reads|writes) 4 bytes at static shared memory", None),
    "global_race": (r"race: (reads|writes) .*of another block (read|wrote) with no barrier", None),
    "barrier_divergent": (r"divergent barrier: .*ended", 9),
    "barrier_different": (
        r"divergent barrier: threads .* wait in another one, at .*different",
        None,
    ),
    "syncwarp_missing": (r"race: reads .*which thread \d+ wrote with no barrier between", 9),
    "lanes_missing": (r"deadlock: .*threads 0-15 in a shuffle .*threads 16-31 in a barrier", None),
    "wait_missing": (r"missing cp_async_wait: .*copy started at .*wait_missing.cu:8", 13),
    "misaligned": (r"misaligned access", 7),
    "named_race": (r"race: (reads|writes) 4 bytes at static shared memory", None),
    "named_arrive_race": (r"race: (reads|writes) 4 bytes at static shared memory", None),
    "named_early": (r"race: (reads|writes) 4 bytes at static shared memory", None),
    "named_count": (r"staged, block .*, thread .*: deadlock: .*3 has 64 of its 96 threads", 7),
    "named_disagree": (r"named barrier 3 of (64|96) threads, but thread \d+ .*disagree.cu:7", 7),
    "named_unmatched": (r"block ended with .*: named barrier 4 has 32 of its 64 threads", 7),
    "named_twice": (r"named barrier 5: this thread comes again, but it has only \d+ of its 96", 8),
    "named_id": (r"named barrier 16: ids are 1 to 15", 7),
    "named_zero": (r"named barrier 0: ids are 1 to 15, 0 is __syncthreads", 7),
    "named_odd": (r"named barrier 1 of 80 threads, no positive multiple of the warp size", 7),
    "named_many": (r"named barrier 1 of 128 threads in a block of 96", 7),
}


@pytest.mark.parametrize("schedule", executor.SCHEDULES)
@pytest.mark.parametrize("name", DEFECTS)
def test_defect_is_caught(name, schedule):
    message, line = DEFECTS[name]
    with executor.memory():
        source, out = torch.ones(50), torch.zeros(50)
        with pytest.raises(executor.KernelError, match=message) as caught:
            run(name, source, out, 50, schedule=schedule)
    assert line is None or str(caught.value).endswith(f"{name}.cu:{line}"), caught.value


def test_order_dependent_result_differs_between_schedules():
    results = []
    for schedule in executor.SCHEDULES:
        with executor.memory():
            source, out = torch.linspace(0.1, 7, 301), torch.zeros(301)
            run("order_dependent", source, out, 301, schedule=schedule)
            results.append(out[0].item())
    assert len(set(results)) > 1


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("schedule", executor.SCHEDULES)
def test_healthy_kernel_passes(schedule, checked):
    with executor.memory():
        a, b = torch.randn(16, 16).bfloat16(), torch.randn(16, 8).bfloat16()
        out, counts = torch.empty(16, 8), torch.empty(32, dtype=torch.int32)
        run("healthy", a, b, out, counts, schedule=schedule, checked=checked)
        torch.testing.assert_close(out, a.float() @ b.float(), rtol=1e-5, atol=1e-5)
        want = [
            (31 if i < 16 else 15) + 100 * 16 + 10000 * (i - (i % 16 > 0)) + 1000000 * 32
            for i in range(32)
        ]
        assert counts.tolist() == want


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("schedule", executor.SCHEDULES)
def test_named_barriers_order_producer_and_consumers(schedule, checked):
    with executor.memory():
        source, out = torch.arange(160.0), torch.empty(2, 3, 32)
        run("named_healthy", source, out, 5, schedule=schedule, checked=checked)
        sums = source.view(5, 32).sum(0).flip(0)  # exact, so every order has the same bits
        assert torch.equal(out, torch.stack([sums, 3 * sums, 7 * sums]).expand(2, 3, 32))


@pytest.mark.parametrize("schedule", executor.SCHEDULES)
def test_last_block_may_read_what_others_published(schedule):
    with executor.memory():
        source, out = torch.ones(100), torch.zeros(5)
        run("ticket", source, out, torch.zeros(1, dtype=torch.int32), 100, schedule=schedule)
        assert out.tolist() == [32, 32, 32, 4, 100]
