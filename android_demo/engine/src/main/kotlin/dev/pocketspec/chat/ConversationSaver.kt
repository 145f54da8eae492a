package dev.pocketspec.chat

/** Saves the state's conversation; while an answer grows, once a second. On the engine's thread. */
class ConversationSaver(
    private val file: ConversationFile,
    private val holder: StateHolder,
    private val milliseconds: () -> Long,
) {
    private var savedAt = 0L

    /** Saves now. PocketspecException if there is no room. */
    fun save() {
        savedAt = milliseconds()
        file.save(conversation(holder.state))
    }

    /** Saves if the last time was a second ago. */
    fun saveNowAndThen() {
        if (milliseconds() - savedAt >= PAUSE_MILLISECONDS) save()
    }

    companion object {
        private const val PAUSE_MILLISECONDS = 1_000L

        /** What is kept of [state]: an answer in the middle counts as interrupted. */
        fun conversation(state: ChatState): Conversation {
            val partial = state.streaming?.takeIf { it.pieces.isNotEmpty() }?.copy(finish = "interrupted")
            val messages = if (partial == null) state.messages else state.messages + partial
            return Conversation(state.bundle, state.budgetBytes, state.speculation, messages)
        }
    }
}
