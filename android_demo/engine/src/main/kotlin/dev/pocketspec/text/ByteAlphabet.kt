package dev.pocketspec.text

/**
 * GPT-2's way to write bytes as printable characters: Latin-1's printable ones stand for themselves, U+0100 and those
 * after it for the rest.
 */
internal object ByteAlphabet {
    private val characters = CharArray(256)
    private val bytes = IntArray(0x144) { -1 }

    init {
        var next = 0x100
        for (value in 0..255) {
            val isPrintable = value in 0x21..0x7E || value in 0xA1..0xAC || value in 0xAE..0xFF
            characters[value] = if (isPrintable) value.toChar() else (next++).toChar()
            bytes[characters[value].code] = value
        }
    }

    /** [text] with a character for each of its bytes. */
    fun write(text: String): String {
        val bytes = text.toByteArray(Charsets.UTF_8)
        return String(CharArray(bytes.size) { characters[bytes[it].toInt() and 0xFF] })
    }

    /** The bytes that [written] stands for; its own in UTF-8 if any of its characters stands for none. */
    fun read(written: String): ByteArray {
        if (written.any { it.code >= bytes.size || bytes[it.code] < 0 }) return written.toByteArray(Charsets.UTF_8)
        return ByteArray(written.length) { bytes[written[it].code].toByte() }
    }
}
