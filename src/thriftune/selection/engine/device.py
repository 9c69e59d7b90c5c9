"""Matrix products by torch, on a GPU above all; everything else stays what it is on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from thriftune.errors import StrategyError, require
from thriftune.types import FloatArray, IntArray


class Rows:
    """Rows (n, d) float32 kept on a torch device.

    Args:
        a: the rows.
        device: as torch names it: ``cuda``, ``cuda:1``, ``cpu``.

    Raises:
        StrategyError: torch has no such device.
    """

    def __init__(self, a: FloatArray, device: str) -> None:
        torch: Any = require("torch", command=f"device={device}", install="'thriftune[score]'")
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise StrategyError(f"device is {device!r}, and torch {torch.__version__} finds no GPU: use device=cpu")
        try:
            self.a = torch.from_numpy(np.ascontiguousarray(a)).to(device)
        except torch.cuda.OutOfMemoryError:
            raise StrategyError(
                f"{a.nbytes / 2**30:.1f} GiB of embeddings do not fit into the memory of {device}: use device=cpu"
            ) from None
        self.torch, self.device = torch, device

    def products(self, left: IntArray | slice, right: IntArray | slice) -> FloatArray:
        """(b, c) float32 products of the rows ``left`` with the rows ``right``, in single precision, never less."""
        # Whoever calls may have allowed TF32 or bfloat16 inside products, whose errors our bounds do not allow for.
        allowed = self.torch.get_float32_matmul_precision()
        self.torch.set_float32_matmul_precision("highest")
        try:
            with self.torch.inference_mode():
                found = self._take(left) @ self._take(right).T
        finally:
            self.torch.set_float32_matmul_precision(allowed)
        return np.asarray(found.cpu().numpy())

    def _take(self, rows: IntArray | slice) -> Any:
        if isinstance(rows, slice):
            return self.a[rows]
        return self.a[self.torch.from_numpy(np.ascontiguousarray(rows, np.int64)).to(self.device)]
