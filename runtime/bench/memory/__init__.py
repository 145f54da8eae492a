"""Measures the memory of a planned conversation, and of a process without a model.

``planned_conversation`` runs a plan for ``runtime.commands.bench_memory``, which ``python -m memory verify`` starts.
``empty_process`` is a program: ``runtime.calibration.process_baseline`` starts it. ``tiny_sessions`` belongs to it.
"""
