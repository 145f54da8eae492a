package dev.pocketspec.bundle

import java.io.IOException
import java.io.InputStream
import java.util.zip.ZipInputStream

/** A zip as a stream, from its first byte: the system's file picker promises no more. [open] is called once. */
class ZipSource(override val totalBytes: Long? = null, private val open: () -> InputStream) : BundleSource {
    override fun forEachFile(take: (name: String, content: InputStream) -> Unit) {
        var count = 0
        ZipInputStream(open().buffered(BUFFER)).use { zip ->
            while (true) {
                val entry = try {
                    zip.nextEntry
                } catch (error: IllegalArgumentException) {
                    throw IOException("a name in it is not UTF-8", error)
                } ?: break
                count++
                if (!entry.isDirectory && !isHidden(entry.name)) take(entry.name, zip)
            }
        }
        if (count == 0) throw IOException("it is no zip, or an empty one")
    }

    private fun isHidden(name: String) = name.split('/').any { it.startsWith(".") && it != "." && it != ".." } ||
        name.startsWith("__MACOSX/")

    private companion object {
        const val BUFFER = 1 shl 16
    }
}
