package dev.pocketspec.text.template

/** Reads expressions, with jinja2's precedence. */
internal open class ExpressionParser(private val tokens: List<Token>) {
    private var place = 0
    private var depth = 0

    /** The names that expressions read. */
    val names = HashSet<String>()

    protected val current: Token get() = tokens[place]

    protected fun take(): Token = tokens[place].also { if (place < tokens.size - 1) place++ }

    protected fun isOperator(text: String): Boolean = current.kind == TokenKind.OPERATOR && current.text == text

    protected fun isName(text: String): Boolean = current.kind == TokenKind.NAME && current.text == text

    protected fun takeOperator(text: String): Boolean = isOperator(text).also { if (it) take() }

    protected fun takeName(text: String): Boolean = isName(text).also { if (it) take() }

    protected fun expect(kind: TokenKind): Token = if (current.kind == kind) take() else fail("unexpected '${current.text}'")

    protected fun expectOperator(text: String) {
        if (!takeOperator(text)) fail("expected '$text', not '${current.text}'")
    }

    protected fun fail(what: String): Nothing = throw TemplateException("line ${current.line}: $what")

    fun expression(): Expression {
        if (++depth > MOST_DEPTH) fail("expressions are nested more than $MOST_DEPTH deep")
        var value = or()
        while (takeName("if")) {
            val test = or()
            value = Either(test, value, if (takeName("else")) expression() else null)
        }
        depth--
        return value
    }

    /** Several expressions with commas between them are a tuple. */
    protected fun tuple(withCondition: Boolean = true): Expression {
        val items = ArrayList<Expression>()
        var isTuple = false
        while (!endsTuple()) {
            items.add(if (withCondition) expression() else or())
            if (!takeOperator(",")) break
            isTuple = true
        }
        if (items.isEmpty()) fail("expected an expression, not '${current.text}'")
        return if (isTuple) ListOf(items, true) else items[0]
    }

    private fun endsTuple(): Boolean =
        current.kind == TokenKind.BLOCK_END || current.kind == TokenKind.PRINT_END || isOperator(")") || isOperator("=")

    private fun or(): Expression {
        var left = and()
        while (takeName("or")) left = Logical(left, false, and())
        return left
    }

    private fun and(): Expression {
        var left = not()
        while (takeName("and")) left = Logical(left, true, not())
        return left
    }

    private fun not(): Expression = if (takeName("not")) deeper { Not(not()) } else comparison()

    private fun comparison(): Expression {
        val first = sum()
        val rest = ArrayList<Pair<String, Expression>>()
        while (true) {
            val operator = comparator() ?: break
            rest.add(operator to sum())
        }
        return if (rest.isEmpty()) first else Comparison(first, rest)
    }

    private fun comparator(): String? {
        if (current.kind == TokenKind.OPERATOR && current.text in COMPARATORS) return take().text
        if (takeName("in")) return "in"
        val next = tokens.getOrNull(place + 1)
        if (isName("not") && next != null && next.kind == TokenKind.NAME && next.text == "in") {
            take()
            take()
            return "not in"
        }
        return null
    }

    private fun sum(): Expression {
        var left = concatenation()
        while (isOperator("+") || isOperator("-")) left = Arithmetic(take().text, left, concatenation())
        return left
    }

    private fun concatenation(): Expression {
        val parts = arrayListOf(product())
        while (takeOperator("~")) parts.add(product())
        return parts.singleOrNull() ?: Joined(parts)
    }

    private fun product(): Expression {
        var left = power()
        while (current.kind == TokenKind.OPERATOR && current.text in PRODUCTS) left = Arithmetic(take().text, left, power())
        return left
    }

    private fun power(): Expression {
        var left = unary(true)
        while (takeOperator("**")) left = Arithmetic("**", left, unary(true))
        return left
    }

    private fun unary(withFilters: Boolean): Expression {
        val sign = if (isOperator("-") || isOperator("+")) take().text else null
        val value = postfix(if (sign != null) deeper { Negated(unary(false), sign == "-") } else primary())
        return if (withFilters) filtersAndTests(value) else value
    }

    private inline fun deeper(read: () -> Expression): Expression {
        if (++depth > MOST_DEPTH) fail("expressions are nested more than $MOST_DEPTH deep")
        return read().also { depth-- }
    }

    protected fun primary(): Expression = when (current.kind) {
        TokenKind.NAME -> name(take().text)
        TokenKind.STRING -> {
            val built = StringBuilder()
            while (current.kind == TokenKind.STRING) built.append(take().text)
            Literal(built.toString())
        }
        TokenKind.INTEGER -> take().text.replace("_", "").let { Literal(it.toLongOrNull() ?: fail("the number $it is too large")) }
        TokenKind.FLOAT -> Literal(take().text.replace("_", "").toDouble())
        TokenKind.OPERATOR -> bracket()
        else -> fail("unexpected '${current.text}'")
    }

