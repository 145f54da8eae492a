package dev.pocketspec.text

/**
 * Encodes texts that continue others: what follows a place has the tokens that it has within the whole text, as
 * `runtime/text/tokenizer.py` does it.
 *
 * The library says where each token lies in a text; here places are found by encoding what stands before them. A place
 * is between two tokens exactly if what is before it has the first tokens of the whole.
 */
internal class TextSeams(private val tokenizer: BytePairTokenizer, private val added: AddedTokens) {
    private val cutting = HashMap<Int, String?>()

    /** The ids in [text] behind its first [start] characters, which have the ids [before]; see [Tokenizer.encodeRest]. */
    fun encodeRest(text: String, start: Int, before: IntArray): IntArray {
        val cut = lastCut(text, start, before)
        val part = text.substring(cut)
        val from = start - cut
        val whole = encode(part)
        var end = from
        while (numTokens(part, end, whole) == null) {
            if (end == part.length || end > from + LONGEST_TOKEN) return encodeBehind(part.substring(from))
            end = part.offsetByCodePoints(end, 1)
        }
        val numFirst = checkNotNull(numTokens(part, end, whole))
        if (numFirst == 0 || whole[numFirst - 1] == before.lastOrNull()) return whole.copyOfRange(numFirst, whole.size)
        while (goesOn(part, end, numFirst, whole)) end = part.offsetByCodePoints(end, 1)
        return encodeBehind(part.substring(from, end)) + whole.copyOfRange(numFirst, whole.size)
    }

    /** Whether no token of [text] spans [place]. */
    fun isBetweenTokens(text: String, place: Int): Boolean {
        val whole = encode(text)
        val numFirst = numTokens(text, place, whole) ?: return false
        return numFirst == 0 || !goesOn(text, place, numFirst, whole)
    }

    /** Whether the last of the [numFirst] tokens before [place] includes white space that follows. */
    private fun goesOn(text: String, place: Int, numFirst: Int, whole: IntArray): Boolean =
        place < text.length && numTokens(text, text.offsetByCodePoints(place, 1), whole) == numFirst

    /** How many of the tokens [whole] of [text] its first [end] characters have; null if a token spans that place. */
    private fun numTokens(text: String, end: Int, whole: IntArray): Int? {
        val first = encode(text.substring(0, end))
        return first.size.takeIf { it <= whole.size && first.indices.all { at -> first[at] == whole[at] } }
    }

    /** The ids of [text] behind other text: without the space that some tokenizers put in front. */
    private fun encodeBehind(text: String): IntArray {
        val front = encode(FRONT)
        val whole = encode(FRONT + text)
        val isSplit = whole.size >= front.size && front.indices.all { front[it] == whole[it] }
        return if (isSplit) whole.copyOfRange(front.size, whole.size) else encode(text)
    }

    private fun encode(text: String) = tokenizer.encode(text, addSpecialTokens = false)

    /**
     * The last place up to [start] from which on [text] has the same tokens alone; 0 if there is none but its beginning.
     *
     * Added tokens are found before anything else, and what is between them is encoded separately. So it is the
     * beginning of the last of them in [before], the tokens of the first [start] characters.
     */
    private fun lastCut(text: String, start: Int, before: IntArray): Int {
        val content = before.reversed().asSequence().mapNotNull(::cuttingText).firstOrNull() ?: return 0
        return maxOf(text.lastIndexOf(content, start - content.length), 0)
    }

    /** The text of the added token [id], if texts can be cut before it: nothing that stands before it may change that. */
    private fun cuttingText(id: Int): String? = cutting.getOrPut(id) {
        val token = added.token(id) ?: return@getOrPut null
        val isPlain = !token.isNormalized && !token.isSingleWord && !Unicode.isSpace(token.content.codePointAt(0))
        val others = added.all.filter { !it.isNormalized }
        token.content.takeIf { isPlain && others.none { other -> mayCover(other.content, it) } }
    }

    /** Whether [other] can begin before [content] and overlap it. */
    private fun mayCover(other: String, content: String): Boolean =
        (1 until other.length).map { other.substring(it) }.any { content.startsWith(it) || it.startsWith(content) }

    private companion object {
        /** Characters of the longest tokens, which are spaces. */
        const val LONGEST_TOKEN = 128

        /** Text that hardly ever merges with the text behind it. */
        const val FRONT = "x"
    }
}
