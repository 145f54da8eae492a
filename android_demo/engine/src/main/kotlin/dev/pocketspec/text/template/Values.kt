package dev.pocketspec.text.template

import dev.pocketspec.json.PythonFloat
import dev.pocketspec.json.compareCodePoints
import dev.pocketspec.text.Unicode

// Values of templates are those of Python: null is None, Long, Double, Boolean, String, List, Tuple, Map, and these.

/** A name that has no value, or a value that has no such part; [message] says so. */
internal open class Undefined(val message: String)

/** A part of a value that templates must not reach. */
internal class Unsafe(message: String) : Undefined(message)

/** A list that cannot be changed; Python writes it with parentheses. */
internal class Tuple(val items: List<Any?>)

/**
 * A text that `safe` has marked as HTML. It is shown and joined like any other; what would escape the text beside it in
 * Python is refused.
 */
internal class Markup(val text: String)

/** What filters such as `map` make: items that are computed when they are gone through, which is possible once. */
internal class Generator(make: () -> List<Any?>) {
    private var make: (() -> List<Any?>)? = make

    fun take(): List<Any?> = make?.invoke().orEmpty().also { make = null }
}

/** What `range` and the methods of mappings give: items with a length, which are no list. */
internal class View(val name: String, val items: List<Any?>)

/** What `namespace` makes: values that can be set from within loops. */
internal class Namespace(val values: MutableMap<String, Any?>)

/** Something that can be called. */
internal fun interface Callable {
    fun call(given: Given): Any?
}

/** The arguments of a call. */
internal class Given(val values: List<Any?>, val named: Map<String, Any?> = emptyMap()) {
    /** The argument at [place] or called [name]; [default] if it is not given. */
    fun get(place: Int, name: String, default: Any? = null): Any? =
        if (place < values.size) values[place] else if (name in named) named[name] else default

    fun has(place: Int, name: String): Boolean = place < values.size || name in named

    /** Refuses arguments beyond [most], and names other than [names]. */
    fun check(what: String, most: Int, vararg names: String) {
        if (values.size > most) throw TemplateException("$what takes at most $most arguments, not ${values.size}")
        for (name in named.keys) if (name !in names) throw TemplateException("$what has no argument '$name' that this app knows")
    }
}

/** What Python's white space is to `strip` and `split`. */
internal fun isSpace(character: Char): Boolean = character.code in 0x1C..0x1F || Unicode.isSpace(character.code)

/** What Python does with any value; each pass over one is charged to the [meter]. */
internal class Values(private val meter: Meter) {
    fun isTrue(value: Any?): Boolean = when (value) {
        null, is Undefined -> false.also { refuseUnsafe(value) }
        is Boolean -> value
        is Long -> value != 0L
        is Double -> value != 0.0
        is String -> value.isNotEmpty()
        is Markup -> value.text.isNotEmpty()
        is List<*> -> value.isNotEmpty()
        is Tuple -> value.items.isNotEmpty()
        is Map<*, *> -> value.isNotEmpty()
        is View -> value.items.isNotEmpty()
        else -> true
    }

    /** Throws if [value] may not be reached, or has to be there. */
    fun refuseUnsafe(value: Any?) {
        if (value is Unsafe) throw TemplateException(value.message)
    }

    /** As `str` writes it; nothing for what is undefined. */
    fun text(value: Any?): String = when (value) {
        is String -> value
        is Markup -> value.text
        is Undefined -> "".also { refuseUnsafe(value) }
        else -> StringBuilder().also { write(value, it) }.toString()
    }

    fun repr(value: Any?): String = StringBuilder().also { write(value, it) }.toString()

    private fun write(value: Any?, into: StringBuilder) {
        meter.charge()
        meter.text(into.length.toLong().coerceAtMost(16))
        if (into.length > meter.mostText) meter.text(into.length.toLong())
        when (value) {
            null -> into.append("None")
            true -> into.append("True")
            false -> into.append("False")
            is Double -> into.append(PythonFloat.repr(value))
            is String -> quote(value, into)
            is List<*> -> meter.deeper { list(value, "[", "]", into) }
            is Tuple -> meter.deeper { list(value.items, "(", if (value.items.size == 1) ",)" else ")", into) }
            is Map<*, *> -> meter.deeper { map(value, into) }
            is Undefined -> into.append("Undefined")
            is View -> if (value.name.startsWith("range")) into.append(value.name) else view(value, into)
            is Long -> into.append(value)
            else -> throw TemplateException("it shows a ${typeName(value)}, which this app does not")
        }
    }

    private fun list(items: List<*>, open: String, close: String, into: StringBuilder) {
        into.append(open)
        items.forEachIndexed { place, item ->
            if (place > 0) into.append(", ")
            write(item, into)
        }
        into.append(close)
    }

    private fun map(map: Map<*, *>, into: StringBuilder) {
        into.append('{')
        var isFirst = true
        for ((key, item) in map) {
            if (!isFirst) into.append(", ")
            isFirst = false
            write(key, into)
            into.append(": ")
            write(item, into)
        }
        into.append('}')
    }

    private fun view(view: View, into: StringBuilder) = meter.deeper { list(view.items, view.name + "([", "])", into) }

    private fun quote(text: String, into: StringBuilder) {
        meter.text(text.length.toLong())
        val quote = if ('\'' in text && '"' !in text) '"' else '\''
        into.append(quote)
        var place = 0
        while (place < text.length) {
            val code = text.codePointAt(place)
            place += Character.charCount(code)
            when {
                code == quote.code || code == '\\'.code -> into.append('\\').append(code.toChar())
                code == '\n'.code -> into.append("\\n")
                code == '\r'.code -> into.append("\\r")
                code == '\t'.code -> into.append("\\t")
                isPrintable(code) -> into.appendCodePoint(code)
                code < 0x100 -> into.append("\\x").append(hexadecimal(code, 2))
                code < 0x10000 -> into.append("\\u").append(hexadecimal(code, 4))
                else -> into.append("\\U").append(hexadecimal(code, 8))
            }
        }
        into.append(quote)
    }

