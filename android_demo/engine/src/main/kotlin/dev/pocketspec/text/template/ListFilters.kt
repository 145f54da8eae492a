package dev.pocketspec.text.template

/** The filters that go through items. */
internal object ListFilters {
    val ALL: Map<String, Filter> = mapOf(
        "batch" to Filter { run, value, given -> Generator { batch(run, value, given) } },
        "count" to Filter { run, value, _ -> run.values.length(value) },
        "dictsort" to Filter(::sortedPairs),
        "first" to Filter { run, value, _ -> items(run, value).let { if (it.isEmpty()) nothing("First") else it.first() } },
        "items" to Filter { run, value, given -> Generator { pairs(run, value, given) } },
        "join" to Filter(::join),
        "last" to Filter(::last),
        "length" to Filter { run, value, _ -> run.values.length(value) },
        "list" to Filter { run, value, _ -> ArrayList(items(run, value)) },
        "map" to Filter { run, value, given -> Generator { map(run, value, given) } },
        "max" to Filter { run, value, _ -> items(run, value).maxWithOrNull(order(run, false, null)) ?: nothing("aggregated") },
        "min" to Filter { run, value, _ -> items(run, value).minWithOrNull(order(run, false, null)) ?: nothing("aggregated") },
        "reject" to Filter { run, value, given -> Generator { some(run, value).filterNot { isChosen(run, it, given, 0) } } },
        "rejectattr" to Filter { run, value, given -> Generator { some(run, value).filterNot { isChosenByPart(run, it, given) } } },
        "reverse" to Filter(::reverse),
        "select" to Filter { run, value, given -> Generator { some(run, value).filter { isChosen(run, it, given, 0) } } },
        "selectattr" to Filter { run, value, given -> Generator { some(run, value).filter { isChosenByPart(run, it, given) } } },
        "sort" to Filter(::sort),
        "sum" to Filter(::sum),
        "unique" to Filter { run, value, given -> Generator { unique(run, value, given) } },
    )

    private fun items(run: Rendering, value: Any?): List<Any?> =
        run.values.items(value).also { run.meter.charge(it.size / 4L + 1) }

    /** None of what counts as false, even if it cannot be gone through. */
    private fun some(run: Rendering, value: Any?): List<Any?> =
        if (run.values.isTrue(value)) items(run, value) else emptyList()

    private fun nothing(which: String) = Undefined("No $which item, sequence was empty.")

    private fun last(run: Rendering, value: Any?, given: Given): Any? {
        given.check("last", 0)
        if (value is Generator) throw TemplateException("'generator' object is not reversible")
        return items(run, value).let { if (it.isEmpty()) nothing("Last") else it.last() }
    }

    private fun mapping(value: Any?): Map<*, *> =
        value as? Map<*, *> ?: throw TemplateException("Can only get item pairs from a mapping.")

    private fun pairs(run: Rendering, value: Any?, given: Given): List<Any?> {
        given.check("items", 0)
        if (value is Undefined) return emptyList()
        run.meter.charge(mapping(value).size / 4L)
        return mapping(value).map { Tuple(listOf(it.key, it.value)) }
    }

    private fun sortedPairs(run: Rendering, value: Any?, given: Given): List<Any?> {
        given.check("dictsort", 1, "case_sensitive")
        return pairs(run, mapping(value), Given(emptyList())).sortedWith(order(run, given.get(0, "case_sensitive", false), 0L))
    }

    private fun batch(run: Rendering, value: Any?, given: Given): List<Any?> {
        given.check("batch", 1, "linecount")
        val size = given.get(0, "linecount") as? Long ?: throw TemplateException("batch takes a whole number")
        return items(run, value).chunked(size.coerceIn(1L, Int.MAX_VALUE.toLong()).toInt())
    }

    private fun join(run: Rendering, value: Any?, given: Given): String {
        val path = given.get(1, "attribute")
        val texts = items(run, value).map { run.values.text(part(run, it, path)) }
        return TextMethods(run).join(run.values.text(given.get(0, "d", "")), texts)
    }

