package dev.pocketspec.scheduler

import dev.pocketspec.json.JsonException
import java.io.File
import java.security.MessageDigest

/**
 * Keeps what was measured on this device in [folder]. A table belongs to [key]: whatever costs depend on, such as the
 * bundle's files, the kernels, the device and the version of its system.
 */
class CostStore(private val folder: File, key: List<String>) {
    private val file = File(folder, "costs-${digest(key)}.json")

    /** What is kept; null if nothing is, or if it cannot be read: then it is measured again. */
    fun load(): CostTable? = try {
        if (file.isFile) CostTable.parse(file.readText()) else null
    } catch (_: JsonException) {
        null
    }

    /** Keeps [costs]; without room for them they are measured again next time. */
    fun save(costs: CostTable) {
        folder.mkdirs()
        val whole = File(folder, "${file.name}.new")
        whole.writeText(costs.toJson())
        if (!whole.renameTo(file)) whole.delete()
    }

    private fun digest(key: List<String>): String {
        val bytes = key.joinToString("\u0000").toByteArray(Charsets.UTF_8)
        return MessageDigest.getInstance("SHA-256").digest(bytes).take(8).joinToString("") { "%02x".format(it) }
    }
}
