package dev.pocketspec.bundle

import dev.pocketspec.bundle.Manifest.Companion.EXPORT_AGAIN
import dev.pocketspec.json.Json
import dev.pocketspec.json.JsonException
import dev.pocketspec.json.JsonObject

/** Reads `pocketspec.json`; what no export writes is refused in one sentence. */
object ManifestReader {
    /** The newest schema that is read. Older ones lack fields, which have defaults. */
    const val SCHEMA = 4

    /** What bundles of newer schemas have that this app does not run; a bundle has the oldest schema that will do. */
    private val NEWER = mapOf(
        5L to "layers with states, and this app runs attention alone; take a model of another architecture",
        6L to "a drafter that guesses all tokens in one forward, which this app does not run; export it with another drafter",
        7L to "layers that share KV caches or differ in size, which this app does not run; take a model of another architecture",
        8L to "layers with experts, or a drafter that reads hidden rows or a part of the vocabulary, which this app does not" +
            " run; export it with another drafter, or take a model of another architecture",
        9L to "a drafter with a head for each token of a draft, or layers of kinds that this app does not run;" +
            " export it with another drafter, or take a model of another architecture",
    )
    private const val LAYOUT = 1L
    private const val MOST_BYTES = 1L shl 50
    private val KV_TYPES = arrayOf("fp32", "fp16", "int8", "int4")

    /** The manifest in [text]; PocketspecException for one that cannot be read. */
    fun read(text: String): Manifest {
        try {
            val data = Json.parseObject(text, Manifest.FILE_NAME)
            checkSchema(data)
            val manifest = Manifest(data.text("name"), data.children("levels").map(::level), files(data.child("files")))
            fault(manifest)?.let { throw PocketspecException("The bundle's manifest $it; $EXPORT_AGAIN.") }
            return manifest
        } catch (error: JsonException) {
            throw PocketspecException("The bundle's manifest cannot be read: ${error.message}; $EXPORT_AGAIN.", error)
        }
    }

    private fun checkSchema(data: JsonObject) {
        val schema = data.long("schema", 1..Long.MAX_VALUE)
        NEWER[schema]?.let { throw PocketspecException("The bundle has $it.") }
        if (schema > SCHEMA) {
            throw PocketspecException(
                "The bundle has schema $schema, and this app reads up to $SCHEMA; update the app, or export the bundle" +
                    " with the version of Pocketspec that the app came with.",
            )
        }
    }

    private fun level(data: JsonObject): Level {
        val vocabulary = data.child("vocabulary")
        val folder = data.text("folder")
        return Level(
            name = data.text("name"),
            role = data.text("role", Manifest.TARGET, "intermediate", "drafter"),
            folder = if (folder == ".") folder else plainName(data, "folder"),
            architecture = data.text("architecture"),
            shape = shape(data.child("shape")),
            endTokens = vocabulary.ints("eos_token_ids", -1..Int.MAX_VALUE),
            beginToken = if (vocabulary.has("bos_token_id")) vocabulary.int("bos_token_id", -1..Int.MAX_VALUE) else null,
            graphs = graphs(data.child("graphs")),
            weightBytes = data.long("weight_bytes", 0..MOST_BYTES),
            native = data.childOrNull("native")?.let { native(data.text("name"), it) },
            agreement = if (data.has("agreement")) data.double("agreement", 0.0, 1.0) else null,
        )
    }

    private fun shape(data: JsonObject) = ModelShape(
        layers = data.int("layers", 1..10_000),
        hiddenSize = data.int("hidden_size", 1..(1 shl 20)),
        heads = data.int("heads", 1..(1 shl 16)),
        kvHeads = data.int("kv_heads", 1..(1 shl 16)),
        headSize = data.int("head_size", 1..(1 shl 16)),
        vocabSize = data.int("vocab_size", 1..(1 shl 26)),
        positions = data.int("positions", 1..(1 shl 30)),
    )

    private fun native(level: String, data: JsonObject): NativeForm {
        val layout = data.long("layout")
        if (layout != LAYOUT) {
            throw PocketspecException(
                "The packed weights of $level have layout $layout, and this app reads $LAYOUT; $EXPORT_AGAIN.",
            )
        }
        return NativeForm(graphs(data.child("graphs")), data.text("data", Manifest.PACKED_NAME), data.long("data_bytes", 0..MOST_BYTES))
    }

    /** Graph files by KV type, the most exact type first. */
    private fun graphs(data: JsonObject): Map<String, String> {
        data.names.firstOrNull { it !in KV_TYPES }?.let { data.fail(it, "one of ${KV_TYPES.joinToString()}") }
        return KV_TYPES.filter(data::has).associateWith { type ->
            plainName(data, type).also { if ('/' in it || !it.endsWith(".onnx")) data.fail(type, "a graph in its folder") }
        }
    }

    private fun files(data: JsonObject): Map<String, FileEntry> = data.names.associateWith { name ->
        FileNames.fault(name)?.let { throw PocketspecException("The bundle lists a file whose name $it; it is not opened.") }
        val entry = data.child(name)
        FileEntry(entry.long("bytes", 0..MOST_BYTES), entry.text("sha256"))
    }

    private fun plainName(data: JsonObject, field: String): String {
        val name = data.text(field)
        FileNames.fault(name)?.let { throw PocketspecException("The bundle names a file, and the name $it; it is not opened.") }
        return name
    }

    /** What is wrong with a manifest of valid fields; null if nothing is. */
    private fun fault(manifest: Manifest): String? {
        if (manifest.levels.count { it.role == Manifest.TARGET } != 1) return "must describe exactly one target"
        if (manifest.levels.map { it.name }.distinct().size < manifest.levels.size) return "has two levels of one name"
        if (manifest.levels.map { it.folder }.distinct().size < manifest.levels.size) return "has two levels in one folder"
        for (level in manifest.levels) {
            if (level.shape.heads % level.shape.kvHeads != 0) return "has heads that its KV heads do not divide"
            val named = level.graphs.values + level.native?.graphs?.values.orEmpty()
            if (level.graphs.isEmpty()) return "has no graphs for ${level.name}"
            named.map(level::path).firstOrNull { it !in manifest.files }?.let { return "names $it and does not list it" }
        }
        val own = manifest.files.keys.firstOrNull { it == Manifest.FILE_NAME || it.substringBefore('/') == Manifest.DEVICE_FOLDER }
        return own?.let { "lists $it, which is no part of what was exported" }
    }
}
