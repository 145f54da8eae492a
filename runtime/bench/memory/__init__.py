"""Measures the memory that a planned conversation, or an empty process, really takes.

``planned_conversation`` runs a plan for ``runtime.commands.bench_memory``, which ``python -m memory verify`` starts.
``empty_process`` is a program: ``runtime.calibration.process_baseline`` starts it. ``tiny_sessions`` belongs to it.
"""
