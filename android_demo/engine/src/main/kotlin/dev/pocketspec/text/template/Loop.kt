package dev.pocketspec.text.template

/** `{% for ... %}`; [isRecursive]: its body may call the loop with other items. */
internal class For(
    private val target: Target,
    private val items: Expression,
    private val test: Expression?,
    private val body: Block,
    private val otherwise: Block?,
    private val isRecursive: Boolean,
) : Statement() {
    override fun run(scope: Scope): Flow {
        go(scope, items.value(scope), 0)
        return Flow.Next
    }

    fun go(scope: Scope, over: Any?, depth: Int) {
        val chosen = chosen(scope, scope.run.values.items(over))
        val loop = Loop(this, scope, chosen, depth, isRecursive)
        for (place in chosen.indices) {
            scope.run.meter.charge()
            val inner = scope.inner()
            loop.place = place
            inner["loop"] = loop
            target.set(inner, chosen[place])
            if (body.run(inner) == Flow.Break) return
        }
        if (chosen.isEmpty()) otherwise?.run(scope.inner())
    }

    private fun chosen(scope: Scope, all: List<Any?>): List<Any?> {
        if (test == null) return all
        return all.filter { item ->
            val inner = scope.inner()
            target.set(inner, item)
            scope.run.values.isTrue(test.value(inner))
        }
    }
}

/** `loop` within a loop. */
internal class Loop(
    private val statement: For,
    private val scope: Scope,
    private val items: List<Any?>,
    private val depth: Int,
    private val isRecursive: Boolean,
) : Callable {
    /** Which of the items the loop is at. */
    var place = 0

    private var lastSeen: List<Any?>? = null

    fun has(name: String): Boolean = name in NAMES

    fun part(name: String): Any? = when (name) {
        "index" -> place + 1L
        "index0" -> place.toLong()
        "revindex" -> (items.size - place).toLong()
        "revindex0" -> items.size - place - 1L
        "first" -> place == 0
        "last" -> place == items.size - 1
        "length" -> items.size.toLong()
        "depth" -> depth + 1L
        "depth0" -> depth.toLong()
        "previtem" -> if (place > 0) items[place - 1] else Undefined("there is no previous item")
        "nextitem" -> if (place + 1 < items.size) items[place + 1] else Undefined("there is no next item")
        "cycle" -> Callable { given -> cycled(given.values) }
        else -> Callable { given -> hasChanged(given.values) }
    }

    /** Runs the loop with other items, deeper. */
    override fun call(given: Given): Any? {
        if (!isRecursive) throw TemplateException("the loop must have the 'recursive' marker to be called recursively")
        val items = given.values.singleOrNull()
        return scope.run.captured { statement.go(scope, items, depth + 1) }
    }

    private fun cycled(values: List<Any?>): Any? {
        if (values.isEmpty()) throw TemplateException("no items for cycling given")
        return values[place % values.size]
    }

    private fun hasChanged(values: List<Any?>): Boolean {
        val last = lastSeen
        lastSeen = values
        return last == null || !scope.run.values.equal(last, values)
    }

    private companion object {
        val NAMES = setOf(
            "index", "index0", "revindex", "revindex0", "first", "last", "length", "depth", "depth0", "previtem", "nextitem",
            "cycle", "changed",
        )
    }
}
