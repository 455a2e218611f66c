import threading

import numpy as np
import torch

from data_prep.shards.buffers import MIN_BYTES, Buffers


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_memory_is_taken_again_only_when_no_tensor_is_left_over_it():
    buffers = Buffers()
    array = buffers.empty(MIN_BYTES, np.float32)
    first = address(array)
    part = torch.from_numpy(array).view(torch.uint8).view(torch.float16).view(-1, 64)[100:, 3]
    del array
    assert address(buffers.empty(MIN_BYTES, np.float32)) != first
    looked_at = part.numpy()
    del part
    assert address(buffers.empty(MIN_BYTES, np.float32)) != first
    del looked_at
    taken = {address(one) for one in [buffers.empty(MIN_BYTES, np.float32) for _ in range(2)]}
    assert first in taken


def test_memory_much_too_large_or_too_small_is_not_taken_and_only_some_is_kept():
    buffers = Buffers(max_kept=3)
    sizes = [MIN_BYTES * number for number in (1, 5, 20, 40, 80)]
    arrays = [buffers.empty(size, np.uint8) for size in sizes]
    assert [len(array) for array in arrays] == sizes
    while arrays:
        del arrays[0]
    assert sorted(block.nbytes for block in buffers._free) == sizes[-3:]
    assert len(buffers.empty(MIN_BYTES * 6, np.uint8)) == MIN_BYTES * 6
    kept = {address(block) for block in buffers._free}
    assert address(buffers.empty(MIN_BYTES * 30, np.uint8)) in kept


def test_threads_never_get_the_same_memory():
    buffers, wrong = Buffers(), []

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(200):
            array = buffers.empty(int(random.integers(1, 3) * MIN_BYTES), np.uint8)
            tensor = torch.from_numpy(array)
            del array
            tensor[:: 1 << 16] = seed
            if not (tensor[:: 1 << 16] == seed).all():
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong
