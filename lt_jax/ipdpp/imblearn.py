"""IP-DPP as an under-sampler for imbalanced-learn, with any scikit-learn classifier (optional extra)."""

import numbers
from typing import Any

import jax
import numpy as np

try:
    from imblearn.under_sampling import RandomUnderSampler
    from imblearn.under_sampling.base import BaseUnderSampler
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "lt_jax.ipdpp.imblearn needs imbalanced-learn: pip install 'lt_jax[imblearn]'", name=error.name
    ) from error
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

import lt_jax.ipdpp


class IPDPPUnderSampler(BaseUnderSampler):
    """Under-sample classes by IP-DPP: keep items that a cross-validated classifier finds hard.

    Every item gets the probability of its own class from a model that was not trained on it; each class that
    `sampling_strategy` reduces is then sampled by lt_jax.ipdpp.sample. Your own estimator receives text columns and
    missing values unchanged. A DataFrame keeps its index.

    Parameters
    ----------
    estimator : classifier with predict_proba, default=LogisticRegression(max_iter=1000)
    sampling_strategy : as in imbalanced-learn, default="auto" (every class but the smallest, to its size)
    cv : int >= 2, default=5; folds, at most as many as the smallest class has items (but two)
    method : {"rank_one", "eigen", "uniform"}, default="rank_one"
    random_state : int, RandomState or None

    Attributes
    ----------
    sample_indices_ : ndarray of the chosen rows
    probabilities_ : ndarray (n_samples,), p of each item's own class
    """

    _parameter_constraints = {
        **BaseUnderSampler._parameter_constraints,
        "estimator": [HasMethods(["fit", "predict_proba"]), None],
        "cv": [Interval(numbers.Integral, 2, None, closed="left")],
        "method": [StrOptions({"rank_one", "eigen", "uniform"})],
        "random_state": ["random_state"],
    }

    def __init__(self, estimator=None, *, sampling_strategy="auto", cv=5, method="rank_one", random_state=None):
        super().__init__(sampling_strategy=sampling_strategy)
        self.estimator = estimator
        self.cv = cv
        self.method = method
        self.random_state = random_state

    def fit_resample(self, X, y, **params):
        """The chosen rows of X and y, with the types of the input."""
        resampled = super().fit_resample(X, y, **params)
        for before, after in zip((X, y), resampled, strict=True):
            if hasattr(before, "iloc"):
                after.index = before.index[self.sample_indices_]
        return resampled

    def _check_X_y(self, X: Any, y: Any) -> tuple[Any, ...]:
        """Checks X and y; only the default estimator needs finite numbers, any other gets X unchecked."""
        if self.estimator is None:
            return super()._check_X_y(X, y)
        return RandomUnderSampler._check_X_y(self, X, y)

    def _fit_resample(self, X: Any, y: np.ndarray) -> tuple[Any, ...]:
        random_state = check_random_state(self.random_state)
        key = jax.random.key(random_state.randint(np.iinfo(np.int32).max))
        self.probabilities_ = self._cross_validated(X, y, random_state)
        chosen = []
        for number, label in enumerate(np.unique(y)):
            items = np.flatnonzero(y == label)
            if label in self.sampling_strategy_:
                drawn = lt_jax.ipdpp.sample(
                    jax.random.fold_in(key, number),
                    self.probabilities_[items],
                    self.sampling_strategy_[label],
                    self.method,
                )
                items = items[np.asarray(drawn)]
            chosen.append(items)
        self.sample_indices_ = np.concatenate(chosen)
        return _safe_indexing(X, self.sample_indices_), _safe_indexing(y, self.sample_indices_)

    def _cross_validated(self, X: Any, y: np.ndarray, random_state: Any) -> np.ndarray:
        """Probability of each item's class from the model that was not trained on it, (n_samples,)."""
        estimator = LogisticRegression(max_iter=1000) if self.estimator is None else self.estimator
        classes, counts = np.unique(y, return_counts=True)
        folds = StratifiedKFold(
            min(self.cv, max(2, counts.min())), shuffle=True, random_state=random_state.randint(2**31 - 1)
        )
        probabilities = np.zeros(len(y))
        # A class of one item cannot be a stratum of its own; it joins the largest class.
        strata = np.where(np.isin(y, classes[counts >= 2]), y, classes[counts.argmax()])
        for train, held_out in folds.split(X, strata):
            in_training = np.unique(y[train])
            if len(in_training) == 1:  # of two classes, one has a single item, which is held out
                probabilities[held_out] = y[held_out] == in_training[0]
                continue
            model = clone(estimator).fit(_safe_indexing(X, train), y[train])
            predicted = model.predict_proba(_safe_indexing(X, held_out))
            # A class without an item in training gets probability zero.
            column = np.searchsorted(model.classes_, y[held_out]).clip(max=len(model.classes_) - 1)
            known = model.classes_[column] == y[held_out]
            rows = np.arange(len(held_out))
            probabilities[held_out] = np.where(known, predicted[rows, column], 0)
        return probabilities.clip(0, 1)

    def _more_tags(self) -> Any:  # scikit-learn below 1.6
        return {"sample_indices": True}

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.sampler_tags.sample_indices = True
        return tags
