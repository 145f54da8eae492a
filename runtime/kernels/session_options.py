"""Options of every session, whichever kernels run in it."""

from __future__ import annotations

from collections.abc import Sequence

import onnxruntime as ort

from memory.cores import knows_cores, read_cores

PROVIDERS = ["CPUExecutionProvider"]

_ERRORS_ONLY = 3


def session_options(threads: int | None, cores: Sequence[int] = ()) -> ort.SessionOptions:
    """Options for a session whose operators have ``threads`` threads each; None: as many as there are usable cores.

    All of them but the caller's stay on ``cores``, if there are some; ``threads`` must be a number then.
    """
    options = ort.SessionOptions()
    # ONNX Runtime's own choice, one thread for each core, knows nothing of quotas. Where the system does not tell which
    # processors are threads of one core, it is the better one all the same.
    options.intra_op_num_threads = threads or (read_cores().usable if knows_cores() else 0)
    options.log_severity_level = _ERRORS_ONLY
    # A pattern would be kept for every length of the mask. It saves nothing here: within 1 MB of 35 with and without,
    # after 1,200 rows of prefill and 300 steps of a four-layer int4 graph.
    options.enable_mem_pattern = False
    # The arena keeps what the longest prompt needed, and 5 to 30 % more than is ever in use at once; without it, what
    # is in use can be predicted, and steps are as fast (0.66 ms with and without, ten layers of 256, native kernels).
    options.enable_cpu_mem_arena = False
    # Threads wait for work in a loop, which is fast, but they go on for 40 ms after a forward: those of a drafter would
    # take the cores from the target's next step. Now they stop with the forward.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if cores and threads != 1:
        assert threads is not None
        # Processors are counted from 1 there; one list for each thread that the session makes.
        numbers = ",".join(str(core + 1) for core in cores)
        options.add_session_config_entry("session.intra_op_thread_affinities", ";".join([numbers] * (threads - 1)))
    return options
