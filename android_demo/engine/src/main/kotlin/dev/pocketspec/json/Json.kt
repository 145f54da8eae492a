package dev.pocketspec.json

/**
 * Reads and writes JSON, as Python's `json` does for text that strangers wrote.
 *
 * Values are `Map<String, Any?>` in the order of the text, `List<Any?>`, `String`, `Long`, `Double`, `Boolean` and null;
 * whole numbers beyond 64 bits, which configurations of tokenizers have, are `java.math.BigInteger`. Refused are NaN and
 * infinity, a key twice, and more than 64 levels, as the Python side refuses them for its own files.
 *
 * org.json is not on the desktop's JVM, and both machines must read the same.
 */
object Json {
    /** The deepest nesting that is read. */
    const val MOST_DEPTH = 64

    /** The value in [text]; JsonException names the line and column of what is wrong. */
    fun parse(text: String): Any? = JsonReader(text).document()

    /** The value in [bytes], which must be UTF-8. */
    fun parse(bytes: ByteArray): Any? = parse(utf8(bytes))

    /** The object in [text], for typed access; [what] names it in messages, for example the file's name. */
    fun parseObject(text: String, what: String = "the text"): JsonObject {
        val value = parse(text)
        if (value !is Map<*, *>) throw JsonException("$what is no JSON object")
        return JsonObject.of(value)
    }

    /** The text that [bytes] are in UTF-8; JsonException names the first byte that is none. */
    fun utf8(bytes: ByteArray): String {
        val text = String(bytes, Charsets.UTF_8)
        val wrong = if (text.indexOf('\uFFFD') < 0) -1 else firstBroken(bytes)
        if (wrong >= 0) throw JsonException("is not UTF-8 at byte $wrong")
        return text
    }

    /** [value] as compact JSON on one line, in ASCII alone if [ascii]. */
    fun write(value: Any?, ascii: Boolean = false): String = JsonWriter(ascii, null, ",", ":", false).write(value)

    private fun firstBroken(bytes: ByteArray): Int {
        var place = 0
        while (place < bytes.size) {
            val length = sequenceLength(bytes, place)
            if (length == 0) return place
            place += length
        }
        return -1
    }

    /** The length of the character at [place], 0 if there is none. */
    private fun sequenceLength(bytes: ByteArray, place: Int): Int {
        val first = bytes[place].toInt() and 0xFF
        val length = when {
            first < 0x80 -> return 1
            first in 0xC2..0xDF -> 2
            first in 0xE0..0xEF -> 3
            first in 0xF0..0xF4 -> 4
            else -> return 0
        }
        if (place + length > bytes.size) return 0
        val second = bytes[place + 1].toInt() and 0xFF
        val low = if (first == 0xE0) 0xA0 else if (first == 0xF0) 0x90 else 0x80
        val high = if (first == 0xED) 0x9F else if (first == 0xF4) 0x8F else 0xBF
        if (second < low || second > high) return 0
        for (at in place + 2 until place + length) if (bytes[at].toInt() and 0xC0 != 0x80) return 0
        return length
    }
}
