package dev.pocketspec.text

// The most tokens at the end of an answer that its text may not show: a stop string, an incomplete character.
private const val MAX_HIDDEN = 16

// Tokens before an answer that decide whether its first piece begins with a space.
private const val SEAM = 16

/**
 * Keeps the tokens of a conversation as the model has read and written them, as `runtime/text/token_history.py`:
 * [encode] the text to be answered, then [addAnswer].
 *
 * Encoding the text of an answer may give other tokens than the answer had, and then everything in the KV cache from
 * there on is lost. So every prompt and every answer keeps its tokens, and new text after them gets the tokens that it
 * has within the whole text. Where a template changes earlier text, everything from there on is encoded again.
 */
class TokenHistory(private val tokenizer: Tokenizer) {
    private val turns = ArrayList<Turn>()
    private var prompt = ""
    private var fresh = IntArray(0)

    private val tokens: IntArray get() = turns.fold(IntArray(0)) { all, turn -> all + turn.tokens } + fresh

    /** The tokens of [text], a whole conversation up to where the assistant begins to speak. */
    fun encode(text: String): IntArray {
        var known = 0
        var place = 0
        for (turn in turns) {
            val ends = turn.endsIn(text, place)
            if (ends.isEmpty()) break
            known++
            place = chosen(text, ends)
        }
        turns.subList(known, turns.size).clear()
        prompt = text.substring(place)
        fresh = IntArray(0)
        fresh = tokenizer.encodeRest(text, place, tokens)
        return tokens
    }

    /**
     * Adds the answer [said] to the text encoded last; [shown] is what the next text will contain of it. [ended]: the
     * last token is an end token, which counts if the template writes it.
     */
    fun addAnswer(said: IntArray, shown: String, ended: Boolean) {
        val end = said.size - if (ended) 1 else 0
        val front = tokens.let { it.copyOfRange(maxOf(it.size - SEAM, 0), it.size) }
        for (hidden in 0..minOf(end, MAX_HIDDEN)) {
            val kept = said.copyOf(end - hidden)
            val answers = listOf(tokenizer.decode(kept, front), tokenizer.decode(kept)).distinct()
            if (answers.none { shown.startsWith(it) }) continue
            // An empty answer loses nothing if it is encoded again.
            if (kept.isNotEmpty()) turns.add(Turn(prompt, answers, fresh + kept))
            prompt = ""
            fresh = IntArray(0)
            return
        }
    }

    /**
     * The first of [ends] that is inside no token of [text], else the last. There are several only behind an answer of
     * spaces: the last space may be the template's, and part of a token.
     */
    private fun chosen(text: String, ends: List<Int>): Int =
        if (ends.size == 1) ends[0] else ends.firstOrNull { tokenizer.isBetweenTokens(text, it) } ?: ends.last()

    /**
     * One turn: the [tokens] of the new part of a prompt and of its answer, and the texts that templates may write for
     * them. [answers] are the answer's text with the space that SentencePiece hides at its beginning, and without it.
     */
    private class Turn(val prompt: String, val answers: List<String>, val tokens: IntArray) {
        /**
         * Where this turn may end in [text], in which it begins at [start]; empty if the text differs. Something follows
         * each answer, so a text that ends with the prompt has no answer, not even an empty one.
         */
        fun endsIn(text: String, start: Int): List<Int> {
            val from = start + prompt.length
            if (!text.startsWith(prompt, start) || text.length == from) return emptyList()
            return answers.filter { text.startsWith(it, from) }.map { from + it.length }
        }
    }
}
