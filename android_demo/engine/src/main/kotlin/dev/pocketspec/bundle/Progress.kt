package dev.pocketspec.bundle

/**
 * Told how far something is: `stage` in the user's words, `done` of `total` units (bytes, files). Throws
 * [CancelledException] to end it; whoever reports then leaves nothing half-done behind and lets the exception through.
 */
fun interface Progress {
    fun report(stage: String, done: Long, total: Long)
}

/** The user asked to stop what reported its progress. */
class CancelledException : RuntimeException("Cancelled.")
