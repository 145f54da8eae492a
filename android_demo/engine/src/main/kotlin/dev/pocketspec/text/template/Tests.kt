package dev.pocketspec.text.template

/** What `value is name` asks. */
internal fun interface ValueTest {
    fun holds(run: Rendering, value: Any?, given: Given): Boolean
}

/** The tests of jinja2 that this app knows. */
internal object Tests {
    private val comparisons = mapOf(
        "==" to listOf("eq", "equalto", "=="),
        "!=" to listOf("ne", "!="),
        "<" to listOf("lt", "lessthan", "<"),
        "<=" to listOf("le", "<="),
        ">" to listOf("gt", "greaterthan", ">"),
        ">=" to listOf("ge", ">="),
        "in" to listOf("in"),
    )

    private val all: Map<String, ValueTest> = HashMap<String, ValueTest>().apply {
        for ((operator, names) in comparisons) {
            val test = ValueTest { run, value, given -> Comparison.holds(run.values, operator, value, given.values.singleOrNull()) }
            for (name in names) put(name, test)
        }
        putAll(kinds())
        putAll(numbers())
    }

    /** The test [name]; null if this app knows none. */
    fun find(name: String): ValueTest? = all[name]

    private fun kinds(): Map<String, ValueTest> = mapOf(
        "defined" to ValueTest { _, value, _ -> value !is Undefined },
        "undefined" to ValueTest { _, value, _ -> value is Undefined },
        "none" to ValueTest { _, value, _ -> value == null },
        "string" to ValueTest { _, value, _ -> value is String || value is Markup },
        "mapping" to ValueTest { _, value, _ -> value is Map<*, *> },
        "iterable" to ValueTest { run, value, _ -> run.values.isIterable(value) },
        "sequence" to ValueTest { run, value, _ -> run.values.isSequence(value) },
        "callable" to ValueTest { _, value, _ -> value is Callable || value is Undefined },
        "boolean" to ValueTest { _, value, _ -> value is Boolean },
        "true" to ValueTest { _, value, _ -> value == true },
        "false" to ValueTest { _, value, _ -> value == false },
        "sameas" to ValueTest { _, value, given -> isSame(value, given.values.singleOrNull()) },
        "lower" to ValueTest { run, value, _ -> run.values.text(value).let { it == it.lowercase() && it != it.uppercase() } },
        "upper" to ValueTest { run, value, _ -> run.values.text(value).let { it == it.uppercase() && it != it.lowercase() } },
        "filter" to ValueTest { _, value, _ -> value is String && Filters.find(value) != null },
        "test" to ValueTest { _, value, _ -> value is String && value in all },
    )

    private fun isSame(one: Any?, other: Any?): Boolean = one === other || (one is Boolean && one == other)

    private fun numbers(): Map<String, ValueTest> = mapOf(
        "number" to ValueTest { run, value, _ -> run.values.isNumber(value) },
        "integer" to ValueTest { _, value, _ -> value is Long },
        "float" to ValueTest { _, value, _ -> value is Double },
        "odd" to ValueTest { run, value, _ -> Numbers(run).apply("%", value, 2L) == 1L },
        "even" to ValueTest { run, value, _ -> Numbers(run).apply("%", value, 2L) == 0L },
        "divisibleby" to ValueTest { run, value, given -> Numbers(run).apply("%", value, given.values.singleOrNull()) == 0L },
    )
}
