"""Batches of inputs, in order: taken from memory, or decoded a few batches ahead by threads while a network works.

Threads, since Pillow gives up Python's lock while it decodes and scales; and as many as torch has, so that one setting
shares out the cores.
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

_AHEAD = 3  # batches that are being decoded while one is used


class Fetched(NamedTuple):
    """K seeds' batches of B inputs.

    Attributes:
        places: (K, B) int64, which examples they are.
        inputs: (K, B, ...).
        broken: (K, B) bool on the CPU, where an image could not be decoded: the next one of the batch that could, its
            first after its last, stands in its place, in `places` as well; zeros where none could. None: all are whole.
        names: Of the files that are broken.
    """

    places: Tensor
    inputs: Tensor
    broken: Tensor | None = None
    names: tuple[str, ...] = ()


def fetch(
    inputs: Tensor | ImageFiles, places: Iterable[Tensor], index: Tensor | None, device: torch.device
) -> Generator[Fetched]:
    """Yield the inputs of each of `places`; close the iterator if it is not used up, which ends its threads.

    Args:
        inputs: (N, ...) on the device, or files.
        places: Of (K, B) int64, on the device, or on the CPU for files; asked for ahead of time.
        index: (K, n), rows of `inputs` by place, where the places are; None: the places themselves.
        device: Where the batches are wanted.

    Raises:
        DamagedFileError: An image cannot be decoded, and `inputs` does not skip such.
    """
    if not isinstance(inputs, Tensor):
        yield from _decoded_ahead(inputs, places, index, device)
        return
    for some in places:
        rows = some if index is None else index.gather(1, some)
        yield Fetched(some, inputs.index_select(0, rows.flatten()).view(*rows.shape, *inputs.shape[1:]))


class _Batch(NamedTuple):
    """A batch that is being decoded into `images` (K * B, ...); each future says whether its image is broken."""

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
        for some in places:
            rows = some if index is None else index.gather(1, some)
            images = torch.empty((rows.numel(), *files.shape[1:]), dtype=torch.uint8, pin_memory=device.type == "cuda")
            into = images.numpy()
            broken = [pool.submit(read, row, into, place) for place, row in enumerate(rows.flatten().tolist())]
            waiting.append(_Batch(some, rows, images, broken))
            if len(waiting) > _AHEAD:
                yield _finished(files, waiting.popleft(), device)
        while waiting:
            yield _finished(files, waiting.popleft(), device)
    finally:
        pool.shutdown(cancel_futures=True)


def _finished(files: ImageFiles, batch: _Batch, device: torch.device) -> Fetched:
    """Wait for a batch, and put others in the place of broken images."""
    broken = torch.tensor([future.result() for future in batch.broken]).view(batch.rows.shape)
    images = batch.images.view(*batch.rows.shape, *files.shape[1:])
    if not bool(broken.any()):
        return Fetched(batch.places.to(device, non_blocking=True), images.to(device, non_blocking=True))
    taken = torch.stack([_stand_ins(row) for row in broken])
    images = torch.stack([some[which] for some, which in zip(images, taken, strict=True)])
    names = tuple(files.names[row] for row in batch.rows[broken].tolist())
    return Fetched(batch.places.gather(1, taken).to(device), images.to(device), broken, names)


def _stand_ins(broken: Tensor) -> Tensor:
    """Return for each place of a batch (B,) the place whose image is taken: the next that is not broken, cyclically."""
    whole = torch.nonzero(~broken).flatten()
    own = torch.arange(len(broken))
    return whole[torch.searchsorted(whole, own) % len(whole)] if len(whole) else own
