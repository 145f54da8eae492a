package dev.pocketspec.json

import java.math.BigInteger

/**
 * Reads one JSON text, from [start] on.
 *
 * [value] reads whatever comes. [members] and [items] hand the parts of an object or a list to a function, which must
 * read each with one call: a tokenizer with 150,000 entries needs no map of them in between.
 */
class JsonReader(private val text: String, start: Int = 0) {
    private var place = start
    private var depth = 0

    /** Where in the text the reader is; another one can begin there. */
    val position: Int get() = place

    /** The one value of the whole text. */
    fun document(): Any? = value().also { end() }

    /** JsonException if anything but white space follows. */
    fun end() {
        next()
        if (place < text.length) fail("something follows the end of the value")
    }

    /** The value that comes next. */
    fun value(): Any? = when (next()) {
        '{' -> map()
        '[' -> ArrayList<Any?>().also { list -> items { list.add(value()) } }
        '"' -> string()
        't' -> word("true", true)
        'f' -> word("false", false)
        'n' -> word("null", null)
        else -> number()
    }

    /** Reads the value that comes next, and forgets it. */
    fun skip() {
        when (next()) {
            '{' -> members { skip() }
            '[' -> items { skip() }
            else -> value()
        }
    }

    /** Whether an object comes next. */
    fun isObject(): Boolean = next() == '{'

    /** Whether a list comes next. */
    fun isList(): Boolean = next() == '['

    /** Reads an object: [read] gets each name, and reads its value. Names may come twice. */
    fun members(read: (String) -> Unit) = inside('{', '}', "an object") {
        val name = string()
        if (next() != ':') fail("expected ':' after a name")
        place++
        read(name)
    }

    /** Reads a list: [read] reads each item. */
    fun items(read: () -> Unit) = inside('[', ']', "a list", read)

    /** Reads a string. */
    fun string(): String {
        if (next() != '"') fail("expected a text in double quotes")
        val start = ++place
        while (place < text.length) {
            val character = text[place]
            if (character == '"') return text.substring(start, place++)
            if (character == '\\') return escaped(start)
            if (character < ' ') fail("a text has a control character")
            place++
        }
        fail("a text does not end")
    }

    private fun inside(open: Char, close: Char, what: String, part: () -> Unit) {
        if (next() != open) fail("expected $what")
        if (++depth > Json.MOST_DEPTH) fail("nested more than ${Json.MOST_DEPTH} deep")
        place++
        if (next() == close) place++ else while (true) {
            part()
            val character = next()
            if (character != ',' && character != close) fail("expected ',' or '$close'")
            place++
            if (character == close) break
        }
        depth--
    }

    private fun map(): Map<String, Any?> {
        val map = LinkedHashMap<String, Any?>()
        members { name ->
            if (map.containsKey(name)) fail("the key ${shown(name)} comes twice")
            map[name] = value()
        }
        return map
    }

    /** The rest of a string that began at [start], from its first escape on. */
    private fun escaped(start: Int): String {
        val built = StringBuilder().append(text, start, place)
        while (place < text.length) {
            val character = text[place++]
            when {
                character == '"' -> return built.toString()
                character == '\\' -> built.append(escape())
                character < ' ' -> fail("a text has a control character")
                else -> built.append(character)
            }
        }
        fail("a text does not end")
    }

    private fun escape(): Char {
        val character = if (place < text.length) text[place++] else END
        return when (character) {
            '"', '\\', '/' -> character
            'b' -> '\b'
            'f' -> '\u000C'
            'n' -> '\n'
            'r' -> '\r'
            't' -> '\t'
            'u' -> unit()
            else -> fail("a text has an unknown escape")
        }
    }

    /** Four hexadecimal digits: one UTF-16 unit, so that surrogates that stand alone stay as they are. */
    private fun unit(): Char {
        var code = 0
        for (at in place until place + 4) {
            val digit = if (at < text.length) hexadecimal(text[at]) else -1
            if (digit < 0) fail("an escape \\u needs four hexadecimal digits")
            code = code * 16 + digit
        }
        place += 4
        return code.toChar()
    }

    private fun hexadecimal(character: Char): Int = when (character) {
        in '0'..'9' -> character - '0'
        in 'a'..'f' -> character - 'a' + 10
        in 'A'..'F' -> character - 'A' + 10
        else -> -1
    }

    private fun word(word: String, value: Any?): Any? {
        if (!text.startsWith(word, place)) fail("expected a value")
        place += word.length
        return value
    }

    private fun number(): Any {
        val start = place
        if (at() == '-') place++
        if (at() == '0') place++ else digits("expected a value")
        val isWhole = at() != '.' && at() != 'e' && at() != 'E'
        if (at() == '.') {
            place++
            digits("a number ends in its point")
        }
        if (at() == 'e' || at() == 'E') {
            place++
            if (at() == '+' || at() == '-') place++
            digits("a number ends in its exponent")
        }
        val written = text.substring(start, place)
        return if (isWhole) whole(written) else finite(written)
    }

    private fun digits(otherwise: String) {
        if (at() !in '0'..'9') fail(otherwise)
        while (at() in '0'..'9') place++
    }

    private fun whole(written: String): Any {
        if (written.length > MOST_DIGITS) fail("a number has more than $MOST_DIGITS digits")
        return written.toLongOrNull() ?: BigInteger(written)
    }

    private fun finite(written: String): Double {
        val value = written.toDouble()
        if (value.isInfinite()) fail("the number ${shown(written)} is too large")
        return value
    }

    /** The character that is next after white space. */
    private fun next(): Char {
        while (true) {
            val character = at()
            if (character != ' ' && character != '\n' && character != '\r' && character != '\t') return character
            place++
        }
    }

    private fun at(): Char = if (place < text.length) text[place] else END

    /** Throws a JsonException with the place that was reached, as line and column, counted from 1. */
    fun fail(what: String): Nothing {
        val end = minOf(place, text.length)
        val line = 1 + text.substring(0, end).count { it == '\n' }
        val column = end - text.lastIndexOf('\n', end - 1)
        throw JsonException("is not JSON: line $line, column $column: $what")
    }

    private companion object {
        /** Stands for the end of the text; no JSON has it outside of texts. */
        const val END = '\u0000'

        /** As many as Python reads. */
        const val MOST_DIGITS = 4300
    }
}
