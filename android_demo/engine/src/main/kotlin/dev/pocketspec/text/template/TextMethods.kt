package dev.pocketspec.text.template

import dev.pocketspec.text.Unicode
import dev.pocketspec.text.eachCode

/** The methods of texts that templates may call. */
internal class TextMethods(private val run: Rendering) {
    /** The method [name] of [text]; null if this app knows none. */
    fun find(text: String, name: String): Callable? {
        if (name !in NAMES) return null
        return Callable { given ->
            run.meter.text(text.length.toLong())
            if (given.named.isNotEmpty() && name != "format" && name !in NAMED) refuseNamed(name)
            call(text, name, given)
        }
    }

    private fun refuseNamed(name: String): Nothing = throw TemplateException("the method '$name' takes no named arguments in this app")

    private fun call(text: String, name: String, given: Given): Any? = when (name) {
        "strip" -> strip(text, given, true, true)
        "lstrip" -> strip(text, given, true, false)
        "rstrip" -> strip(text, given, false, true)
        "split", "rsplit" -> split(text, given, name == "rsplit")
        "splitlines" -> splitLines(text)
        "startswith" -> ends(given) { text.startsWith(it) }
        "endswith" -> ends(given) { text.endsWith(it) }
        "replace" -> replace(text, textAt(given, 0), textAt(given, 1), given.values.getOrNull(2))
        "join" -> join(text, given.values.singleOrNull())
        "find", "rfind", "index" -> find(text, name, textAt(given, 0))
        "count" -> count(text, textAt(given, 0))
        "format" -> TextFormat(run).braces(text, given)
        "partition" -> partition(text, textAt(given, 0), text.indexOf(textAt(given, 0)), false)
        "rpartition" -> partition(text, textAt(given, 0), text.lastIndexOf(textAt(given, 0)), true)
        "removeprefix" -> text.removePrefix(textAt(given, 0))
        "removesuffix" -> text.removeSuffix(textAt(given, 0))
        "zfill", "ljust", "rjust", "center" -> Padding(run).pad(text, name, given)
        else -> if (name.startsWith("is")) kinds(text, name) else cases(text, name)
    }

    private fun cases(text: String, name: String): String = run.meter.made(
        when (name) {
            "upper" -> text.uppercase()
            "lower" -> text.lowercase()
            "capitalize" -> capitalize(text)
            "title" -> title(text)
            else -> throw TemplateException("it calls '$name', which this app does not know")
        },
    )

    private fun kinds(text: String, name: String): Boolean = when (name) {
        "isdigit" -> all(text) { Unicode.CATEGORIES[Unicode.category(it)] == "Nd" }
        "isalpha" -> all(text) { Unicode.CATEGORIES[Unicode.category(it)][0] == 'L' }
        "isspace" -> text.isNotEmpty() && text.all(::isSpace)
        "isnumeric" -> all(text, Unicode::isNumeric)
        "isalnum" -> all(text) { Unicode.CATEGORIES[Unicode.category(it)][0] == 'L' || Unicode.isNumeric(it) }
        "isupper" -> text != text.lowercase() && text == text.uppercase()
        else -> text != text.uppercase() && text == text.lowercase()
    }

    private inline fun all(text: String, holds: (Int) -> Boolean): Boolean {
        var isAll = text.isNotEmpty()
        text.eachCode { if (!holds(it)) isAll = false }
        return isAll
    }

    fun strip(text: String, given: Given, left: Boolean, right: Boolean): String {
        val characters = given.values.getOrNull(0)?.let { it as? String ?: throw TemplateException("strip takes a text") }
        val isCut = { character: Char -> if (characters == null) isSpace(character) else character in characters }
        var start = 0
        var end = text.length
        while (left && start < end && isCut(text[start])) start++
        while (right && start < end && isCut(text[end - 1])) end--
        return text.substring(start, end)
    }

