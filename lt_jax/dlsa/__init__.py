"""DLSA: stepwise division of head and tail on fixed features, by a normalising flow with a mixture base.

    model = dlsa.fit(key, features, labels, config)
    labels, depth, log_likelihood = dlsa.predict(model, features)

`config` is what `configs.common.dlsa` returns.
"""

from lt_jax.dlsa.divide import Depth, Model, fit, predict, scores
from lt_jax.dlsa.filter import FlowFilter, fit_flow_filter
from lt_jax.dlsa.flow import Flow

__all__ = ["Depth", "Flow", "FlowFilter", "Model", "fit", "fit_flow_filter", "predict", "scores"]
