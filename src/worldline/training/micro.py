"""One batch in several parts: what does not fit into memory at once gives the same gradients piece by piece."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from worldline.batch import Batch


def micro_batches(batch: Batch, num_parts: int) -> Iterator[tuple[Batch, Tensor]]:
    """Yield `num_parts` parts of the batch's windows (fewer if it has fewer) and their weights `[]`, which sum to 1.

    A part weighs what its share of the real rows is: then the weighted sum of the parts' losses is the loss of the
    batch, and so are the gradients, if the loss is a mean over real rows.
    """
    num_parts = min(num_parts, batch.batch_size)
    num_rows = batch.step_mask.sum().clamp_min(1)
    for part in range(num_parts):
        piece = _windows(batch, batch.batch_size * part // num_parts, batch.batch_size * (part + 1) // num_parts)
        yield piece, piece.step_mask.sum() / num_rows


def _windows(batch: Batch, begin: int, end: int) -> Batch:
    return batch.map(lambda tensor: tensor[begin:end])
