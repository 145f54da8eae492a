package dev.pocketspec.chat

import dev.pocketspec.decoding.Stats
import dev.pocketspec.decoding.TextPiece
import dev.pocketspec.text.Message

/** What the app is doing. */
enum class Phase { NO_BUNDLE, IMPORTING, OPENING, READY, ANSWERING }

/** How far an import or an opening is: [done] of [total] units of [stage]; a total of 0 is not known. */
data class ProgressView(val stage: String, val done: Long, val total: Long)

/**
 * One message as it is shown. [finish] is as in [Stats]; "interrupted" if the process ended in the middle,
 * and "failed" if the engine did.
 */
data class ShownMessage(val role: String, val pieces: List<TextPiece>, val finish: String? = null) {
    val text: String get() = pieces.joinToString("") { it.text }

    /** This message with more text; neighbours of one source become one piece. */
    operator fun plus(more: List<TextPiece>): ShownMessage {
        val joined = ArrayList(pieces)
        for (piece in more) {
            val last = joined.lastOrNull()
            if (last?.source == piece.source) {
                joined[joined.size - 1] = TextPiece(last.text + piece.text, piece.source)
            } else {
                joined.add(piece)
            }
        }
        return copy(pieces = joined)
    }

    fun toMessage(): Message = Message(role, text)

    companion object {
        const val USER = "user"
        const val ASSISTANT = "assistant"

        /** What the user said. */
        fun ofUser(text: String) = ShownMessage(USER, listOf(TextPiece(text, USER)))
    }
}

/**
 * All that the screen shows, as one immutable value.
 *
 * [streaming] is the answer that grows, null between answers. [error] is a sentence with its remedy; [canRetry] says
 * whether `retry` would do again what failed, or answer the last message anew. [budgetBytes] is what the user allows;
 * the plan's is smaller while the device is short of memory, and [isShrunk] then.
 */
data class ChatState(
    val phase: Phase = Phase.NO_BUNDLE,
    val bundle: String? = null,
    val messages: List<ShownMessage> = emptyList(),
    val streaming: ShownMessage? = null,
    val statistics: Stats? = null,
    val plan: PlanView? = null,
    val memory: MemoryReading? = null,
    val budgetBytes: Long = 0,
    val speculation: Boolean = true,
    val progress: ProgressView? = null,
    val error: String? = null,
    val canRetry: Boolean = false,
) {
    val isShrunk: Boolean get() = plan != null && plan.budgetBytes < budgetBytes
    val canSend: Boolean get() = phase == Phase.READY
    val isBusy: Boolean get() = phase != Phase.READY && phase != Phase.NO_BUNDLE
    val hasQuestion: Boolean get() = messages.any { it.role == ShownMessage.USER }
}
