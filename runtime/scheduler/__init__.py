"""Chooses the drafter and the draft size of every step, to deliver as many tokens a second as possible.

``cost_based`` is the default policy and ``fixed`` always picks the same; ``methods`` forecasts what steps bring. May be
imported: ``cost_based``, ``fixed``, ``available`` and the values of ``forecast``; the estimates behind them
(``latency``, ``acceptance_stats``, ``loss_budget``) are the policy's own.
"""
