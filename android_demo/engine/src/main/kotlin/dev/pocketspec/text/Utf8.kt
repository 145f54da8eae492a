package dev.pocketspec.text

/** UTF-8 as Python's and Rust's decoders read it: each part that no character begins with becomes one U+FFFD. */
internal object Utf8 {
    const val REPLACEMENT = '\uFFFD'

    /** [bytes] as text, with what is no character replaced. */
    fun lossy(bytes: ByteArray): String = Utf8Decoder().let { it.feed(bytes) + it.flush() }

    /** [bytes] as text; null if they are not UTF-8. */
    fun strict(bytes: ByteArray): String? {
        val decoder = Utf8Decoder()
        val text = decoder.feed(bytes) + decoder.flush()
        return if (decoder.numReplaced == 0) text else null
    }

    /** The place of the first surrogate in [text] that has no partner; -1 if there is none. */
    fun loneSurrogate(text: String): Int {
        var place = 0
        while (place < text.length) {
            val isPair = place + 1 < text.length && Character.isSurrogatePair(text[place], text[place + 1])
            if (text[place].isSurrogate() && !isPair) return place
            place += if (isPair) 2 else 1
        }
        return -1
    }
}

/**
 * Decodes bytes that come in pieces; a character that is not complete waits.
 *
 * So do the first two bytes of a surrogate, which are none; Python's decoder waits for the third, too.
 */
internal class Utf8Decoder {
    private var holdsSurrogate = false
    private var code = 0
    private var missing = 0
    private var low = 0x80
    private var high = 0xBF

    /** How many U+FFFD were put in place of what is no character. */
    var numReplaced = 0
        private set

    /** The characters that are complete after [bytes]. */
    fun feed(bytes: ByteArray): String {
        val built = StringBuilder(bytes.size)
        for (byte in bytes) {
            val value = byte.toInt() and 0xFF
            if (holdsSurrogate) releaseSurrogate(built)
            if (missing == 2 && high == LAST_BEFORE_SURROGATES && value in high + 1..0xBF) {
                holdsSurrogate = true
                continue
            }
            if (missing > 0 && value !in low..high) replace(built)
            if (missing > 0) proceed(value, built) else begin(value, built)
        }
        return built.toString()
    }

    /** What still waits: one U+FFFD, or nothing. */
    fun flush(): String {
        val built = StringBuilder()
        if (holdsSurrogate) releaseSurrogate(built) else if (missing > 0) replace(built)
        return built.toString()
    }

    private fun begin(value: Int, built: StringBuilder) {
        when (value) {
            in 0..0x7F -> built.append(value.toChar())
            in 0xC2..0xDF -> await(value and 0x1F, 1, 0x80, 0xBF)
            0xE0 -> await(0, 2, 0xA0, 0xBF)
            0xED -> await(value and 0x0F, 2, 0x80, LAST_BEFORE_SURROGATES)
            in 0xE1..0xEF -> await(value and 0x0F, 2, 0x80, 0xBF)
            0xF0 -> await(0, 3, 0x90, 0xBF)
            0xF4 -> await(value and 0x07, 3, 0x80, 0x8F)
            in 0xF1..0xF3 -> await(value and 0x07, 3, 0x80, 0xBF)
            else -> replace(built)
        }
    }

    private fun await(bits: Int, count: Int, lowest: Int, highest: Int) {
        code = bits
        missing = count
        low = lowest
        high = highest
    }

    private fun proceed(value: Int, built: StringBuilder) {
        await(code shl 6 or (value and 0x3F), missing - 1, 0x80, 0xBF)
        if (missing == 0) built.appendCodePoint(code)
    }

    private fun releaseSurrogate(built: StringBuilder) {
        holdsSurrogate = false
        replace(built)
        replace(built)
    }

    private fun replace(built: StringBuilder) {
        built.append(Utf8.REPLACEMENT)
        numReplaced++
        missing = 0
    }

    private companion object {
        const val LAST_BEFORE_SURROGATES = 0x9F
    }
}
