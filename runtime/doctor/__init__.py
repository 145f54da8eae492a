"""Examines this device and a bundle: what they are like, what is wrong, and what to do about it.

Each module makes sections of the report: ``machine``, ``software``, ``caches`` and ``bundle``; ``finding`` has their
form, and ``privacy`` removes personal names. ``runtime.commands.doctor`` imports these modules; no other room does.
"""
