package dev.pocketspec.text.template

import dev.pocketspec.json.JsonException
import dev.pocketspec.json.JsonWriter

/** The filters that make texts. */
internal object TextFilters {
    private const val MOST_INDENT = 32L

    val ALL: Map<String, Filter> = mapOf(
        "capitalize" to Filter { run, value, _ -> run.meter.made(TextMethods(run).capitalize(run.values.text(value))) },
        "center" to Filter(::center),
        "format" to Filter { run, value, given -> TextFormat(run).percent(run.values.text(value), Tuple(given.values)) },
        "indent" to Filter(::indent),
        "lower" to Filter { run, value, _ -> run.meter.made(run.values.text(value).lowercase()) },
        "replace" to Filter(::replace),
        "string" to Filter { run, value, _ -> run.values.text(value) },
        "title" to Filter { run, value, _ -> run.meter.made(title(run.values.text(value))) },
        "tojson" to Filter(::toJson),
        "trim" to Filter(::trim),
        "upper" to Filter { run, value, _ -> run.meter.made(run.values.text(value).uppercase()) },
    )

    private fun center(run: Rendering, value: Any?, given: Given): String =
        Padding(run).pad(run.values.text(value), "center", Given(listOf(given.get(0, "width", 80L))))

    private fun replace(run: Rendering, value: Any?, given: Given): String {
        val old = run.values.text(given.get(0, "old"))
        val new = run.values.text(given.get(1, "new"))
        return TextMethods(run).replace(run.values.text(value), old, new, given.get(2, "count"))
    }

    private fun trim(run: Rendering, value: Any?, given: Given): String {
        val text = run.meter.made(run.values.text(value))
        return TextMethods(run).strip(text, Given(listOf(given.get(0, "chars"))), left = true, right = true)
    }

    /** As jinja2 does it, which begins words after other characters than Python. */
    private fun title(text: String): String {
        val built = StringBuilder()
        var isInWord = false
        for (character in text) {
            val separates = isSpace(character) || character in "-({[<"
            built.append(if (isInWord) character.lowercase() else character.uppercase())
            isInWord = !separates
        }
        return built.toString()
    }

    private fun indent(run: Rendering, value: Any?, given: Given): String {
        val width = given.get(0, "width", 4L)
        val count = if (width is Long) width.coerceAtLeast(0L) else 0L
        run.meter.text(count)
        val front = if (width is String) width else " ".repeat(count.toInt())
        if (value !is String) throw TemplateException("only a text can be indented")
        val lines = TextMethods(run).splitLines(value + "\n")
        run.meter.text(lines.fold(0L) { sum, line -> sum + line.length + front.length + 1 })
        val isBlankToo = run.values.isTrue(given.get(2, "blank", false))
        val rest = lines.drop(1).joinToString("") { line -> "\n" + if (line.isNotEmpty() || isBlankToo) front + line else line }
        return (if (run.values.isTrue(given.get(1, "first", false))) front else "") + lines[0] + rest
    }

    private fun toJson(run: Rendering, value: Any?, given: Given): String {
        given.check("tojson", 4, "ensure_ascii", "indent", "separators", "sort_keys")
        val indent = jsonIndent(given.get(1, "indent"))
        val separators = given.get(2, "separators")?.let { run.values.items(it).map(run.values::text) }
            ?: listOf(if (indent == null) ", " else ",", ": ")
        if (separators.size != 2) throw TemplateException("JSON has two separators")
        val isAscii = run.values.isTrue(given.get(0, "ensure_ascii", false))
        val isSorted = run.values.isTrue(given.get(3, "sort_keys", false))
        try {
            val data = plain(run, value, indent?.length ?: 0)
            return run.meter.made(JsonWriter(isAscii, indent, separators[0], separators[1], isSorted).write(data))
        } catch (error: JsonException) {
            throw TemplateException(error.message!!)
        }
    }

    private fun jsonIndent(width: Any?): String? {
        val size = if (width is String) width.length.toLong() else width as? Long ?: 0L
        if (size > MOST_INDENT) throw LimitException("it indents JSON by $size, at most $MOST_INDENT are allowed")
        return if (width is Long) " ".repeat(size.coerceAtLeast(0L).toInt()) else width as? String
    }

    /** [value] with lists for tuples, each part of it charged with its indent. */
    private fun plain(run: Rendering, value: Any?, indent: Int): Any? = run.meter.deeper {
        run.meter.charge()
        run.meter.text(indent * MOST_INDENT)
        when (value) {
            is String -> run.meter.made(value)
            is Tuple -> value.items.map { plain(run, it, indent) }
            is List<*> -> value.map { plain(run, it, indent) }
            is Map<*, *> -> value.entries.associate { it.key to plain(run, it.value, indent) }
            is Undefined -> throw TemplateException("Object of type Undefined is not JSON serializable")
            else -> value
        }
    }
}
