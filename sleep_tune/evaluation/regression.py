"""Ordinary least squares with the numbers that statsmodels prints, in numpy. Arrays in, numbers out.

Legend: N observations, K regressors (the constant among them), R their rank.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from sleep_tune.evaluation.plan import Array


@dataclass(frozen=True)
class Fit:
    """A regression; coefficient, t and p value are those of the last regressor."""

    r2: float
    aic: float
    coefficient: float
    t: float
    p: float


def design(columns: Mapping[str, Array], names: Sequence[str]) -> Array:
    """Regressors (N, K): a constant, the columns `names` and the product of every two of them."""
    mains = [np.asarray(columns[name], dtype=float) for name in names]
    products = [one * two for one, two in combinations(mains, 2)]
    return np.stack([np.ones_like(mains[0]), *mains, *products], axis=1)


def least_squares(x_NK: Array, y_N: Array) -> Fit | None:
    """Regress `y_N` on `x_NK`, which holds a constant. None where there is nothing to explain or nothing to tell it from."""
    n = len(y_N)
    total = float(((y_N - y_N.mean()) ** 2).sum()) if n else 0.0
    if not np.isfinite(x_NK).all() or not total > 0 or not x_NK.any(0).all():
        return None
    scale_K, u_NR, inverse_KN = _decompose(x_NK)
    rank = u_NR.shape[1]
    if n <= rank:
        return None
    beta_K = inverse_KN @ y_N
    rest = float(((y_N - u_NR @ (u_NR.T @ y_N)) ** 2).sum())
    error = float(np.sqrt(rest / (n - rank) * (inverse_KN[-1] ** 2).sum()))
    t = float(beta_K[-1]) / error if error > 0 else float("nan")
    likelihood = -n / 2 * (np.log(2 * np.pi * rest / n) + 1) if rest > 0 else float("inf")
    from scipy.stats import t as students_t  # half a second, for few tasks

    p = float(2 * students_t.sf(abs(t), n - rank))
    return Fit(1 - rest / total, float(2 * rank - 2 * likelihood), float(beta_K[-1] / scale_K[-1]), t, p)


def _decompose(x_NK: Array) -> tuple[Array, Array, Array]:
    """The columns' lengths, an orthonormal basis of what they span (N, rank), and the pseudo-inverse of the columns at length 1 (K, N).

    Columns are scaled first: products of columns span five orders of magnitude. One of zeros stays.
    """
    length_K = np.linalg.norm(x_NK, axis=0)
    scale_K = np.where(length_K > 0, length_K, 1.0)
    u_NK, s_K, vt_KK = np.linalg.svd(x_NK / scale_K, full_matrices=False)
    keep_K = s_K > s_K[0] * np.finfo(float).eps * max(x_NK.shape)
    return scale_K, u_NK[:, keep_K], (vt_KK[keep_K].T / s_K[keep_K]) @ u_NK[:, keep_K].T


def partial_r2(base: Fit | None, full: Fit | None) -> float:
    """Share of the variance that `base` leaves which `full` explains; NaN where there is none or a fit is missing."""
    if base is None or full is None or base.r2 >= 1:
        return float("nan")
    return (full.r2 - base.r2) / (1 - base.r2)


def partial_r2_without(base_NK: Array, x_N: Array, y_N: Array, group_N: Array) -> Array:
    """Partial R2 of `x_N` for `y_N` beyond `base_NK` with each group (numbers from 0) left out in turn, (groups,).

    The influence of a group on the regression on `base_NK` is neglected: what is left of x and y then only has to be summed.
    """
    _, u_NR, _ = _decompose(base_NK)
    x_N, y_N = x_N - u_NR @ (u_NR.T @ x_N), y_N - u_NR @ (u_NR.T @ y_N)
    xy, xx, yy = ((product.sum() - np.bincount(group_N, product)) for product in (x_N * y_N, x_N * x_N, y_N * y_N))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(xy**2 / (xx * yy))


def jackknife_stderr(values_G: Array) -> float:
    """Standard error of a statistic from its values with one of G groups left out."""
    g = len(values_G)
    return float(np.sqrt((g - 1) * np.var(values_G))) if g > 1 else float("nan")
