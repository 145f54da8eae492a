"""The options that every session has, with any kernels."""

from __future__ import annotations

from collections.abc import Sequence

import onnxruntime as ort

from memory.cores import knows_cores, read_cores

PROVIDERS = ["CPUExecutionProvider"]

_ERRORS_ONLY = 3


def session_options(threads: int | None, cores: Sequence[int] = ()) -> ort.SessionOptions:
    """Options for a session whose operators use ``threads`` threads each; None: as many as there are usable cores.

    All threads but the caller's stay on ``cores``, if any are given; then ``threads`` must be a number.
    """
    options = ort.SessionOptions()
    # ONNX Runtime's default, one thread for each core, ignores CPU quotas. It is used only where the system does not
    # say which processors are threads of one core, because ONNX Runtime knows more there.
    options.intra_op_num_threads = threads or (read_cores().usable if knows_cores() else 0)
    options.log_severity_level = _ERRORS_ONLY
    # ONNX Runtime would keep a pattern for every length of the mask, and save nothing: 35 MB within 1 MB with and
    # without, after 1,200 rows of prefill and 300 steps of a four-layer int4 graph.
    options.enable_mem_pattern = False
    # The arena keeps what the longest prompt needed, and 5 to 30 % more than is ever in use at once. Without it memory
    # can be predicted, and steps are as fast (0.66 ms with and without, ten layers of 256, native kernels).
    options.enable_cpu_mem_arena = False
    # Threads spin while they wait for work, which is fast, but they would go on for 40 ms after a forward: a drafter's
    # threads would take the cores from the target's next step. With this entry they stop with the forward.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if cores and threads != 1:
        assert threads is not None
        # ONNX Runtime counts processors from 1, and wants one list for each thread that the session creates.
        numbers = ",".join(str(core + 1) for core in cores)
        options.add_session_config_entry("session.intra_op_thread_affinities", ";".join([numbers] * (threads - 1)))
    return options
