package dev.pocketspec.text.template

import java.util.Calendar

/** The functions that Hugging Face gives chat templates. */
internal class Globals(private val run: Rendering) {
    fun addTo(scope: Scope) {
        scope["range"] = Callable(::range)
        scope["dict"] = Callable(::dict)
        scope["namespace"] = Callable { given -> Namespace(dict(given).also { map -> map.keys.forEach(::refuseUnderscore) }) }
        scope["raise_exception"] = Callable { given -> throw TemplateException(run.values.text(given.get(0, "message"))) }
        scope["strftime_now"] = Callable { given -> run.meter.made(Dates.format(run.now, run.values.text(given.get(0, "format")))) }
    }

    private fun range(given: Given): View {
        val bounds = given.values.map { it as? Long ?: throw TemplateException("range takes whole numbers") }
        if (bounds.size !in 1..3) throw TemplateException("range takes one to three arguments")
        val first = if (bounds.size > 1) bounds[0] else 0L
        val last = if (bounds.size > 1) bounds[1] else bounds[0]
        val step = bounds.getOrElse(2) { 1L }
        if (step == 0L) throw TemplateException("range takes a step that is not zero")
        val size = if (step > 0) (last - first + step - 1) / step else (first - last - step - 1) / -step
        if (size > MOST_RANGE) throw LimitException("Range too big. The sandbox blocks ranges larger than MAX_RANGE ($MOST_RANGE).")
        run.meter.charge(size.coerceAtLeast(0L) / 4)
        val items = List(size.coerceAtLeast(0L).toInt()) { first + it * step }
        return View("range($first, $last" + (if (step == 1L) ")" else ", $step)"), items)
    }

    private fun dict(given: Given): MutableMap<String, Any?> {
        val made = LinkedHashMap<String, Any?>()
        when (val first = given.values.firstOrNull()) {
            null -> Unit
            is Map<*, *> -> for ((key, value) in first) made[text(key)] = value
            else -> for (pair in run.values.items(first)) {
                val items = run.values.items(pair)
                if (items.size != 2) throw TemplateException("a mapping is made of pairs")
                made[text(items[0])] = items[1]
            }
        }
        made.putAll(given.named)
        return made
    }

    private fun text(key: Any?): String = key as? String ?: throw TemplateException("keys given to 'dict' are texts in this app")

    private fun refuseUnderscore(name: String) {
        if (name.startsWith("_")) throw TemplateException("a namespace has the name '$name', which begins with an underscore")
    }

    private companion object {
        const val MOST_RANGE = 100_000L
    }
}

/** Dates in English, as Python's `strftime` writes them; a form that is not known is refused. */
internal object Dates {
    private val MONTHS =
        "January February March April May June July August September October November December".split(' ')
    private val DAYS = "Sunday Monday Tuesday Wednesday Thursday Friday Saturday".split(' ')

    fun format(date: Calendar, form: String): String {
        val built = StringBuilder()
        var place = 0
        while (place < form.length) {
            if (form[place] != '%') {
                built.append(form[place++])
                continue
            }
            val isBare = form.getOrNull(place + 1) == '-'
            val kind = form.getOrNull(place + if (isBare) 2 else 1)
            built.append(part(date, kind).let { if (isBare && it.length > 1) it.trimStart('0').ifEmpty { "0" } else it })
            place += if (isBare) 3 else 2
        }
        return built.toString()
    }

    private fun part(date: Calendar, kind: Char?): String {
        val month = MONTHS[date.get(Calendar.MONTH)]
        val day = DAYS[date.get(Calendar.DAY_OF_WEEK) - 1]
        return when (kind) {
            'Y' -> date.get(Calendar.YEAR).toString()
            'y' -> padded(date.get(Calendar.YEAR) % 100, 2)
            'm' -> padded(date.get(Calendar.MONTH) + 1, 2)
            'd' -> padded(date.get(Calendar.DAY_OF_MONTH), 2)
            'j' -> padded(date.get(Calendar.DAY_OF_YEAR), 3)
            'H' -> padded(date.get(Calendar.HOUR_OF_DAY), 2)
            'I' -> padded((date.get(Calendar.HOUR_OF_DAY) + 11) % 12 + 1, 2)
            'M' -> padded(date.get(Calendar.MINUTE), 2)
            'S' -> padded(date.get(Calendar.SECOND), 2)
            'p' -> if (date.get(Calendar.HOUR_OF_DAY) < 12) "AM" else "PM"
            'B' -> month
            'b' -> month.substring(0, 3)
            'A' -> day
            'a' -> day.substring(0, 3)
            '%' -> "%"
            else -> throw TemplateException("it writes a date with '%${kind ?: ""}', which this app does not know")
        }
    }

    private fun padded(number: Int, digits: Int): String = number.toString().padStart(digits, '0')
}
