"""Measures what decoding costs on this device, and stores the result beside the bundle.

``rows`` times forwards, ``loop`` times what a step takes beside them, ``measure.calibrate`` runs both, ``report`` shows
the result, ``stored`` keeps it for this device, and ``process_baseline`` measures an empty process. Import the
functions below from here, ``report`` and ``process_baseline`` as modules.
"""

from runtime.calibration.measure import calibrate, read_bytes
from runtime.calibration.stored import costs_of, planning_costs, recall_costs, store_costs

__all__ = ["calibrate", "costs_of", "planning_costs", "read_bytes", "recall_costs", "store_costs"]
