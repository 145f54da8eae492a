package dev.pocketspec.json

/**
 * A JSON object whose fields are read by name, type and range; what is wrong is named with the path to it, as in
 * "shape.layers is 0; it must be a whole number of at least 1".
 */
class JsonObject private constructor(private val fields: Map<String, Any?>, private val path: String) {
    /** The names of the fields, in the order of the text. */
    val names: Set<String> get() = fields.keys

    /** The fields as they were read. */
    val values: Map<String, Any?> get() = fields

    /** Whether there is a field [name] that is not null. */
    fun has(name: String): Boolean = fields[name] != null

    /** A text; [among] are the only ones allowed, if there are any. */
    fun text(name: String, vararg among: String): String {
        val value = fields[name]
        if (value is String && (among.isEmpty() || value in among)) return value
        fail(name, if (among.isEmpty()) "a text" else "one of ${among.joinToString()}")
    }

    /** As [text]; null if the field is null or missing. */
    fun textOrNull(name: String): String? = if (has(name)) text(name) else null

    /** A whole number in [range]. */
    fun long(name: String, range: LongRange = 0..Long.MAX_VALUE): Long = asLong(fields[name], range) ?: fail(name, whole(range))

    /** A whole number in [range]. */
    fun int(name: String, range: IntRange = 0..Int.MAX_VALUE): Int =
        (asLong(fields[name], range.longs()) ?: fail(name, whole(range.longs()))).toInt()

    /** A number from [low] to [high]. */
    fun double(name: String, low: Double = -Double.MAX_VALUE, high: Double = Double.MAX_VALUE): Double {
        val value = (fields[name] as? Double) ?: (fields[name] as? Long)?.toDouble()
        return if (value != null && value in low..high) value else fail(name, "a number from $low to $high")
    }

    /** True or false; [default] if the field is null or missing and there is a default. */
    fun boolean(name: String, default: Boolean? = null): Boolean =
        (fields[name] ?: default) as? Boolean ?: fail(name, "true or false")

    /** An object. */
    fun child(name: String): JsonObject {
        val value = fields[name]
        return if (value is Map<*, *>) of(value, within(name)) else fail(name, "an object")
    }

    /** As [child]; null if the field is null or missing. */
    fun childOrNull(name: String): JsonObject? = if (has(name)) child(name) else null

    /** A list of anything. */
    fun list(name: String): List<Any?> = fields[name] as? List<*> ?: fail(name, "a list")

    /** A list of objects. */
    fun children(name: String): List<JsonObject> = list(name).mapIndexed { place, value ->
        if (value is Map<*, *>) of(value, "${within(name)}[$place]") else fail(name, "a list of objects")
    }

    /** A list of texts. */
    fun texts(name: String): List<String> = list(name).map { it as? String ?: fail(name, "a list of texts") }

    /** A list of whole numbers in [range]. */
    fun ints(name: String, range: IntRange = 0..Int.MAX_VALUE): IntArray {
        val list = list(name)
        return IntArray(list.size) { place ->
            (asLong(list[place], range.longs()) ?: fail(name, "a list of which each is ${whole(range.longs())}")).toInt()
        }
    }

    /** Throws a JsonException that says that field [name] must be [wanted]. */
    fun fail(name: String, wanted: String): Nothing {
        val now = if (name in fields) "is ${shown(fields[name])}" else "is missing"
        throw JsonException("${within(name)} $now; it must be $wanted")
    }

    private fun within(name: String): String = if (path.isEmpty()) name else "$path.$name"

    companion object {
        /** [map] as an object at [path]; every JSON object has texts for keys. */
        fun of(map: Map<*, *>, path: String = ""): JsonObject {
            @Suppress("UNCHECKED_CAST")
            return JsonObject(map as Map<String, Any?>, path)
        }

        private fun asLong(value: Any?, range: LongRange): Long? = (value as? Long)?.takeIf { it in range }

        private fun IntRange.longs(): LongRange = first.toLong()..last.toLong()

        private fun whole(range: LongRange): String = when {
            range.last >= Int.MAX_VALUE && range.first == 0L -> "a whole number"
            range.last >= Int.MAX_VALUE -> "a whole number of at least ${range.first}"
            else -> "a whole number from ${range.first} to ${range.last}"
        }
    }
}

/** [value] for messages: short, on one line, in ASCII. */
internal fun shown(value: Any?): String {
    val text = when (value) {
        is Map<*, *> -> "an object"
        is List<*> -> "a list"
        else -> Json.write(value, ascii = true)
    }
    return if (text.length <= 80) text else text.substring(0, 77) + "..."
}