    private fun name(name: String): Expression = when (name) {
        "true", "True" -> Literal(true)
        "false", "False" -> Literal(false)
        "none", "None" -> Literal(null)
        else -> Name(name).also { names.add(name) }
    }

    private fun bracket(): Expression = when {
        takeOperator("(") -> {
            val value = if (isOperator(")")) ListOf(emptyList(), true) else tuple()
            value.also { expectOperator(")") }
        }
        takeOperator("[") -> ListOf(listed("]") { expression() }, false)
        takeOperator("{") -> MapOf(
            listed("}") {
                val key = expression()
                expectOperator(":")
                key to expression()
            },
        )
        else -> fail("unexpected '${current.text}'")
    }

    private fun <T> listed(close: String, read: () -> T): List<T> {
        val items = ArrayList<T>()
        while (!takeOperator(close)) {
            if (items.isNotEmpty()) {
                expectOperator(",")
                if (takeOperator(close)) break
            }
            items.add(read())
        }
        return items
    }

    protected fun postfix(first: Expression): Expression {
        var value = first
        while (true) {
            value = when {
                takeOperator(".") -> attribute(value)
                takeOperator("[") -> subscript(value).also { expectOperator("]") }
                takeOperator("(") -> Call(value, arguments())
                else -> return value
            }
        }
    }

    private fun attribute(of: Expression): Expression {
        if (current.kind == TokenKind.INTEGER) return Part(of, primary(), false)
        return Part(of, Literal(expect(TokenKind.NAME).text), true)
    }

    private fun subscript(of: Expression): Expression {
        val start = if (isOperator(":")) null else tuple()
        if (!takeOperator(":")) return Part(of, start!!, false)
        val stop = if (isOperator(":") || isOperator("]")) null else expression()
        val step = if (takeOperator(":") && !isOperator("]")) expression() else null
        return Slice(of, start, stop, step)
    }

    protected fun arguments(): Arguments {
        val named = ArrayList<Pair<String, Expression>>()
        val values = ArrayList<Expression>()
        var all: Expression? = null
        var allNamed: Expression? = null
        listed(")") {
            if (all != null && !isOperator("**")) fail("an argument behind '*' is not known to this app")
            if (allNamed != null) fail("an argument behind '**' is not known to this app")
            val next = tokens.getOrNull(place + 1)
            if (current.kind == TokenKind.NAME && next != null && next.kind == TokenKind.OPERATOR && next.text == "=") {
                val name = take().text
                take()
                named.add(name to expression())
            } else if (takeOperator("*")) {
                all = expression()
            } else if (takeOperator("**")) {
                allNamed = expression()
            } else {
                if (named.isNotEmpty()) fail("an argument without a name follows one with a name")
                values.add(expression())
            }
        }
        return Arguments(values, named, all, allNamed)
    }

    private fun filtersAndTests(first: Expression): Expression {
        var value = first
        while (true) {
            value = when {
                takeOperator("|") -> filter(value)
                takeName("is") -> test(value)
                takeOperator("(") -> Call(value, arguments())
                else -> return value
            }
        }
    }

    /** Reads the name of a filter and its arguments. */
    protected fun filter(value: Expression): Expression {
        val name = dottedName()
        val filter = Filters.find(name) ?: fail("the filter '$name' is not known to this app")
        return Filtered(value, filter, if (takeOperator("(")) arguments() else Arguments())
    }

    private fun test(value: Expression): Expression {
        val isNegated = takeName("not")
        val name = dottedName()
        val test = Tests.find(name) ?: fail("the test '$name' is not known to this app")
        val arguments = when {
            takeOperator("(") -> arguments()
            takesArgument() -> Arguments(listOf(postfix(primary())))
            else -> Arguments()
        }
        return Tested(value, test, arguments).let { if (isNegated) Not(it) else it }
    }

    private fun takesArgument(): Boolean = when (current.kind) {
        TokenKind.NAME -> current.text !in NO_ARGUMENTS
        TokenKind.STRING, TokenKind.INTEGER, TokenKind.FLOAT -> true
        TokenKind.OPERATOR -> current.text == "[" || current.text == "{"
        else -> false
    }

    private fun dottedName(): String {
        var name = expect(TokenKind.NAME).text
        while (takeOperator(".")) name += "." + expect(TokenKind.NAME).text
        return name
    }

    private companion object {
        const val MOST_DEPTH = 64
        val COMPARATORS = setOf("==", "!=", "<", "<=", ">", ">=")
        val PRODUCTS = setOf("*", "/", "//", "%")
        val NO_ARGUMENTS = setOf("else", "or", "and", "is", "if", "in", "not")
    }
}
