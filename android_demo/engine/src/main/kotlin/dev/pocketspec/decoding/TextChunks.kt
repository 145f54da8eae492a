package dev.pocketspec.decoding

import dev.pocketspec.text.TextStream

/** Text of an answer, and who proposed it: a drafter's name, or "target" for what was not drafted. */
data class TextPiece(val text: String, val source: String)

/**
 * One step as text: [pieces] that may be shown now (possibly none), the step, and the statistics so far.
 *
 * A character of several tokens, and text that could have become a stop string, belong to the token that completes
 * them.
 */
class TextChunk(val pieces: List<TextPiece>, val step: Step, val stats: Stats) {
    /** The text of all pieces. */
    val text: String get() = pieces.joinToString("") { it.text }
}

/** A chunk for each of [steps]: tokens go through [stream] and [shown], and are counted in [stats]. */
class TextChunks(
    private val steps: Iterator<Step>,
    private var stats: Stats,
    private val stream: TextStream,
    private val shown: StopText,
) : Iterator<TextChunk> {
    private val start = System.nanoTime()

    override fun hasNext(): Boolean = steps.hasNext()

    override fun next(): TextChunk {
        val step = steps.next()
        stats = stats.after(step, (System.nanoTime() - start) * 1e-9)
        val shownTokens = if (step.finish == "eos") step.tokens.size - 1 else step.tokens.size
        val pieces = ArrayList<TextPiece>()
        for (place in 0 until shownTokens) {
            addPiece(pieces, shown.feed(stream.feed(step.tokens[place])), step.sources[place])
        }
        if (step.finish != null) {
            // Text without a token of its own comes with the next one's source, or the last one's.
            val source = step.sources[minOf(shownTokens, step.sources.size - 1)]
            addPiece(pieces, shown.feed(stream.flush()) + shown.flush(), source)
        }
        return TextChunk(pieces, step, stats)
    }

    private fun addPiece(pieces: MutableList<TextPiece>, text: String, source: String) {
        if (text.isNotEmpty()) pieces.add(TextPiece(text, source))
    }
}
