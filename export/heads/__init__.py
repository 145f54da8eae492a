"""Prediction heads: small drafters that read hidden rows of the target beside tokens.

``head`` is what all heads have in common; every other module is one kind: how a checkpoint shows that it has such a
head, the torch module, and the names of its tensors. ``find_head`` and ``HeadTensors`` are all that others need.
"""
