"""Runs what was written, and says how good it is: checks that can refuse an export, and measurements that cannot.

``check`` compares logits with the reference model, ``kv_quality`` and ``agreement`` measure KV types and drafters,
``kv_ranges`` how large a cache's values become, ``peak_memory`` what an export takes; ``isolated`` runs a measurement
without torch. ``limits`` has the bounds of all that, and loads without torch. Rooms above may import these modules; the
others serve them.
"""
