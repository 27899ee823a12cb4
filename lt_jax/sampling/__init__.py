"""Selects the items of a batch: orders of a training set, partners of an anchor, subsets, folds.

An order is a pure function of (seed, step), so that the data position is the step number. The global batch of INDICES
is fixed first; each host then takes its contiguous rows. So the batches do not depend on the number of hosts, or on
whether a run was interrupted. Uses only NumPy.
"""