    private fun split(text: String, given: Given, fromRight: Boolean): List<String> {
        given.check("split", 2, "sep", "maxsplit")
        run.meter.charge(text.length / 4L)
        val separator = given.get(0, "sep")
        val wanted = given.get(1, "maxsplit", -1L) as? Long ?: -1L
        val most = if (wanted < 0) Int.MAX_VALUE else wanted.coerceAtMost(Int.MAX_VALUE.toLong()).toInt()
        if (separator == null) return splitSpaces(text, most, fromRight)
        if (separator !is String || separator.isEmpty()) throw TemplateException("split takes a separator that is not empty")
        val parts = text.split(separator)
        if (parts.size - 1 <= most) return parts
        if (fromRight) return listOf(parts.dropLast(most).joinToString(separator)) + parts.takeLast(most)
        return parts.take(most) + parts.drop(most).joinToString(separator)
    }

    /** At white space; what is behind the last cut keeps the white space at its other end. */
    private fun splitSpaces(text: String, most: Int, fromRight: Boolean): List<String> {
        val words = ArrayList<String>()
        var rest = if (fromRight) text.trimEnd(::isSpace) else text.trimStart(::isSpace)
        while (rest.isNotEmpty()) {
            val end = if (fromRight) rest.indexOfLast(::isSpace) else rest.indexOfFirst(::isSpace)
            if (end < 0 || words.size == most) {
                words.add(rest)
                break
            }
            words.add(if (fromRight) rest.substring(end + 1) else rest.substring(0, end))
            rest = if (fromRight) rest.substring(0, end).trimEnd(::isSpace) else rest.substring(end).trimStart(::isSpace)
            run.meter.text(rest.length.toLong())
        }
        return if (fromRight) words.reversed() else words
    }

    fun splitLines(text: String): List<String> {
        run.meter.charge(text.length / 4L)
        val lines = ArrayList<String>()
        var start = 0
        var place = 0
        while (place < text.length) {
            if (text[place] !in LINE_ENDS) {
                place++
                continue
            }
            lines.add(text.substring(start, place))
            place += if (text.startsWith("\r\n", place)) 2 else 1
            start = place
        }
        if (start < text.length) lines.add(text.substring(start))
        return lines
    }

    private inline fun ends(given: Given, holds: (String) -> Boolean): Boolean {
        if (given.values.size != 1) throw TemplateException("startswith and endswith take one argument in this app")
        val wanted = given.values[0]
        return if (wanted is Tuple) wanted.items.any { holds(text(it)) } else holds(text(wanted))
    }

    fun replace(text: String, old: String, new: String, most: Any?): String {
        val limit = (most as? Long)?.takeIf { it >= 0 } ?: Long.MAX_VALUE
        val times = minOf(count(text, old), limit)
        run.meter.text(text.length + times * maxOf(0, new.length - old.length))
        if (limit == Long.MAX_VALUE && old.isNotEmpty()) return text.replace(old, new)
        if (old.isEmpty()) throw TemplateException("it replaces the empty text, which this app does not")
        var result = StringBuilder()
        var place = 0
        for (turn in 0 until times) {
            val at = text.indexOf(old, place)
            result = result.append(text, place, at).append(new)
            place = at + old.length
        }
        return result.append(text, place, text.length).toString()
    }

    fun join(separator: String, items: Any?): String {
        val texts = run.values.items(items).map(::text)
        run.meter.text(texts.fold(0L) { sum, text -> sum + text.length + separator.length })
        return texts.joinToString(separator)
    }

    private fun find(text: String, name: String, wanted: String): Long {
        val place = if (name == "rfind") text.lastIndexOf(wanted) else text.indexOf(wanted)
        if (place < 0 && name == "index") throw TemplateException("substring not found")
        return if (place < 0) -1L else text.codePointCount(0, place).toLong()
    }

    private fun count(text: String, wanted: String): Long {
        if (wanted.isEmpty()) return run.values.length(text) + 1
        var count = 0L
        var place = text.indexOf(wanted)
        while (place >= 0) {
            count++
            place = text.indexOf(wanted, place + wanted.length)
        }
        return count
    }

    private fun partition(text: String, separator: String, place: Int, isLast: Boolean): Tuple = when {
        place >= 0 -> Tuple(listOf(text.substring(0, place), separator, text.substring(place + separator.length)))
        isLast -> Tuple(listOf("", "", text))
        else -> Tuple(listOf(text, "", ""))
    }

