package dev.pocketspec.text.template

/** A part of a template that has a value. */
internal abstract class Expression {
    protected abstract fun find(scope: Scope): Any?

    fun value(scope: Scope): Any? {
        scope.run.meter.charge()
        return find(scope)
    }
}

internal class Literal(private val value: Any?) : Expression() {
    override fun find(scope: Scope): Any? = value
}

internal class Name(val name: String) : Expression() {
    override fun find(scope: Scope): Any? = scope[name]
}

internal class ListOf(private val items: List<Expression>, private val isTuple: Boolean) : Expression() {
    override fun find(scope: Scope): Any? = items.map { it.value(scope) }.let { if (isTuple) Tuple(it) else it }
}

internal class MapOf(private val pairs: List<Pair<Expression, Expression>>) : Expression() {
    override fun find(scope: Scope): Any? {
        val map = LinkedHashMap<Any?, Any?>()
        for ((key, item) in pairs) map[hashable(key.value(scope))] = item.value(scope)
        return map
    }
}

internal fun hashable(value: Any?): Any? {
    if (value == null || value is String || value is Long || value is Boolean) return value
    throw TemplateException("a key of a mapping must be a text or a whole number in this app")
}

internal class Either(private val test: Expression, private val then: Expression, private val otherwise: Expression?) :
    Expression() {
    override fun find(scope: Scope): Any? = when {
        scope.run.values.isTrue(test.value(scope)) -> then.value(scope)
        otherwise != null -> otherwise.value(scope)
        else -> Undefined("the inline if-expression evaluated to false and no else section was defined.")
    }
}

internal class Logical(private val left: Expression, private val isAnd: Boolean, private val right: Expression) :
    Expression() {
    override fun find(scope: Scope): Any? {
        val first = left.value(scope)
        return if (scope.run.values.isTrue(first) == isAnd) right.value(scope) else first
    }
}

internal class Not(private val inner: Expression) : Expression() {
    override fun find(scope: Scope): Any? = !scope.run.values.isTrue(inner.value(scope))
}

/** `a < b <= c`: each operand is computed once, up to the first comparison that fails. */
internal class Comparison(private val first: Expression, private val rest: List<Pair<String, Expression>>) : Expression() {
    override fun find(scope: Scope): Any? {
        var left = first.value(scope)
        for ((operator, operand) in rest) {
            val right = operand.value(scope)
            if (!holds(scope.run.values, operator, left, right)) return false
            left = right
        }
        return true
    }

    companion object {
        fun holds(values: Values, operator: String, left: Any?, right: Any?): Boolean = when (operator) {
            "==" -> values.equal(left, right)
            "!=" -> !values.equal(left, right)
            "<" -> values.compare(left, right) < 0
            "<=" -> values.compare(left, right) <= 0
            ">" -> values.compare(left, right) > 0
            ">=" -> values.compare(left, right) >= 0
            "in" -> values.isIn(left, right)
            else -> !values.isIn(left, right)
        }
    }
}

internal class Joined(private val parts: List<Expression>) : Expression() {
    override fun find(scope: Scope): Any? {
        val texts = parts.map { scope.run.values.text(it.value(scope)) }
        scope.run.meter.text(texts.fold(0L) { sum, text -> sum + text.length })
        return texts.joinToString("")
    }
}

internal class Arithmetic(private val operator: String, private val left: Expression, private val right: Expression) :
    Expression() {
    override fun find(scope: Scope): Any? = Numbers(scope.run).apply(operator, left.value(scope), right.value(scope))
}

internal class Negated(private val inner: Expression, private val isNegative: Boolean) : Expression() {
    override fun find(scope: Scope): Any? {
        val value = inner.value(scope)
        return if (isNegative) Numbers(scope.run).apply("-", 0L, value) else Numbers(scope.run).apply("+", 0L, value)
    }
}

/** `value.name` or `value[key]`. */
internal class Part(private val of: Expression, private val key: Expression, private val isAttribute: Boolean) : Expression() {
    override fun find(scope: Scope): Any? {
        val owner = of.value(scope)
        val name = key.value(scope)
        return if (isAttribute) Parts(scope.run).attribute(owner, name as String) else Parts(scope.run).item(owner, name)
    }
}

internal class Slice(
    private val of: Expression,
    private val start: Expression?,
    private val stop: Expression?,
    private val step: Expression?,
) : Expression() {
    override fun find(scope: Scope): Any? = Parts(scope.run).slice(
        of.value(scope),
        bound(start, scope),
        bound(stop, scope),
        bound(step, scope) ?: 1L,
    )

    private fun bound(expression: Expression?, scope: Scope): Long? {
        val value = expression?.value(scope) ?: return null
        return value as? Long ?: throw TemplateException("the bounds of a slice must be whole numbers")
    }
}

/** The arguments of a call; [all] and [allNamed] are those behind `*` and `**`. */
internal class Arguments(
    private val values: List<Expression> = emptyList(),
    private val named: List<Pair<String, Expression>> = emptyList(),
    private val all: Expression? = null,
    private val allNamed: Expression? = null,
) {
    fun given(scope: Scope): Given {
        val found = values.mapTo(ArrayList()) { it.value(scope) }
        if (all != null) found.addAll(scope.run.values.items(all.value(scope)))
        val byName = named.associateTo(LinkedHashMap()) { (name, value) -> name to value.value(scope) }
        val more = allNamed?.value(scope) ?: return Given(found, byName)
        if (more !is Map<*, *>) throw TemplateException("'**' takes a mapping, not ${scope.run.values.typeName(more)}")
        for ((name, value) in more) byName[name as? String ?: throw TemplateException("names of arguments are texts")] = value
        return Given(found, byName)
    }
}

internal class Call(private val function: Expression, private val arguments: Arguments) : Expression() {
    override fun find(scope: Scope): Any? {
        val called = function.value(scope)
        if (called is Undefined) throw TemplateException(called.message)
        if (called !is Callable) throw TemplateException("${scope.run.values.typeName(called)} cannot be called")
        scope.run.meter.charge(CALL)
        return scope.run.meter.deeper { called.call(arguments.given(scope)) }
    }

    private companion object {
        const val CALL = 4L
    }
}

internal class Filtered(private val inner: Expression, private val filter: Filter, private val arguments: Arguments) :
    Expression() {
    override fun find(scope: Scope): Any? {
        scope.run.meter.charge(CALL)
        val value = inner.value(scope)
        if (value is Markup) throw TemplateException("a filter of a text that 'safe' has marked is not known to this app")
        return filter.apply(scope.run, value, arguments.given(scope))
    }

    /** The same filter of another value. */
    fun around(other: Expression) = Filtered(other, filter, arguments)

    private companion object {
        const val CALL = 4L
    }
}

internal class Tested(private val inner: Expression, private val test: ValueTest, private val arguments: Arguments) :
    Expression() {
    override fun find(scope: Scope): Any? = test.holds(scope.run, inner.value(scope), arguments.given(scope))
}
