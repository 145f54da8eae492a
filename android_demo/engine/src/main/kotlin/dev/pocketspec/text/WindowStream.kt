package dev.pocketspec.text

/**
 * Converts tokens to text in the pieces in which `runtime/text/tokenizer.py` does it.
 *
 * A character may span several tokens, so an incomplete one waits. And SentencePiece tokenizers drop the space before
 * their first token, so tokens are decoded after those shown last, whose text is then cut off.
 */
internal class WindowStream(private val tokenizer: BytePairTokenizer, after: IntArray) : TextStream {
    private val utf8 = Utf8Decoder()

    /** The tokens shown last, then those that wait. */
    private var window = IntArray(0)
    private var numShown = 0

    /** How many characters of the window's text have been shown. */
    private var seen = 0

    init {
        feed(after)
    }

    override fun feed(tokens: IntArray): String {
        val values = tokenizer.byteTokens
        if (values.isEmpty()) return feedText(tokens)
        val built = StringBuilder()
        var start = 0
        while (start < tokens.size) {
            val isByte = tokens[start] in values
            var end = start
            while (end < tokens.size && (tokens[end] in values) == isByte) end++
            val run = tokens.copyOfRange(start, end)
            built.append(if (isByte) feedBytes(ByteArray(run.size) { values.getValue(run[it]).toByte() }) else feedText(run))
            start = end
        }
        return built.toString()
    }

    override fun flush(): String = release(tokenizer.decodeWindow(window)) + utf8.flush()

    private fun feedText(tokens: IntArray): String {
        if (tokens.isEmpty()) return ""
        val broken = utf8.flush()
        window += tokens
        val text = tokenizer.decodeWindow(window)
        return if (text.endsWith(Utf8.REPLACEMENT)) broken else broken + release(text)
    }

    /** Decodes byte tokens here, since the library replaces a whole run of bytes for one wrong byte. */
    private fun feedBytes(bytes: ByteArray): String {
        val waiting = release(tokenizer.decodeWindow(window))
        val text = utf8.feed(bytes)
        window = intArrayOf(tokenizer.byteTokens.entries.first { it.value == '\n'.code }.key)
        numShown = 1
        seen = 1
        return waiting + text
    }

    /** Returns all of the window's [text] that was not shown; tokens that add nothing visible stay in the window. */
    private fun release(text: String): String {
        val piece = if (seen < text.codePointCount(0, text.length)) text.substring(text.offsetByCodePoints(0, seen)) else ""
        if (piece.isNotEmpty()) {
            window = window.copyOfRange(numShown, window.size)
            numShown = window.size
            val shown = tokenizer.decodeWindow(window)
            seen = shown.codePointCount(0, shown.length)
        }
        return piece
    }
}
