package dev.pocketspec

import dev.pocketspec.bundle.PocketspecException
import java.util.concurrent.locks.ReentrantLock
import kotlin.concurrent.withLock

/**
 * Decides who may use an engine's models: one thread at a time, for one answer at a time; closing may come from any.
 *
 * A step holds the lock; whoever closes the engine cancels the answer, waits for the end of its forward, and is sure
 * that nothing runs afterwards. As `runtime/turns.py`.
 */
internal class Turns {
    private val lock = ReentrantLock()
    private var current: EngineAnswer? = null

    @Volatile
    var isClosed = false
        private set

    /** Runs [action], which uses the models; PocketspecException if the engine is closed. */
    fun <T> alone(action: () -> T): T = lock.withLock {
        check()
        action()
    }

    /** Begins [answer]; the one before it must be over, or of this thread, which ends it. */
    fun begin(answer: EngineAnswer) = lock.withLock {
        check()
        val before = current
        if (before != null && !before.isOver && before.owner !== answer.owner) {
            throw PocketspecException("This engine gives an answer already; wait until it is over, or stop it.")
        }
        before?.end()
        current = answer
    }

    /** Cancels the answer, waits until its forward has ended, and calls [release]; later calls do nothing. */
    fun close(release: () -> Unit) {
        if (isClosed) return
        isClosed = true
        lock.withLock {
            current?.end()
            current = null
            release()
        }
    }

    /** Called before every forward: ends the step of an answer that was cancelled. */
    fun checkForward() {
        if (isClosed || current?.isCancelled == true) throw CancelledStep()
    }

    private fun check() {
        if (isClosed) throw PocketspecException("This engine is closed; open the bundle again.")
    }
}

/** Ends a step in the middle; the loop leaves everything as it was before the step. */
internal class CancelledStep : RuntimeException()
