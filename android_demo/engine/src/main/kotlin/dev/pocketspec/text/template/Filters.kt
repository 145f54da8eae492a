package dev.pocketspec.text.template

/** What `value | name(...)` does. */
internal fun interface Filter {
    fun apply(run: Rendering, value: Any?, given: Given): Any?
}

/** The filters of jinja2 that this app knows, with Hugging Face's `tojson`. */
internal object Filters {
    private val all: Map<String, Filter> by lazy { TextFilters.ALL + ListFilters.ALL + others() }

    /** The filter [name]; null if this app knows none. */
    fun find(name: String): Filter? = all[name]

    private fun others(): Map<String, Filter> = mapOf(
        "abs" to Filter { run, value, _ -> absolute(run, value) },
        "d" to Filter(::default),
        "default" to Filter(::default),
        "float" to Filter { run, value, given -> toDouble(run, value) ?: given.get(0, "default", 0.0) },
        "int" to Filter { run, value, given -> toLong(run, value) ?: given.get(0, "default", 0L) },
        "round" to Filter { run, value, given ->
            given.check("round", 0)
            if (!run.values.isNumber(value)) throw TemplateException("round takes a number")
            if (value is Double) Math.rint(value) else run.values.long(value)
        },
        "safe" to Filter { run, value, _ -> Markup(run.values.text(value)) },
    )

    private fun absolute(run: Rendering, value: Any?): Any {
        if (!run.values.isNumber(value)) throw TemplateException("abs takes a number")
        return if (value is Double) Math.abs(value) else Math.abs(run.values.long(value))
    }

    private fun default(run: Rendering, value: Any?, given: Given): Any? {
        val isForFalse = run.values.isTrue(given.get(1, "boolean", false))
        val isMissing = value is Undefined || (isForFalse && !run.values.isTrue(value))
        return if (isMissing) given.get(0, "default_value", "") else value
    }

    private fun toLong(run: Rendering, value: Any?): Long? = when {
        value is Undefined -> throw TemplateException(value.message)
        value is Double -> if (Math.abs(value) < LARGEST) value.toLong() else null
        value is String -> value.trim(::isSpace).let { it.toLongOrNull() ?: toLong(run, it.toDoubleOrNull()) }
        run.values.isNumber(value) -> run.values.long(value)
        else -> null
    }

    private fun toDouble(run: Rendering, value: Any?): Double? = when {
        value is Undefined -> throw TemplateException(value.message)
        value is String -> value.trim(::isSpace).toDoubleOrNull()
        run.values.isNumber(value) -> run.values.double(value)
        else -> null
    }

    private const val LARGEST = 9e18
}
