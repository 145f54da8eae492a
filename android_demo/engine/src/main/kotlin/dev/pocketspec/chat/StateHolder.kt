package dev.pocketspec.chat

import java.util.concurrent.atomic.AtomicBoolean

/** Runs actions on the thread of the screen, in their order, and returns at once. */
fun interface UiThread {
    fun post(action: () -> Unit)
}

/**
 * Holds the state. Any thread may change it and none waits: the view sees the newest state on the screen's thread, and
 * states that came faster than the screen are passed over.
 */
class StateHolder(private val ui: UiThread, initial: ChatState) {
    private val lock = Any()
    private val isPosted = AtomicBoolean()
    private var view: ((ChatState) -> Unit)? = null

    @Volatile
    var state: ChatState = initial
        private set

    /** Replaces the state by what [change] makes of it; [change] must be quick. */
    fun update(change: (ChatState) -> ChatState) {
        synchronized(lock) { state = change(state) }
        if (!isPosted.getAndSet(true)) ui.post(::show)
    }

    /** On the screen's thread: [shown] gets the state now, and whenever it changes; null is nobody. */
    fun attach(shown: ((ChatState) -> Unit)?) {
        view = shown
        shown?.invoke(state)
    }

    private fun show() {
        isPosted.set(false)
        view?.invoke(state)
    }
}
