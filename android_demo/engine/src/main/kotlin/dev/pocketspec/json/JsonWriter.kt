package dev.pocketspec.json

import java.math.BigInteger

/**
 * Writes JSON as Python's `json.dumps` does, character by character: chat templates show it to models.
 *
 * [ascii]: other characters are escaped. [indent]: null for one line, else what each level is indented by.
 */
class JsonWriter(
    private val ascii: Boolean,
    private val indent: String?,
    private val itemSeparator: String,
    private val keySeparator: String,
    private val sortKeys: Boolean,
) {
    private val built = StringBuilder()

    /** [value] as JSON; JsonException if it holds anything but plain data. */
    fun write(value: Any?): String {
        built.setLength(0)
        any(value, 0)
        return built.toString()
    }

    private fun any(value: Any?, depth: Int) {
        when (value) {
            null -> built.append("null")
            is Boolean, is Int, is Long, is BigInteger -> built.append(value.toString())
            is Double -> built.append(PythonFloat.json(value))
            is String -> string(value)
            is Map<*, *> -> map(value, depth)
            is List<*> -> list(value, depth)
            else -> throw JsonException("${value.javaClass.simpleName} cannot be written as JSON")
        }
    }

    private fun list(list: List<*>, depth: Int) {
        if (list.isEmpty()) {
            built.append("[]")
            return
        }
        built.append('[')
        list.forEachIndexed { place, item ->
            separate(place, depth + 1)
            any(item, depth + 1)
        }
        line(depth)
        built.append(']')
    }

    private fun map(map: Map<*, *>, depth: Int) {
        if (map.isEmpty()) {
            built.append("{}")
            return
        }
        built.append('{')
        val names = if (sortKeys) map.keys.sortedWith(compareByCodePoints) else map.keys.toList()
        names.forEachIndexed { place, name ->
            separate(place, depth + 1)
            string(key(name))
            built.append(keySeparator)
            any(map[name], depth + 1)
        }
        line(depth)
        built.append('}')
    }

    /** Keys that are no texts are written as such, as in Python. */
    private fun key(name: Any?): String = when (name) {
        is String -> name
        null -> "null"
        is Boolean, is Int, is Long, is BigInteger -> name.toString()
        is Double -> PythonFloat.json(name)
        else -> throw JsonException("${name.javaClass.simpleName} cannot be a key in JSON")
    }

    private fun separate(place: Int, depth: Int) {
        if (place > 0) built.append(itemSeparator)
        line(depth)
    }

    private fun line(depth: Int) {
        if (indent == null) return
        built.append('\n')
        for (level in 0 until depth) built.append(indent)
    }

    private fun string(text: String) {
        built.append('"')
        for (character in text) {
            val escape = escapeOf(character)
            if (escape != null) built.append(escape) else built.append(character)
        }
        built.append('"')
    }

    private fun escapeOf(character: Char): String? = when {
        character == '"' -> "\\\""
        character == '\\' -> "\\\\"
        character == '\n' -> "\\n"
        character == '\r' -> "\\r"
        character == '\t' -> "\\t"
        character == '\u000C' -> "\\f"
        character == '\b' -> "\\b"
        character < ' ' || (ascii && character > '~') -> "\\u" + hexadecimal(character.code)
        else -> null
    }

    private fun hexadecimal(code: Int): String = code.toString(16).padStart(4, '0')

    private companion object {
        /** As Python compares texts: by code points, while Kotlin compares UTF-16 units. */
        val compareByCodePoints = Comparator<Any?> { left, right -> compareCodePoints(left.toString(), right.toString()) }
    }
}

/** Compares two texts as Python does. */
fun compareCodePoints(left: String, right: String): Int {
    var place = 0
    while (place < left.length && place < right.length) {
        val one = left.codePointAt(place)
        val other = right.codePointAt(place)
        if (one != other) return one.compareTo(other)
        place += Character.charCount(one)
    }
    return left.length.compareTo(right.length)
}
