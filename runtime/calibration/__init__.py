"""Measures what forwards and the loop around them cost on this device, and keeps that beside the bundle.

``rows`` times forwards, ``loop`` what a step takes beside them, ``measure`` puts both together; ``stored`` keeps the
result, for this device alone.
"""

from runtime.calibration.measure import calibrate, read_bytes
from runtime.calibration.stored import costs_of, planning_costs, recall_costs, store_costs

__all__ = ["calibrate", "costs_of", "planning_costs", "read_bytes", "recall_costs", "store_costs"]
