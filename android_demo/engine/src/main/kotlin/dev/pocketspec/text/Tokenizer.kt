package dev.pocketspec.text

/** Encodes text and decodes tokens, as `runtime/text/tokenizer.py` does with the tokenizers library. */
interface Tokenizer {
    /** The number of tokens, added ones included. */
    val vocabSize: Int

    /** The special tokens, which decoded text leaves out, and their ids. */
    val specialTokens: Map<String, Int>

    /** The ids of [text]; [addSpecialTokens] adds those that belong around a text, such as a begin token. */
    fun encode(text: String, addSpecialTokens: Boolean = true): IntArray

    /**
     * The ids in [text] behind its first [start] characters, which have the ids [before].
     *
     * If a token spans [start], the part of it behind [start] is encoded separately, unless that token is already the
     * last of [before], like one that absorbs the line break after it.
     */
    fun encodeRest(text: String, start: Int, before: IntArray): IntArray

    /** Whether no token of [text] spans [place], a number of characters. */
    fun isBetweenTokens(text: String, place: Int): Boolean

    /** Converts tokens to text in pieces, after the tokens [after], whose text is not returned. */
    fun decoder(after: IntArray = IntArray(0)): TextStream

    /** The text of [tokens] after the tokens [after], without special tokens. */
    fun decode(tokens: IntArray, after: IntArray = IntArray(0)): String {
        val stream = decoder(after)
        return stream.feed(tokens) + stream.flush()
    }
}

/** Tokens in, text out: what [feed] and [flush] return adds up to the text of all tokens. */
interface TextStream {
    /** The text that is complete after [tokens]; a piece never ends within a character. */
    fun feed(tokens: IntArray): String

    /** As [feed], for one token. */
    fun feed(token: Int): String = feed(intArrayOf(token))

    /** The text that still waits, with incomplete characters replaced: the end of the text. */
    fun flush(): String
}
