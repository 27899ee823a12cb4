"""Which items make up a batch: orders of a training set, partners of an anchor, subsets. NumPy alone.

An order is a pure function of (seed, step), so that the data position is the step number. The global batch of INDICES
is fixed first; each host then takes its contiguous rows. A run on 1, 2 or 4 hosts, or one that was killed, sees the
same batches.
"""
