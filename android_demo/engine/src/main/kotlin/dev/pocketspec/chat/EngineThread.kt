package dev.pocketspec.chat

import java.util.concurrent.LinkedBlockingQueue

/** The one thread that calls the engine; whoever gives it work goes on at once. */
class EngineThread {
    private val work = LinkedBlockingQueue<() -> Unit>()
    private val thread = Thread(::loop, "pocketspec-engine").apply { isDaemon = true }

    @Volatile
    private var isClosed = false

    init {
        thread.start()
    }

    /** Runs [action] after what was given before; nothing after [close]. */
    fun post(action: () -> Unit) {
        if (!isClosed) work.add(action)
    }

    /** Runs [last] after what was given before, then ends the thread. Does not wait. */
    fun close(last: () -> Unit) {
        if (isClosed) return
        isClosed = true
        work.add(last)
        work.add(END)
    }

    /** Waits until the thread has ended; for tests, never for the screen's thread. */
    fun join(milliseconds: Long) = thread.join(milliseconds)

    private fun loop() {
        while (true) {
            val action = work.take()
            if (action === END) return
            action()
        }
    }

    private companion object {
        val END: () -> Unit = {}
    }
}
