package dev.pocketspec.text.template

/** What happens after a statement. */
internal enum class Flow { Next, Break, Continue }

/** A part of a template that does something. */
internal abstract class Statement {
    abstract fun run(scope: Scope): Flow
}

/** Statements one after the other. */
internal class Block(private val statements: List<Statement>) : Statement() {
    override fun run(scope: Scope): Flow {
        for (statement in statements) {
            scope.run.meter.charge()
            val flow = statement.run(scope)
            if (flow != Flow.Next) return flow
        }
        return Flow.Next
    }
}

/** Text between tags. */
internal class Data(private val text: String) : Statement() {
    override fun run(scope: Scope): Flow = Flow.Next.also { scope.run.write(text) }
}

/** `{{ ... }}` */
internal class Print(private val expression: Expression) : Statement() {
    override fun run(scope: Scope): Flow {
        scope.run.write(scope.run.values.text(expression.value(scope)))
        return Flow.Next
    }
}

/** `if`, each `elif`, and `else` as a branch without a test. */
internal class If(private val branches: List<Pair<Expression?, Block>>) : Statement() {
    override fun run(scope: Scope): Flow {
        val chosen = branches.firstOrNull { (test, _) -> test == null || scope.run.values.isTrue(test.value(scope)) }
        return chosen?.second?.run(scope) ?: Flow.Next
    }
}

/** What is set: a name, several of them, or a name in a namespace. */
internal sealed class Target {
    abstract fun set(scope: Scope, value: Any?)

    class Variable(val name: String) : Target() {
        override fun set(scope: Scope, value: Any?) {
            scope[name] = value
        }
    }

    class Several(private val targets: List<Target>) : Target() {
        override fun set(scope: Scope, value: Any?) {
            val items = scope.run.values.items(value)
            if (items.size != targets.size) throw TemplateException("${items.size} values are set to ${targets.size} names")
            targets.forEachIndexed { place, target -> target.set(scope, items[place]) }
        }
    }

    class InNamespace(private val space: String, private val name: String) : Target() {
        override fun set(scope: Scope, value: Any?) {
            val found = scope[space] as? Namespace ?: throw TemplateException("cannot assign attribute on non-namespace object")
            if (name.startsWith("_")) throw TemplateException("a namespace has the name '$name', which begins with an underscore")
            found.values[name] = value
        }
    }
}

internal class SetTo(private val target: Target, private val value: Expression) : Statement() {
    override fun run(scope: Scope): Flow {
        target.set(scope, value.value(scope))
        return Flow.Next
    }
}

/** `{% set name %} ... {% endset %}`, perhaps with filters; [wrap] makes the value of the text. */
internal class SetBlock(private val target: Target, private val body: Block, private val wrap: (Expression) -> Expression) :
    Statement() {
    override fun run(scope: Scope): Flow {
        val text = scope.run.captured { body.run(scope.inner()) }
        target.set(scope, wrap(Literal(text)).value(scope))
        return Flow.Next
    }
}

/** `{% filter name %} ... {% endfilter %}` */
internal class FilterBlock(private val body: Block, private val wrap: (Expression) -> Expression) : Statement() {
    override fun run(scope: Scope): Flow {
        val text = scope.run.captured { body.run(scope.inner()) }
        scope.run.write(scope.run.values.text(wrap(Literal(text)).value(scope)))
        return Flow.Next
    }
}

/** A body with names of its own: `with`, and `generation`, which marks training spans and changes nothing. */
internal class Within(private val names: List<Pair<Target, Expression>>, private val body: Block) : Statement() {
    override fun run(scope: Scope): Flow {
        val inner = scope.inner()
        for ((target, value) in names) target.set(inner, value.value(scope))
        return body.run(inner)
    }
}

internal class Leave(private val flow: Flow) : Statement() {
    override fun run(scope: Scope): Flow = flow
}

/** What a macro is called with: names, and the values of those that are left out. */
internal class Signature(val names: List<String>, val defaults: List<Expression>)

/** Sets a macro; it sees the names around its definition. */
internal class MacroDefinition(private val name: String, private val signature: Signature, private val body: Block) : Statement() {
    override fun run(scope: Scope): Flow {
        scope[name] = Macro(name, signature, body, scope)
        return Flow.Next
    }
}

internal class Macro(val name: String, private val signature: Signature, private val body: Block, private val around: Scope) : Callable {
    override fun call(given: Given): Any? {
        if (given.values.size > signature.names.size) {
            throw TemplateException("macro '$name' takes not more than ${signature.names.size} argument(s)")
        }
        val unknown = given.named.keys.firstOrNull { it !in signature.names && it != "caller" }
        if (unknown != null) throw TemplateException("macro '$name' takes no keyword argument '$unknown'")
        val inner = around.inner()
        if ("caller" in given.named) inner["caller"] = given.named["caller"]
        signature.names.forEachIndexed { place, each -> inner[each] = argument(given, place, each, inner) }
        return around.run.captured { body.run(inner) }
    }

    private fun argument(given: Given, place: Int, each: String, inner: Scope): Any? {
        if (given.has(place, each)) return given.get(place, each)
        val default = place - (signature.names.size - signature.defaults.size)
        if (default >= 0) return signature.defaults[default].value(inner)
        return Undefined("parameter '$each' was not provided")
    }
}

/** `{% call macro(...) %} ... {% endcall %}`: the body is what the macro calls as `caller`. */
internal class CallBlock(
    private val function: Expression,
    private val arguments: Arguments,
    private val signature: Signature,
    private val body: Block,
) : Statement() {
    override fun run(scope: Scope): Flow {
        val called = function.value(scope) as? Macro ?: throw TemplateException("a call block calls no macro")
        val given = arguments.given(scope)
        val caller = Macro("caller", signature, body, scope)
        val text = scope.run.meter.deeper { called.call(Given(given.values, given.named + ("caller" to caller))) }
        scope.run.write(text as String)
        return Flow.Next
    }
}
