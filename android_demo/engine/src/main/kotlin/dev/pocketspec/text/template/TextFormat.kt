package dev.pocketspec.text.template

/** `"%s" % value` and `"{}".format(value)`, without widths: other forms are refused by name. */
internal class TextFormat(private val run: Rendering) {
    fun percent(form: String, value: Any?): String {
        val given = if (value is Tuple) value.items else listOf(value)
        val built = StringBuilder()
        var next = 0
        var place = 0
        while (place < form.length) {
            val character = form[place++]
            if (character != '%') {
                built.append(character)
                continue
            }
            val kind = form.getOrNull(place++)
            if (kind != '%' && kind != 's' && kind != 'd') unknown("%${kind ?: ""}")
            if (kind == '%') built.append('%') else built.append(shown(given, next++, kind == 'd'))
        }
        val isMapping = run.values.isSequence(value) && value !is String && value !is Tuple // as Python tells them
        val isLeft = next < given.size && !isMapping
        if (isLeft) throw TemplateException("not all arguments converted during string formatting")
        return run.meter.made(built.toString())
    }

    private fun shown(given: List<Any?>, place: Int, isWhole: Boolean): String {
        if (place >= given.size) throw TemplateException("not enough arguments for format string")
        val value = given[place]
        if (isWhole && value !is Long) throw TemplateException("%d format: a whole number is required")
        return run.values.text(value)
    }

    fun braces(form: String, given: Given): String {
        val built = StringBuilder()
        var next = 0
        var place = 0
        while (place < form.length) {
            val character = form[place++]
            val isDouble = (character == '{' || character == '}') && form.getOrNull(place) == character
            if (isDouble) place++
            if (isDouble || (character != '{' && character != '}')) {
                built.append(character)
                continue
            }
            val end = form.indexOf('}', place)
            val name = if (character == '{' && end >= 0) form.substring(place, end) else "}"
            if (name.any { !it.isLetterOrDigit() && it != '_' }) unknown("{$name")
            built.append(run.values.text(field(given, name, next)))
            if (name.isEmpty()) next++
            place = end + 1
        }
        return run.meter.made(built.toString())
    }

    private fun unknown(form: String): Nothing =
        throw TemplateException("it formats with '$form', which this app does not know")

    private fun field(given: Given, name: String, next: Int): Any? {
        val place = if (name.isEmpty()) next else name.toIntOrNull() ?: -1
        if (place < 0 && name in given.named) return given.named[name]
        if (place in given.values.indices) return given.values[place]
        throw TemplateException("a format has the field '$name', which it is not given")
    }
}
