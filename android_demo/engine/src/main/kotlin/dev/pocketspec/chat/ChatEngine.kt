package dev.pocketspec.chat

import dev.pocketspec.bundle.Progress
import dev.pocketspec.decoding.Stats
import dev.pocketspec.decoding.TextPiece
import dev.pocketspec.text.Message
import java.io.Closeable
import java.io.File

/**
 * What the presenter needs of an engine: one open bundle under one plan.
 *
 * All calls come from one thread, the engine's, except [AnswerStream.cancel], which any thread may call. Every expected
 * failure is a `PocketspecException`, whose message is one sentence for the user; the engine stays usable after it.
 */
interface ChatEngine : Closeable {
    /** The plan in force. */
    val plan: PlanView

    /** What was measured of this process last; cheap enough to be read after every step. */
    fun memory(): MemoryReading

    /**
     * The answer to the last of [messages]; nothing is computed before the first `next()`. What the KV cache holds of
     * the conversation is not read again. One answer is open at a time: it is exhausted or closed before the next.
     */
    fun answer(messages: List<Message>, settings: AnswerSettings): AnswerStream

    /**
     * Plans again for [bytes], also between two steps of an open answer, whose tokens stay the same. A budget below the
     * bound is refused with the bytes that would do, and the plan in force stays.
     */
    fun setBudget(bytes: Long)
}

/** Opens the bundle in a folder. One that does not fit the budget is refused before anything of it is loaded. */
fun interface ChatEngineFactory {
    fun open(folder: File, budgetBytes: Long, progress: Progress): ChatEngine
}

/** An answer, step by step: `next()` blocks for one step. */
interface AnswerStream : Iterator<AnswerChunk>, Closeable {
    /** From any thread: the step that runs is the last. It is handed out with `finish` "cancelled". */
    fun cancel()
}

/** How to decode. [temperature] 0 is greedy; without [speculation] decoding is plain, with equal tokens. */
data class AnswerSettings(
    val maxNewTokens: Int = 512,
    val temperature: Double = 0.0,
    val seed: Long = 0,
    val speculation: Boolean = true,
)

/** One step as text: what may be shown now (possibly nothing), and the statistics so far. */
data class AnswerChunk(val pieces: List<TextPiece>, val statistics: Stats)

/** A plan as the user sees it: all in bytes. [parts] sum to [plannedBytes], which is at most [budgetBytes]. */
data class PlanView(
    val budgetBytes: Long,
    val plannedBytes: Long,
    val smallestBytes: Long,
    val contextTokens: Int,
    val levels: List<String>,
    val parts: List<PlanPart>,
)

/** One part of a plan, for example "target weights" or "drafter KV cache". */
data class PlanPart(val name: String, val bytes: Long)

/** Bytes of this process: of native memory that the plan counts, and of the Java heap, which it does not. */
data class MemoryReading(val nativeBytes: Long, val javaHeapBytes: Long)