    private fun map(run: Rendering, value: Any?, given: Given): List<Any?> {
        if (given.values.isEmpty()) {
            given.check("map", 0, "attribute", "default")
            return some(run, value).map { item ->
                val found = part(run, item, given.named["attribute"])
                if (found is Undefined && "default" in given.named) given.named["default"] else found
            }
        }
        val filter = Filters.find(given.values[0] as? String ?: "")
            ?: throw TemplateException("the filter '${given.values[0]}' is not known to this app")
        val rest = Given(given.values.drop(1), given.named)
        return some(run, value).map { run.meter.charge().let { _ -> filter.apply(run, it, rest) } }
    }

    private fun reverse(run: Rendering, value: Any?, given: Given): Any? {
        given.check("reverse", 0)
        val reversed = items(run, value).reversed()
        if (value is String) return reversed.joinToString("")
        return if (value is Generator) reversed else Generator { reversed }
    }

    private fun sort(run: Rendering, value: Any?, given: Given): List<Any?> {
        val order = order(run, given.get(1, "case_sensitive", false), given.get(2, "attribute"))
        val isReversed = run.values.isTrue(given.get(0, "reverse", false))
        val items = items(run, value)
        return if (isReversed) items.reversed().sortedWith(order).reversed() else items.sortedWith(order)
    }

    private fun sum(run: Rendering, value: Any?, given: Given): Any? {
        val start = given.get(1, "start", 0L)
        if (!run.values.isNumber(start)) throw LimitException("it sums other things than numbers")
        val path = given.get(0, "attribute")
        return items(run, value).fold(start) { sum, item -> Numbers(run).apply("+", sum, part(run, item, path)) }
    }

    private fun unique(run: Rendering, value: Any?, given: Given): List<Any?> {
        val isCaseSensitive = run.values.isTrue(given.get(0, "case_sensitive", false))
        val found = ArrayList<Any?>()
        val keys = ArrayList<Any?>()
        for (item in items(run, value)) {
            val key = folded(part(run, item, given.get(1, "attribute")), isCaseSensitive)
            if (keys.any { run.values.equal(it, key) }) continue
            found.add(item)
            keys.add(key)
        }
        return found
    }

    private fun isChosenByPart(run: Rendering, value: Any?, given: Given): Boolean {
        if (given.values.isEmpty()) throw TemplateException("selectattr and rejectattr take the name of an attribute")
        return isChosen(run, part(run, value, given.values[0]), given, 1)
    }

    /** Whether the test named by the argument at [first] holds; without one, whether [value] is true. */
    private fun isChosen(run: Rendering, value: Any?, given: Given, first: Int): Boolean {
        run.meter.charge()
        if (given.values.size <= first) return run.values.isTrue(value)
        val test = Tests.find(given.values[first] as? String ?: "")
            ?: throw TemplateException("the test '${given.values[first]}' is not known to this app")
        return test.holds(run, value, Given(given.values.drop(first + 1), given.named))
    }

    /** The part of [value] at [path], such as "function.name"; the value itself without one. */
    private fun part(run: Rendering, value: Any?, path: Any?): Any? {
        if (path == null) return value
        val parts = if (path is String) path.split('.').map { it.toLongOrNull() ?: it } else listOf(path)
        run.meter.charge(parts.size.toLong())
        return parts.fold(value) { owner, part -> Parts(run).item(owner, part) }
    }

    private fun folded(value: Any?, isCaseSensitive: Boolean): Any? =
        if (value is String && !isCaseSensitive) value.lowercase() else value

    /** By the parts at [path], of which there may be several with commas between them. */
    private fun order(run: Rendering, isCaseSensitive: Any?, path: Any?): Comparator<Any?> {
        val isSensitive = run.values.isTrue(isCaseSensitive)
        val paths = if (path is String) path.split(',') else listOf(path)
        return Comparator { left, right ->
            val keys = paths.map { folded(part(run, left, it), isSensitive) to folded(part(run, right, it), isSensitive) }
            val unequal = keys.firstOrNull { (one, other) -> !run.values.equal(one, other) }
            if (unequal == null) 0 else run.values.compare(unequal.first, unequal.second)
        }
    }
}
