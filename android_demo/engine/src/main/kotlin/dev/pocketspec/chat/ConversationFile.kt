package dev.pocketspec.chat

import dev.pocketspec.bundle.PocketspecException
import dev.pocketspec.bundle.WholeFile
import dev.pocketspec.decoding.TextPiece
import dev.pocketspec.json.Json
import dev.pocketspec.json.JsonException
import dev.pocketspec.json.JsonObject
import java.io.File
import java.io.IOException

/** What outlives the process: the bundle's folder, the settings and the messages. */
data class Conversation(
    val bundle: String? = null,
    val budgetBytes: Long = 0,
    val speculation: Boolean = true,
    val messages: List<ShownMessage> = emptyList(),
)

/** Keeps the conversation in [file], whole or not at all. */
class ConversationFile(private val file: File) {
    /** Replaces what is kept. PocketspecException if it cannot be written; what was kept stays then. */
    fun save(conversation: Conversation) {
        val data = mapOf(
            "schema" to SCHEMA,
            "bundle" to conversation.bundle,
            "budget_bytes" to conversation.budgetBytes,
            "speculation" to conversation.speculation,
            "messages" to conversation.messages.map(::written),
        )
        try {
            WholeFile.write(file, Json.write(data).toByteArray())
        } catch (error: IOException) {
            throw PocketspecException("The conversation is not saved (${error.message}); free some storage.", error)
        }
    }

    /** What is kept, or an empty conversation. One that cannot be read is set aside, and the exception says where. */
    fun load(): Conversation {
        if (!file.isFile) return Conversation()
        try {
            return read(Json.parseObject(file.readText(), file.name))
        } catch (error: JsonException) {
            throw setAside(error)
        } catch (error: IOException) {
            throw setAside(error)
        }
    }

    private fun setAside(error: Exception): PocketspecException {
        val aside = File(file.path + ".unread")
        file.renameTo(aside)
        val message = "The kept conversation cannot be read (${error.message}); a new one begins, the old file is now"
        return PocketspecException("$message ${aside.name}.", error)
    }

    private fun written(message: ShownMessage): Map<String, Any?> = mapOf(
        "role" to message.role,
        "finish" to message.finish,
        "pieces" to message.pieces.map { listOf(it.source, it.text) },
    )

    private fun read(data: JsonObject): Conversation {
        data.long("schema", SCHEMA..SCHEMA)
        return Conversation(
            data.textOrNull("bundle"),
            data.long("budget_bytes"),
            data.boolean("speculation"),
            data.children("messages").map(::message),
        )
    }

    private fun message(data: JsonObject): ShownMessage {
        val pieces = data.list("pieces").map { piece ->
            val pair = (piece as? List<*>)?.takeIf { it.size == 2 } ?: data.fail("pieces", "a list of pairs")
            val (source, text) = pair
            if (source !is String || text !is String) data.fail("pieces", "a list of pairs of texts")
            TextPiece(text, source)
        }
        return ShownMessage(data.text("role"), pieces, data.textOrNull("finish"))
    }

    private companion object {
        const val SCHEMA = 1L
    }
}
