package dev.pocketspec

import dev.pocketspec.chat.AnswerChunk
import dev.pocketspec.chat.AnswerStream
import dev.pocketspec.decoding.Stats
import dev.pocketspec.decoding.Step
import dev.pocketspec.decoding.TextChunk
import dev.pocketspec.decoding.TextChunks

/** One answer of an engine: [begin] makes its chunks when the first is asked for, over steps that this stream sees. */
internal class EngineAnswer(
    private val turns: Turns,
    private val begin: (EngineAnswer) -> TextChunks,
) : AnswerStream {
    /** The thread that began it. */
    val owner: Thread = Thread.currentThread()
    private var chunks: TextChunks? = null
    private var statistics = Stats()
    private val shownText = StringBuilder()

    /** The tokens that it has so far, and their text. */
    val tokens = ArrayList<Int>()
    val text: String get() = shownText.toString()

    /** Whether its last token is an end token. */
    val hasEnded: Boolean get() = statistics.finish == "eos"

    @Volatile
    var isCancelled = false
        private set

    @Volatile
    var isOver = false
        private set

    override fun hasNext(): Boolean = !isOver

    override fun next(): AnswerChunk = turns.alone {
        if (isOver) throw NoSuchElementException("the answer is over")
        try {
            if (isCancelled) throw CancelledStep()
            val open = chunks ?: begin(this).also { chunks = it }
            shown(open.next())
        } catch (_: CancelledStep) {
            isOver = true
            statistics = statistics.copy(finish = CANCELLED)
            AnswerChunk(emptyList(), statistics)
        } catch (error: Throwable) {
            isOver = true
            throw error
        }
    }

    /** [steps], of which the one that runs when the answer is cancelled is the last. */
    fun untilCancelled(steps: Iterator<Step>): Iterator<Step> = object : Iterator<Step> {
        override fun hasNext(): Boolean = steps.hasNext()

        override fun next(): Step {
            val step = steps.next()
            return if (isCancelled && step.finish == null) step.finished(CANCELLED) else step
        }
    }

    override fun cancel() {
        isCancelled = true
    }

    override fun close() {
        isCancelled = true
        isOver = true
    }

    /** Ends it because another answer begins, or the engine is closed. */
    fun end() = close()

    private fun shown(chunk: TextChunk): AnswerChunk {
        isOver = chunk.step.finish != null
        statistics = chunk.stats
        chunk.step.tokens.forEach { tokens.add(it) }
        shownText.append(chunk.text)
        return AnswerChunk(chunk.pieces, statistics)
    }

    private companion object {
        const val CANCELLED = "cancelled"
    }
}

private fun Step.finished(reason: String) =
    Step(tokens, sources, numAccepted, draftSeconds, targetSeconds, seconds, reason, pick, draft, firstAccepted)
