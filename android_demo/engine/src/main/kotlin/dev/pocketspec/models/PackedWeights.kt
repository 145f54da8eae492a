package dev.pocketspec.models

import dev.pocketspec.bundle.Bundle
import dev.pocketspec.bundle.BundleFiles
import dev.pocketspec.bundle.Level
import dev.pocketspec.bundle.WholeFile
import dev.pocketspec.json.Json
import dev.pocketspec.json.JsonException
import dev.pocketspec.json.JsonObject
import java.io.File
import java.io.IOException
import java.security.DigestInputStream
import java.security.MessageDigest

/**
 * The packed weights of a level, which the Python side makes from the exported ones (`runtime/kernels/weights`).
 *
 * They are no part of what was exported, so the manifest has no hash of them. The file's first page says from which
 * weights it was made, and has the hash of the rest; that is compared once for each change of the file.
 */
class PackedWeights(private val bundle: Bundle, private val level: Level) {
    /** Why the native operators cannot use the file; null if they can. */
    fun fault(): String? {
        val native = level.native ?: return "${level.name} has no form for the native operators"
        val file = bundle.file(level.path(native.data))
        val again = "run the bundle once on a computer (python -m runtime generate BUNDLE hello) and import it again"
        if (!file.isFile) return "${level.path(native.data)} is missing; $again"
        return try {
            problem(file, native.dataBytes)?.let { "${level.path(native.data)} $it; $again" }
        } catch (error: IOException) {
            "${level.path(native.data)} cannot be read (${error.message}); $again"
        } catch (error: JsonException) {
            "${level.path(native.data)} is no packed file; $again"
        }
    }

    private fun problem(file: File, bytes: Long): String? {
        val header = header(file)
        val table = readObject(bundle.file(level.path("native.json")))
        val source = bundle.manifest.files[level.path(table.text("source"))]
        return when {
            header.text("magic") != MAGIC -> "is no packed file"
            header.long("layout") != LAYOUT -> "has layout ${header.long("layout")}, and this app reads $LAYOUT"
            header.text("source") != source?.sha256 -> "is of other weights"
            file.length() != bytes || header.long("bytes") != bytes -> "has ${file.length()} bytes instead of $bytes"
            !isWhole(file, header.text("content")) -> "is damaged"
            else -> null
        }
    }

    private fun header(file: File): JsonObject {
        val page = ByteArray(PAGE)
        file.inputStream().use { stream ->
            var place = 0
            while (place < PAGE) {
                val count = stream.read(page, place, PAGE - place)
                if (count < 0) throw JsonException("cut off")
                place += count
            }
        }
        return Json.parseObject(Json.utf8(page).trimEnd('\u0000', ' ', '\n'))
    }

    /** Whether the content behind the first page has this hash. */
    private fun isWhole(file: File, content: String): Boolean {
        val record = File(bundle.deviceFolder, "packed-${level.folder.replace('/', '-')}.json")
        val seen = Json.write(listOf(content, file.length(), file.lastModified()))
        if (record.isFile && record.readText() == seen) return true
        val digest = MessageDigest.getInstance("SHA-256")
        file.inputStream().use { stream ->
            var skipped = 0L
            while (skipped < PAGE) skipped += stream.skip(PAGE - skipped)
            DigestInputStream(stream, digest).use { while (it.read(ByteArray(PIECE)) >= 0) Unit }
        }
        if (BundleFiles.hexadecimal(digest.digest()) != content) return false
        try {
            WholeFile.write(record, seen.toByteArray())
        } catch (_: IOException) {
            record.delete() // hashed again next time
        }
        return true
    }

    private fun readObject(file: File): JsonObject = Json.parseObject(file.readText(), file.name)

    private companion object {
        const val MAGIC = "pocketspec native data"
        const val LAYOUT = 1L
        const val PAGE = 4096
        const val PIECE = 1 shl 20
    }
}
