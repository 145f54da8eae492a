"""Holds one conversation in several settings, each in its own process, and compares speed, memory and text.

``settings`` makes settings from their names, ``measure`` holds the conversation and measures it, ``report`` shows the
result. ``runtime.commands.bench_conversation`` imports these modules; no other room does.
"""
