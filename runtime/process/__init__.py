"""The process itself: its allocator, its pages, forks, and work in a process of its own.

``allocator`` returns freed memory to the system, ``page_memory`` takes memory page by page, ``forks`` protects objects
from being destroyed in forked processes, ``isolated`` runs a function in a new process. They know nothing of models;
every room may import them.
"""
