package dev.pocketspec.text.template

import dev.pocketspec.json.Json
import dev.pocketspec.json.JsonException
import dev.pocketspec.json.JsonObject
import dev.pocketspec.text.ChatTemplate
import java.io.File
import java.io.IOException

/**
 * Finds the chat template and the special tokens of a bundle, in the same files as `runtime/text/template_files.py`:
 * `chat_template.jinja`, others by name in `additional_chat_templates`, or `tokenizer_config.json`. Files take precedence.
 */
object TemplateFiles {
    private const val MOST_BYTES = 4L shl 20

    /** The template of the bundle in [folder]; null if there is none. */
    fun open(folder: File): ChatTemplate? {
        val config = readJson(File(folder, "tokenizer_config.json"))
        val files = File(folder, "additional_chat_templates").listFiles { file -> file.name.endsWith(".jinja") }.orEmpty()
        val named = files.sortedBy { it.name }.associateTo(LinkedHashMap()) { it.name.removeSuffix(".jinja") to it }
        val own = File(folder, "chat_template.jinja")
        if (own.isFile) named["default"] = own
        val where = if (named.isEmpty()) "tokenizer_config.json" else (named["default"] ?: files[0].parentFile!!).name
        val sources = if (named.isEmpty()) configured(config) else named.mapValues { readText(it.value) }
        if (sources.isEmpty()) return null
        val source = sources["default"] ?: sources.values.singleOrNull() ?: throw ChatTemplateException(
            "$where has no chat template named 'default' (it names: ${sources.keys.joinToString()}); export the bundle again",
        )
        return JinjaTemplate(source, specialTokens(folder, config), where)
    }

    private fun configured(config: JsonObject): Map<String, String> = when (val template = config.values["chat_template"]) {
        is String -> mapOf("default" to template)
        is List<*> -> template.filterIsInstance<Map<*, *>>().filter { "name" in it }
            .associate { it["name"].toString() to (it["template"] ?: "").toString() }
        is Map<*, *> -> template.entries.associate { it.key.toString() to it.value.toString() }
        else -> emptyMap()
    }

    /** The texts of special tokens by names like `bos_token`. */
    private fun specialTokens(folder: File, config: JsonObject): Map<String, String> {
        val merged = LinkedHashMap(config.values)
        if ("added_tokens_decoder" !in merged) merged.putAll(readJson(File(folder, "special_tokens_map.json")).values)
        val named = LinkedHashMap(merged.filterKeys { it.endsWith("_token") })
        val extra = merged["extra_special_tokens"]
        if (extra is Map<*, *>) for ((name, value) in extra) named[name.toString()] = value
        val texts = LinkedHashMap<String, String>()
        for ((name, value) in named) ((if (value is Map<*, *>) value["content"] else value) as? String)?.let { texts[name] = it }
        return texts
    }

    private fun readJson(file: File): JsonObject {
        if (!file.isFile) return JsonObject.of(emptyMap<String, Any?>())
        try {
            return JsonObject.of(Json.parse(readText(file)) as? Map<*, *> ?: emptyMap<String, Any?>())
        } catch (error: JsonException) {
            throw ChatTemplateException("${file.name} ${error.message}; export the bundle again")
        }
    }

    private fun readText(file: File): String {
        try {
            val isLong = file.length() > MOST_BYTES
            if (isLong) throw ChatTemplateException("${file.name} has more than $MOST_BYTES bytes; export the bundle again")
            return Json.utf8(file.readBytes())
        } catch (error: IOException) {
            throw ChatTemplateException("${file.name} cannot be read (${error.message}); export the bundle again")
        } catch (error: JsonException) {
            throw ChatTemplateException("${file.name} ${error.message}; export the bundle again")
        }
    }
}
