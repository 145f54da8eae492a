package dev.pocketspec.bundle

/** The sizes of a graph. [vocabSize] is the width of the logits, [positions] the longest context. */
data class ModelShape(
    val layers: Int,
    val hiddenSize: Int,
    val heads: Int,
    val kvHeads: Int,
    val headSize: Int,
    val vocabSize: Int,
    val positions: Int,
)

/** A level for the native operators: [graphs] by KV type, and the file [data] with their packed weights. */
data class NativeForm(val graphs: Map<String, String>, val data: String, val dataBytes: Long)

/** One exported model. [graphs] maps a KV type to a graph file in [folder], which is relative to the bundle. */
data class Level(
    val name: String,
    val role: String,
    val folder: String,
    val architecture: String,
    val shape: ModelShape,
    val endTokens: IntArray,
    val beginToken: Int?,
    val graphs: Map<String, String>,
    val weightBytes: Long,
    val native: NativeForm?,
    val agreement: Double?,
) {
    /** The path of a file of the level, relative to the bundle. */
    fun path(file: String): String = if (folder == ".") file else "$folder/$file"
}

/** Size in bytes and SHA-256, in hexadecimal, of one file. */
data class FileEntry(val bytes: Long, val sha256: String)

/**
 * A bundle as `export/manifest.py` describes it: one target, any number of drafters and intermediates, all their files.
 */
class Manifest(val name: String, val levels: List<Level>, val files: Map<String, FileEntry>) {
    /** The level whose output is reproduced exactly. */
    val target: Level get() = levels.first { it.role == TARGET }

    /** The level called [name]. */
    fun level(name: String): Level = levels.firstOrNull { it.name == name }
        ?: throw PocketspecException("There is no level $name in ${this.name}; it has ${levels.joinToString { it.name }}.")

    companion object {
        const val FILE_NAME = "pocketspec.json"
        const val PACKED_NAME = "native.data"

        /** In a bundle, what was found out on this device: never listed or hashed. */
        const val DEVICE_FOLDER = ".device"
        const val TARGET = "target"

        /** The remedy in every message about a bundle that no export wrote. */
        const val EXPORT_AGAIN = "export it again (python -m export MODEL BUNDLE) and import it once more"
    }
}