    fun capitalize(text: String): String {
        if (text.isEmpty()) return text
        val end = text.offsetByCodePoints(0, 1)
        return text.substring(0, end).uppercase() + text.substring(end).lowercase()
    }

    private fun title(text: String): String {
        val built = StringBuilder()
        var isInWord = false
        text.eachCode { code ->
            val character = String(Character.toChars(code))
            built.append(if (isInWord) character.lowercase() else character.uppercase())
            isInWord = character.lowercase() != character.uppercase()
        }
        return built.toString()
    }

    private fun textAt(given: Given, place: Int): String = text(given.values.getOrNull(place))

    private fun text(value: Any?): String =
        value as? String ?: throw TemplateException("a text is expected, not ${run.values.typeName(value)}")

    private companion object {
        const val LINE_ENDS = "\n\r\u000B\u000C\u001C\u001D\u001E\u0085\u2028\u2029"
        val NAMED = setOf("split", "rsplit")
        val NAMES = setOf(
            "strip", "lstrip", "rstrip", "split", "rsplit", "splitlines", "startswith", "endswith", "replace", "join", "find",
            "rfind", "index", "count", "format", "partition", "rpartition", "removeprefix", "removesuffix", "zfill", "ljust",
            "rjust", "center", "upper", "lower", "capitalize", "title", "isdigit", "isalpha", "isspace", "isnumeric", "isalnum",
            "isupper", "islower",
        )
    }
}

/** Fills texts up to a width. */
internal class Padding(private val run: Rendering) {
    fun pad(text: String, name: String, given: Given): String {
        val width = given.values.getOrNull(0) as? Long ?: throw TemplateException("the method '$name' takes a width")
        run.meter.text(width)
        val missing = (width - run.values.length(text)).coerceAtLeast(0L).toInt()
        val fill = given.values.getOrNull(1) as? String ?: if (name == "zfill") "0" else " "
        if (fill.length != 1) throw TemplateException("the method '$name' fills with one character")
        return when (name) {
            "ljust" -> text + fill.repeat(missing)
            "rjust" -> fill.repeat(missing) + text
            "center" -> center(text, missing, width, fill)
            else -> {
                val sign = if (text.startsWith("-") || text.startsWith("+")) 1 else 0
                text.substring(0, sign) + fill.repeat(missing) + text.substring(sign)
            }
        }
    }

    /** As CPython does it: of an odd number, the larger half is before the text if the width is odd, too. */
    private fun center(text: String, missing: Int, width: Long, fill: String): String {
        val left = missing / 2 + (missing and width.toInt() and 1)
        return fill.repeat(left) + text + fill.repeat(missing - left)
    }
}

/** The methods of mappings that templates may call. */
internal class MapMethods(private val run: Rendering) {
    fun find(map: Map<*, *>, name: String): Callable? = when (name) {
        "items" -> Callable { View("dict_items", map.entries.map { Tuple(listOf(it.key, it.value)) }.also { charge(map) }) }
        "keys" -> Callable { View("dict_keys", map.keys.toList().also { charge(map) }) }
        "values" -> Callable { View("dict_values", map.values.toList().also { charge(map) }) }
        "copy" -> Callable { LinkedHashMap(map).also { charge(map) } }
        "get" -> Callable { given -> if (map.containsKey(given.values.getOrNull(0))) map[given.values[0]] else given.get(1, "default") }
        else -> null
    }

    private fun charge(map: Map<*, *>) = run.meter.charge(map.size / 4L)
}

/** The methods of lists that templates may call. */
internal class ListMethods(private val run: Rendering) {
    fun find(list: Any?, name: String): Callable? = when (name) {
        "count" -> Callable { given -> run.values.items(list).count { run.values.equal(it, given.values.singleOrNull()) }.toLong() }
        "index" -> Callable { given ->
            val place = run.values.items(list).indexOfFirst { run.values.equal(it, given.values.singleOrNull()) }
            if (place < 0) throw TemplateException("a value is not in the list") else place.toLong()
        }
        "copy" -> if (list is List<*>) Callable { ArrayList(list).also { run.meter.charge(list.size / 4L) } } else null
        else -> null
    }
}
