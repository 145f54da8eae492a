package dev.pocketspec.chat

import java.util.concurrent.atomic.AtomicReference

/** One answer on the engine's thread: step by step, while [stop] may come from any thread. */
class AnswerRun(private val engine: ChatEngine) {
    @Volatile
    private var isStopped = false
    private val stream = AtomicReference<AnswerStream?>()

    /** Ends the answer after the step that runs. */
    fun stop() {
        isStopped = true
        stream.get()?.cancel()
    }

    /** Decodes the answer to the last of [messages]; [between] is called before each step, [show] after it. */
    fun run(
        messages: List<ShownMessage>,
        settings: AnswerSettings,
        between: () -> Unit,
        show: (AnswerChunk) -> Unit,
    ) {
        engine.answer(messages.map { it.toMessage() }, settings).use { answer ->
            stream.set(answer)
            try {
                if (isStopped) answer.cancel()
                while (answer.hasNext()) {
                    between()
                    show(answer.next())
                }
            } finally {
                stream.set(null)
            }
        }
    }
}
