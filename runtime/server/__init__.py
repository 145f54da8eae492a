"""An OpenAI-compatible HTTP server: requests in, answers of engines out, each engine in one thread of its own.

``requests`` says what a client may ask, ``routes`` answers it. Between them, ``prepare`` turns a request into tokens,
``fair_queue`` and ``worker`` decide whose turn it is, and ``segments``, ``reasoning`` and ``tool_calls`` tell the parts
of an answer apart. Modules here import Starlette, uvicorn, pydantic and prometheus-client (the extra ``server``), so
nothing but ``runtime.commands.serve`` imports this room, and only when it runs.
"""
