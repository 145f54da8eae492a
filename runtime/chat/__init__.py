"""Talking with a model: what is read from a terminal or a pipe, what is shown, and the commands in between.

``loop.run`` answers what a ``LineReader`` reads. A new command is one entry of ``commands.COMMANDS``.
"""
