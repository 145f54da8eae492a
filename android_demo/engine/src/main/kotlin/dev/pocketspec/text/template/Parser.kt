package dev.pocketspec.text.template

/** Reads a template; TemplateException names the line and what is wrong, or what this app does not know. */
internal class Parser(source: String) : ExpressionParser(Lexer(source).tokens()) {
    private var depth = 0
    private var numLoops = 0

    fun template(): Block {
        val body = block()
        if (current.kind != TokenKind.END) fail("unexpected '${current.text}'")
        return body
    }

    /** Statements up to a tag with one of the names [ends], which is next then, or to the end of the template. */
    private fun block(vararg ends: String): Block {
        if (++depth > MOST_DEPTH) fail("blocks are nested more than $MOST_DEPTH deep")
        val statements = ArrayList<Statement>()
        while (current.kind != TokenKind.END) {
            when (current.kind) {
                TokenKind.DATA -> statements.add(Data(take().text))
                TokenKind.PRINT_BEGIN -> {
                    take()
                    statements.add(Print(tuple()))
                    expect(TokenKind.PRINT_END)
                }
                else -> {
                    expect(TokenKind.BLOCK_BEGIN)
                    if (current.kind == TokenKind.NAME && current.text in ends) break
                    statements.add(statement())
                }
            }
        }
        val isOpen = current.kind == TokenKind.END && ends.isNotEmpty()
        if (isOpen) fail("expected '${ends.joinToString("' or '")}', but the template ends")
        depth--
        return Block(statements)
    }

    private fun statement(): Statement {
        val name = expect(TokenKind.NAME).text
        return when (name) {
            "if" -> branches()
            "for" -> loop()
            "set" -> set()
            "macro" -> macro()
            "call" -> call()
            "filter" -> filterBlock()
            "with" -> with()
            "generation" -> closed { Within(emptyList(), block("endgeneration")) }
            "break", "continue" -> leave(name)
            else -> fail("the tag '$name' is not known to this app")
        }
    }

    /** What [read] reads up to its end tag, and the rest of that tag. */
    private fun closed(read: () -> Statement): Statement {
        endTag()
        return read().also { closeTag() }
    }

    private fun endTag() {
        expect(TokenKind.BLOCK_END)
    }

    /** Reads the name of the end tag that is next, and its end. */
    private fun closeTag() {
        take()
        endTag()
    }

    private fun leave(name: String): Statement {
        if (numLoops == 0) fail("'$name' outside of a loop")
        endTag()
        return Leave(if (name == "break") Flow.Break else Flow.Continue)
    }

    private fun branches(): Statement {
        val found = ArrayList<Pair<Expression?, Block>>()
        var test: Expression? = tuple(withCondition = false)
        while (true) {
            endTag()
            found.add(test to if (test == null) block("endif") else block("elif", "else", "endif"))
            val tag = take().text
            if (tag == "endif") break
            test = if (tag == "elif") tuple(withCondition = false) else null
        }
        endTag()
        return If(found)
    }

    private fun loop(): Statement {
        val target = target()
        if (!takeName("in")) fail("expected 'in', not '${current.text}'")
        val items = tuple(withCondition = false)
        val test = if (takeName("if")) expression() else null
        val isRecursive = takeName("recursive")
        endTag()
        numLoops++
        val body = block("endfor", "else")
        numLoops--
        val otherwise = if (takeName("else")) endTag().let { block("endfor") } else null
        closeTag()
        return For(target, items, test, body, otherwise, isRecursive)
    }

    private fun target(): Target {
        val targets = arrayListOf(oneTarget())
        var isTuple = false
        while (takeOperator(",")) {
            isTuple = true
            if (current.kind != TokenKind.NAME || isName("in")) break
            targets.add(oneTarget())
        }
        return if (isTuple) Target.Several(targets) else targets[0]
    }

    private fun oneTarget(): Target {
        if (takeOperator("(")) return target().also { expectOperator(")") }
        val name = expect(TokenKind.NAME).text
        if (name.lowercase() in RESERVED) fail("cannot assign to '$name'")
        if (!takeOperator(".")) return Target.Variable(name)
        names.add(name)
        return Target.InNamespace(name, expect(TokenKind.NAME).text)
    }

    private fun set(): Statement {
        val target = target()
        if (takeOperator("=")) return SetTo(target, tuple()).also { endTag() }
        val wrap = wrapping()
        endTag()
        return SetBlock(target, block("endset"), wrap).also { closeTag() }
    }

    /** Reads the filters that are put around a text that is not known yet. */
    private fun wrapping(): (Expression) -> Expression {
        var wrap: (Expression) -> Expression = { it }
        while (takeOperator("|")) wrap = wrapped(wrap)
        return wrap
    }

    private fun wrapped(inner: (Expression) -> Expression): (Expression) -> Expression {
        val filter = filter(Literal("")) as Filtered
        return { text -> filter.around(inner(text)) }
    }

    private fun filterBlock(): Statement {
        var wrap = wrapped { it }
        while (takeOperator("|")) wrap = wrapped(wrap)
        endTag()
        return FilterBlock(block("endfilter"), wrap).also { closeTag() }
    }

    private fun with(): Statement {
        val set = ArrayList<Pair<Target, Expression>>()
        while (current.kind != TokenKind.BLOCK_END) {
            if (set.isNotEmpty()) expectOperator(",")
            val target = oneTarget()
            expectOperator("=")
            set.add(target to expression())
        }
        endTag()
        return Within(set, block("endwith")).also { closeTag() }
    }

    private fun signature(): Signature {
        val found = ArrayList<String>()
        val defaults = ArrayList<Expression>()
        while (!takeOperator(")")) {
            if (found.isNotEmpty()) expectOperator(",")
            found.add(expect(TokenKind.NAME).text)
            val hasDefault = takeOperator("=")
            if (!hasDefault && defaults.isNotEmpty()) fail("non-default argument follows default argument")
            if (hasDefault) defaults.add(expression())
        }
        return Signature(found, defaults)
    }

    private fun macro(): Statement {
        val name = expect(TokenKind.NAME).text
        expectOperator("(")
        val signature = signature()
        endTag()
        val body = apart { block("endmacro") }
        closeTag()
        return MacroDefinition(name, signature, body)
    }

    private fun call(): Statement {
        val signature = if (takeOperator("(")) signature() else Signature(emptyList(), emptyList())
        val name = Name(expect(TokenKind.NAME).text).also { names.add(it.name) }
        expectOperator("(")
        val arguments = arguments()
        endTag()
        val body = apart { block("endcall") }
        closeTag()
        return CallBlock(name, arguments, signature, body)
    }

    /** Loops around a macro are none that its body could leave. */
    private fun apart(read: () -> Block): Block {
        val outer = numLoops
        numLoops = 0
        return read().also { numLoops = outer }
    }

    private companion object {
        const val MOST_DEPTH = 64
        val RESERVED = setOf("true", "false", "none")
    }
}
