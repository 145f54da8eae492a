package dev.pocketspec.bundle

import dev.pocketspec.json.Json
import dev.pocketspec.json.JsonException
import java.io.File
import java.io.IOException
import java.security.MessageDigest

/**
 * Holds the files of the bundle in [folder] against its [manifest].
 *
 * A file is hashed when it is seen for the first time, and again when its size or time of change is another. What was
 * hashed is recorded in the bundle's device folder; losing the record costs only time.
 */
class BundleFiles(private val folder: File, private val manifest: Manifest) {
    private val record = File(folder, "${Manifest.DEVICE_FOLDER}/hashes.json")

    /** PocketspecException for the first file that is missing, of another size, changed, or reached through a link. */
    fun verify(progress: Progress) {
        val known = readRecord()
        val found = LinkedHashMap<String, Any?>()
        val total = manifest.files.values.sumOf { it.bytes }
        var done = 0L
        for ((name, entry) in manifest.files) {
            val file = existing(name, entry)
            val identity = listOf(file.length(), file.lastModified(), entry.sha256)
            if (known[name] != identity) check(name, entry, file) { progress.report("Checking files", done + it, total) }
            found[name] = identity
            done += entry.bytes
            progress.report("Checking files", done, total)
        }
        if (found != known) writeRecord(found)
    }

    private fun existing(name: String, entry: FileEntry): File {
        val file = File(folder, name)
        if (!file.isFile) throw PocketspecException("The bundle lacks $name; import it again, whole.")
        if (file.canonicalPath != File(folder.canonicalFile, name).path) {
            throw PocketspecException("$name of the bundle is a link that leaves it; put the file itself there.")
        }
        if (file.length() != entry.bytes) {
            throw PocketspecException("$name has ${file.length()} bytes, and its manifest says ${entry.bytes}; import the bundle again.")
        }
        return file
    }

    private fun check(name: String, entry: FileEntry, file: File, report: (Long) -> Unit) {
        val found = try {
            sha256(file, report)
        } catch (error: IOException) {
            throw PocketspecException("$name of the bundle cannot be read (${error.message}); import the bundle again.", error)
        }
        if (found != entry.sha256) {
            throw PocketspecException("$name was changed: its SHA-256 is not the manifest's; import the bundle again.")
        }
    }

    private fun readRecord(): Map<String, Any?> = try {
        if (record.isFile) Json.parseObject(record.readText()).values else emptyMap()
    } catch (_: JsonException) {
        emptyMap()
    } catch (_: IOException) {
        emptyMap()
    }

    private fun writeRecord(found: Map<String, Any?>) {
        try {
            WholeFile.write(record, Json.write(found).toByteArray())
        } catch (_: IOException) {
            record.delete() // the files are hashed again next time
        }
    }

    companion object {
        private const val PIECE = 1 shl 20

        /** SHA-256 of [file] in hexadecimal; [report] is told the bytes read so far. */
        fun sha256(file: File, report: (Long) -> Unit = {}): String {
            val digest = MessageDigest.getInstance("SHA-256")
            val piece = ByteArray(PIECE)
            var done = 0L
            file.inputStream().use { stream ->
                while (true) {
                    val count = stream.read(piece)
                    if (count < 0) break
                    digest.update(piece, 0, count)
                    done += count
                    report(done)
                }
            }
            return hexadecimal(digest.digest())
        }

        /** [bytes] in hexadecimal. */
        fun hexadecimal(bytes: ByteArray): String =
            bytes.joinToString("") { (it.toInt() and 0xFF).toString(16).padStart(2, '0') }
    }
}
