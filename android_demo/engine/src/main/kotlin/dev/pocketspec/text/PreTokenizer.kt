package dev.pocketspec.text

/** Splits pieces of text into words, within which tokens merge. */
internal fun interface PreTokenizer {
    fun split(piece: Piece): List<Piece>
}

/** What becomes of matches when a text is split at them. */
internal enum class SplitBehavior { Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous }

/** The pre-tokenizers that occur with byte-pair encodings. */
internal object PreTokenizers {
    val NONE = PreTokenizer { listOf(it) }

    private val gpt2 by lazy {
        Matches.of(Pattern("'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"))
    }

    fun sequence(parts: List<PreTokenizer>) = PreTokenizer { piece ->
        parts.fold(listOf(piece)) { pieces, part -> pieces.flatMap(part::split) }
    }

    fun digits(individual: Boolean) =
        split(Matches.ofCharacters(Unicode::isNumeric), if (individual) SplitBehavior.Isolated else SplitBehavior.Contiguous)

    fun byteLevel(addsSpace: Boolean, splits: Boolean) = PreTokenizer { piece ->
        val text = if (addsSpace && !piece.text.startsWith(" ")) " " + piece.text else piece.text
        val front = Piece(text, piece.isFirst)
        val words = if (splits) split(gpt2, SplitBehavior.Isolated).split(front) else listOf(front)
        words.map { Piece(ByteAlphabet.write(it.text), it.isFirst) }
    }

    /** [scheme] is "always", "first" (only at the beginning of the whole text) or "never". */
    fun metaspace(mark: String, scheme: String, splits: Boolean) = PreTokenizer { piece ->
        val spaced = piece.text.replace(" ", mark)
        val isFronted = scheme == "always" || (scheme == "first" && piece.isFirst)
        val front = Piece(if (isFronted && !spaced.startsWith(mark)) mark + spaced else spaced, piece.isFirst)
        if (splits) split(Matches.of(mark), SplitBehavior.MergedWithNext).split(front) else listOf(front)
    }

    /** [isInverted]: what matches is the text, and what is between matches separates it. */
    fun split(matches: Matches, behavior: SplitBehavior, isInverted: Boolean = false) = PreTokenizer { piece ->
        val ranges = Ranges(piece.text.length)
        var done = 0
        matches.each(piece.text) { start, end ->
            if (done < start) ranges.add(done, start, isInverted)
            ranges.add(start, end, !isInverted)
            done = end
        }
        if (done < piece.text.length) ranges.add(done, piece.text.length, isInverted)
        ranges.merged(behavior).filter { it.last >= it.first }.map { range ->
            Piece(piece.text.substring(range.first, range.last + 1), piece.isFirst && range.first == 0)
        }
    }

    /** The parts of a text, each a match or what is between them. */
    private class Ranges(private val length: Int) {
        private val ranges = ArrayList<IntRange>()
        private val isMatch = ArrayList<Boolean>()

        fun add(start: Int, end: Int, matches: Boolean) {
            ranges.add(start until end)
            isMatch.add(matches)
        }

        fun merged(behavior: SplitBehavior): List<IntRange> = when (behavior) {
            SplitBehavior.Removed -> ranges.filterIndexed { place, _ -> !isMatch[place] }
            SplitBehavior.Isolated -> ranges
            SplitBehavior.Contiguous -> joined(ranges.indices) { isMatch, wasMatch -> isMatch == wasMatch }
            SplitBehavior.MergedWithPrevious -> joined(ranges.indices) { isMatch, wasMatch -> isMatch && !wasMatch }
            SplitBehavior.MergedWithNext ->
                joined(ranges.indices.reversed()) { isMatch, wasMatch -> isMatch && !wasMatch }.reversed()
        }

        private fun joined(order: IntProgression, joins: (Boolean, Boolean) -> Boolean): List<IntRange> {
            val made = ArrayList<IntRange>()
            var wasMatch = false
            for (place in order) {
                val range = ranges[place]
                if (joins(isMatch[place], wasMatch) && made.isNotEmpty()) {
                    val last = made.removeAt(made.size - 1)
                    made.add(minOf(last.first, range.first)..maxOf(last.last, range.last))
                } else {
                    made.add(range)
                }
                wasMatch = isMatch[place]
            }
            return made
        }
    }
}
