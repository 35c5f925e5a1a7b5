"""Batches of inputs in order, taken from memory, or decoded by threads a few batches ahead of the network.

Threads are used because Pillow releases the global interpreter lock while it decodes and scales. Their number is that
of torch's threads, so that one setting distributes the cores.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emphasis.datasets.errors import DamagedFileError
from emphasis.datasets.image_files import ImageFiles

_AHEAD = 3  # batches that are decoded in advance


class Fetched(NamedTuple):
    """K seeds' batches of B inputs.

    Attributes:
        places: (K, B) int64, positions of the examples in the training set.
        inputs: (K, B, ...) inputs.
        broken: (K, B) bool on the CPU, whether an image could not be decoded. It is replaced by the next image of the
            batch (cyclically) that could, in `places` as well, or by zeros if there is none. None if no image is
            broken.
        names: Names of the broken files.
    """

    places: Tensor
    inputs: Tensor
    broken: Tensor | None = None
    names: tuple[str, ...] = ()


def fetch(
    inputs: Tensor | ImageFiles, places: Iterable[Tensor], index: Tensor | None, device: torch.device
) -> Generator[Fetched]:
    """Yield the inputs at each of `places`; close the iterator if it is not exhausted, to end its threads.

    Args:
        inputs: Inputs (N, ...) on the device, or files.
        places: Positions (K, B) int64 of each batch, on the device, or on the CPU for files; consumed in advance.
        index: (K, n) rows of `inputs` at the positions, on the device of `places`; None if they are the same.
        device: Device of the batches.

    Raises:
        DamagedFileError: An image cannot be decoded, and `inputs` does not skip broken images.
    """
    if not isinstance(inputs, Tensor):
        yield from _decoded_ahead(inputs, places, index, device)
        return
    for positions in places:
        rows = positions if index is None else index.gather(1, positions)
        yield Fetched(positions, inputs.index_select(0, rows.flatten()).view(*rows.shape, *inputs.shape[1:]))


class _Batch(NamedTuple):
    """A batch that is being decoded into `images` (K * B, ...); each future returns whether its image is broken."""

    places: Tensor
    rows: Tensor
    images: Tensor
    broken: list[Future[bool]]


def _decoded_ahead(
    files: ImageFiles, places: Iterable[Tensor], index: Tensor | None, device: torch.device
) -> Generator[Fetched]:
    waiting: deque[_Batch] = deque()
    pool = ThreadPoolExecutor(torch.get_num_threads(), "decoder")

    def read(row: int, images: NDArray[np.uint8], place: int) -> bool:
        try:
            images[place] = files.read(row)
        except DamagedFileError:
            if not files.skip_broken:
                raise
            images[place] = 0
            return True
        return False

    try:
        for positions in places:
            rows = positions if index is None else index.gather(1, positions)
            images = torch.empty((rows.numel(), *files.shape[1:]), dtype=torch.uint8, pin_memory=device.type == "cuda")
            into = images.numpy()
            broken = [pool.submit(read, row, into, place) for place, row in enumerate(rows.flatten().tolist())]
            waiting.append(_Batch(positions, rows, images, broken))
            if len(waiting) > _AHEAD:
                yield _finished(files, waiting.popleft(), device)
        while waiting:
            yield _finished(files, waiting.popleft(), device)
    finally:
        pool.shutdown(cancel_futures=True)


def _finished(files: ImageFiles, batch: _Batch, device: torch.device) -> Fetched:
    """Wait for a batch to be decoded, and replace broken images by others."""
    broken = torch.tensor([future.result() for future in batch.broken]).view(batch.rows.shape)
    images = batch.images.view(*batch.rows.shape, *files.shape[1:])
    if not bool(broken.any()):
        return Fetched(batch.places.to(device, non_blocking=True), images.to(device, non_blocking=True))
    stand_ins = torch.stack([_stand_ins(row) for row in broken])
    images = torch.stack([images_of_seed[sources] for images_of_seed, sources in zip(images, stand_ins, strict=True)])
    names = tuple(files.names[row] for row in batch.rows[broken].tolist())
    return Fetched(batch.places.gather(1, stand_ins).to(device), images.to(device), broken, names)


def _stand_ins(broken: Tensor) -> Tensor:
    """Return the index of the image to use at each index of a batch, (B,): the next unbroken image, cyclically."""
    intact = torch.nonzero(~broken).flatten()
    positions = torch.arange(len(broken))
    return intact[torch.searchsorted(intact, positions) % len(intact)] if len(intact) else positions
