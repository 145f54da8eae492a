package dev.pocketspec.text

/** Encodes text and decodes tokens, as `runtime/text/tokenizer.py` does with the tokenizers library. */
interface Tokenizer {
    /** The number of tokens, added ones included. */
    val vocabSize: Int

    /** The special tokens, which decoded text leaves out, and their ids. */
    val specialTokens: Map<String, Int>

    /** The ids of [text]; [addSpecialTokens] adds those that belong around a text, such as a begin token. */
    fun encode(text: String, addSpecialTokens: Boolean = true): IntArray

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
