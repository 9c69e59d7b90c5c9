"""A selector object for those used to scikit-learn or apricot; `select` does the work."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from thriftune.errors import StrategyError
from thriftune.selection.run import select
from thriftune.types import FloatArray, IntArray, Selection


class Selector:
    """Pick rows of an embedding matrix.

    Args:
        strategy: its name, see ``thriftune strategies``.
        budget: how many rows, or a share such as ``"10%"``.
        seed: of randomised strategies.
        params: the strategy's own, and ``transform``.

    After `fit`: ``ranking_`` (k,) rows in pick order, ``gains_`` (k,) or None, ``selection_``.
    """

    ranking_: IntArray
    gains_: FloatArray | None
    selection_: Selection

    def __init__(
        self, strategy: str = "facility_location", budget: int | str = "10%", *, seed: int = 0, **params: Any
    ) -> None:
        self.strategy, self.budget, self.seed, self.params = strategy, budget, seed, params

    def fit(self, X: Any, y: Any = None, **columns: Any) -> Selector:
        """Pick rows of ``X``.

        Args:
            X: (n, d) float embeddings.
            y: ignored; scikit-learn passes it.
            columns: ``scores``, ``tasks``, ``annotated``, ... as `select` takes them.

        Returns:
            Itself.

        Raises:
            StrategyError: as `select`.
        """
        self.selection_ = select(
            embeddings=X, strategy=self.strategy, budget=self.budget, seed=self.seed, **columns, **self.params
        )
        self.ranking_, self.gains_ = self.selection_.rows, self.selection_.gains
        return self

    def transform(self, X: Any) -> npt.NDArray[Any]:
        """The picked rows of ``X`` (n, d), in pick order.

        Raises:
            StrategyError: before `fit`.
        """
        if not hasattr(self, "ranking_"):
            raise StrategyError("this selector has not picked anything yet: call fit(X) first")
        import numpy as np

        return np.asarray(X)[self.ranking_]

    def fit_transform(self, X: Any, y: Any = None, **columns: Any) -> npt.NDArray[Any]:
        """`fit`, then `transform`."""
        return self.fit(X, y, **columns).transform(X)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings, as scikit-learn's ``clone`` asks for them."""
        return {"strategy": self.strategy, "budget": self.budget, "seed": self.seed, **self.params}

    def set_params(self, **settings: Any) -> Selector:
        """Change settings; returns itself."""
        for name, value in settings.items():
            if name in ("strategy", "budget", "seed"):
                setattr(self, name, value)
            else:
                self.params[name] = value
        return self
