package dev.pocketspec.text.template

import dev.pocketspec.bundle.PocketspecException
import dev.pocketspec.text.ChatTemplate
import dev.pocketspec.text.Message
import java.util.Calendar

/** A chat template that cannot be read, or that refuses its messages. */
class ChatTemplateException(message: String) : PocketspecException(message)

/**
 * A checkpoint's chat template, evaluated in the app.
 *
 * Templates decide by the messages: by their number, their roles, by what is in them. A table of pieces made at export
 * would be right for the conversations that were tried then; the template itself is right for all, and is one file for
 * Python and the app. [where] says in messages where it came from.
 */
class JinjaTemplate(
    source: String,
    private val specialTokens: Map<String, String>,
    private val where: String,
    private val clock: () -> Calendar = { Calendar.getInstance() },
) : ChatTemplate {
    private val body: Block
    private val names: Set<String>

    init {
        try {
            if (source.length > MOST_SOURCE) throw LimitException("it has ${source.length} characters, at most $MOST_SOURCE are allowed")
            val parser = Parser(source)
            body = parser.template()
            names = parser.names
        } catch (error: TemplateException) {
            throw ChatTemplateException("$where cannot be used as a chat template: ${line(error)}; take a model with another one")
        }
    }

    override fun render(messages: List<Message>, addGenerationPrompt: Boolean, arguments: Map<String, Any?>): String {
        val data = messages.map { linkedMapOf<String, Any?>("role" to it.role, "content" to it.content) }
        return renderData(data, addGenerationPrompt, arguments)
    }

    /** As [render], for messages with further fields, such as calls of tools. */
    fun renderData(messages: List<Map<String, Any?>>, addGenerationPrompt: Boolean, arguments: Map<String, Any?>): String {
        if (messages.isEmpty()) throw ChatTemplateException("a chat has no messages; write one")
        refuseUnknown(arguments)
        val prepared = messages.map(::prepared)
        val variables = HashMap<String, Any?>(specialTokens)
        variables["tools"] = null
        variables["documents"] = null
        for ((name, value) in arguments) variables[name] = plain(value)
        variables["messages"] = prepared
        variables["add_generation_prompt"] = addGenerationPrompt
        try {
            return rendered(variables)
        } catch (error: TemplateException) {
            throw refusal(prepared, line(error))
        } catch (error: StackOverflowError) {
            throw refusal(prepared, "it is nested too deeply")
        }
    }

    private fun rendered(variables: Map<String, Any?>): String {
        val run = Rendering(sizeOf(variables), clock())
        val outer = Scope(null, run)
        Globals(run).addTo(outer)
        for ((name, value) in variables) outer[name] = value
        body.run(outer.inner())
        return run.text()
    }

    private fun refusal(messages: List<Map<String, Any?>>, what: String): ChatTemplateException {
        val roles = messages.map { it["role"].toString() }.distinct().joinToString()
        return ChatTemplateException("$where refuses the messages ($roles): $what; change them")
    }

    /** An argument that the template does not use is refused: a misspelt `enable_thinking` would be ignored in silence. */
    private fun refuseUnknown(arguments: Map<String, Any?>) {
        for (name in arguments.keys) {
            if (name !in names && arguments[name] != null) throw ChatTemplateException("$where has no use for '$name'; leave it out")
        }
    }

    /** Fields that are null are left out, and an answer's reasoning has all of its names, as in transformers. */
    private fun prepared(message: Map<String, Any?>): Map<String, Any?> {
        val kept = LinkedHashMap<String, Any?>()
        val reasoning = REASONING.firstOrNull { message[it] != null }?.let { message[it] }
        if (reasoning != null) kept["thinking"] = plain(reasoning)
        for ((name, value) in message) if (value != null) kept[name] = plain(value)
        if (reasoning != null) kept["reasoning_content"] = plain(reasoning)
        return kept
    }

    /** [value] with the types that templates know. */
    private fun plain(value: Any?): Any? = when (value) {
        null, is String, is Boolean, is Long, is Double -> value
        is Int -> value.toLong()
        is List<*> -> value.map(::plain)
        is Map<*, *> -> value.entries.associateTo(LinkedHashMap()) { it.key to plain(it.value) }
        else -> {
            val kind = value.javaClass.simpleName
            throw ChatTemplateException("messages must be plain JSON data, and $kind is among them; leave it out")
        }
    }

    private fun sizeOf(value: Any?): Int = when (value) {
        is String -> value.codePointCount(0, value.length) + 1
        is Map<*, *> -> 1 + value.entries.sumOf { sizeOf(it.key) + sizeOf(it.value) }
        is List<*> -> 1 + value.sumOf(::sizeOf)
        else -> 1
    }

    private companion object {
        const val MOST_SOURCE = 250_000
        val REASONING = listOf("reasoning_content", "thinking", "reasoning")

        /** The message of an error as one line. */
        fun line(error: TemplateException): String =
            error.message!!.split(' ', '\n', '\t', '\r').filter { it.isNotEmpty() }.joinToString(" ")
    }
}