    private fun hexadecimal(code: Int, digits: Int): String = code.toString(16).padStart(digits, '0')

    private fun isPrintable(code: Int): Boolean {
        if (code in 0xD800..0xDFFF) return false
        return code == ' '.code || Unicode.CATEGORIES[Unicode.category(code)] !in UNPRINTABLE
    }

    fun equal(left: Any?, right: Any?): Boolean {
        meter.charge()
        refuseUnsafe(left)
        refuseUnsafe(right)
        if (left is Markup) return equal(left.text, right)
        if (right is Markup) return equal(left, right.text)
        return when {
            left is Undefined || right is Undefined -> left is Undefined && right is Undefined
            isNumber(left) && isNumber(right) -> compareNumbers(left, right) == 0
            left is String && right is String -> left == right
            left is List<*> && right is List<*> -> equalLists(left, right)
            left is Tuple && right is Tuple -> equalLists(left.items, right.items)
            left is View && right is View -> left.name == right.name && equalLists(left.items, right.items)
            left is Map<*, *> && right is Map<*, *> -> meter.deeper {
                left.size == right.size && left.all { (key, item) -> right.containsKey(key) && equal(item, right[key]) }
            }
            else -> left === right
        }
    }

    private fun equalLists(left: List<*>, right: List<*>): Boolean =
        meter.deeper { left.size == right.size && left.indices.all { equal(left[it], right[it]) } }

    /** Below 0, 0 or above, as [left] is to [right]; values that Python does not order are refused. */
    fun compare(left: Any?, right: Any?): Int {
        meter.charge()
        return when {
            isNumber(left) && isNumber(right) -> compareNumbers(left, right)
            left is String && right is String -> compareCodePoints(left, right)
            left is List<*> && right is List<*> -> compareLists(left, right)
            left is Tuple && right is Tuple -> compareLists(left.items, right.items)
            left is Undefined -> throw TemplateException(left.message)
            right is Undefined -> throw TemplateException(right.message)
            else -> throw TemplateException("${typeName(left)} and ${typeName(right)} have no order")
        }
    }

    private fun compareLists(left: List<*>, right: List<*>): Int = meter.deeper {
        val place = (0 until minOf(left.size, right.size)).firstOrNull { !equal(left[it], right[it]) }
        if (place == null) left.size.compareTo(right.size) else compare(left[place], right[place])
    }

    private fun compareNumbers(left: Any?, right: Any?): Int {
        if (left is Double || right is Double) return double(left).compareTo(double(right) + 0.0)
        return long(left).compareTo(long(right))
    }

    fun isNumber(value: Any?): Boolean = value is Long || value is Double || value is Boolean

    fun long(value: Any?): Long = if (value is Boolean) (if (value) 1L else 0L) else value as Long

    fun double(value: Any?): Double = if (value is Double) value + 0.0 else long(value).toDouble()

    /** Whether [item] is in [container]. */
    fun isIn(item: Any?, container: Any?): Boolean = when (container) {
        is String -> (item as? String ?: throw TemplateException("only a text can be in a text, not ${typeName(item)}")) in container
        is Map<*, *> -> {
            meter.charge()
            if (item is List<*> || item is Map<*, *>) throw TemplateException("${typeName(item)} is never a key of a mapping")
            container.containsKey(item)
        }
        is Unsafe -> throw TemplateException(container.message)
        else -> items(container).any { equal(item, it) }
    }

    /** What a loop goes through. */
    fun items(value: Any?): List<Any?> = when (value) {
        is List<*> -> value
        is Tuple -> value.items
        is View -> value.items
        is Generator -> value.take()
        is Map<*, *> -> value.keys.toList()
        is String -> characters(value)
        is Unsafe -> throw TemplateException(value.message)
        is Undefined -> emptyList()
        is Markup, is Loop -> throw TemplateException("going through ${typeName(value)} is not known to this app")
        else -> throw TemplateException("${typeName(value)} cannot be gone through")
    }

    fun isIterable(value: Any?): Boolean =
        isSequence(value) || value is View || value is Generator

    fun isSequence(value: Any?): Boolean =
        value is List<*> || value is Tuple || value is Map<*, *> || value is String || value is Undefined ||
            (value is View && value.name.startsWith("range"))

    private fun characters(text: String): List<String> {
        meter.text(text.length.toLong() * 4)
        val found = ArrayList<String>(text.length)
        var place = 0
        while (place < text.length) {
            val end = place + Character.charCount(text.codePointAt(place))
            found.add(text.substring(place, end))
            place = end
        }
        return found
    }

    fun length(value: Any?): Long = when (value) {
        is String -> value.codePointCount(0, value.length).toLong()
        is List<*>, is Tuple, is View, is Map<*, *>, is Undefined -> items(value).size.toLong()
        else -> throw TemplateException("${typeName(value)} has no length")
    }

    fun typeName(value: Any?): String = when (value) {
        null -> "None"
        is Boolean -> "a truth value"
        is Long -> "a whole number"
        is Double -> "a number"
        is String -> "a text"
        is List<*> -> "a list"
        is Tuple -> "a tuple"
        is Map<*, *> -> "a mapping"
        is Namespace -> "a namespace"
        is Markup -> "a text that 'safe' has marked"
        is Generator -> "a generator"
        is View -> value.name
        is Undefined -> "something undefined"
        else -> "a function"
    }

    private companion object {
        val UNPRINTABLE = setOf("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs")
    }
}
