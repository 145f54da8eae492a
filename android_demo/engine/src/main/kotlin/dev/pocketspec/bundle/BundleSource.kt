package dev.pocketspec.bundle

import java.io.File
import java.io.IOException
import java.io.InputStream

/** Where a bundle comes from: a folder, a zip, or what the system's file picker gives. */
interface BundleSource {
    /** Bytes of all files, null if that is not known before they are read. */
    val totalBytes: Long?

    /**
     * Calls [take] with the name of each file, relative and with slashes, and its content, which [take] reads at once
     * and does not close. IOException if the source cannot be read.
     */
    fun forEachFile(take: (name: String, content: InputStream) -> Unit)
}

/** A folder of this device, for example one that `adb push` wrote. Hidden files and links out of it are passed over. */
class FolderSource(private val folder: File) : BundleSource {
    private val files: List<File> by lazy {
        val root = folder.canonicalPath + File.separator
        folder.walkTopDown()
            .onEnter { it == folder || !it.name.startsWith(".") }
            .filter { it.isFile && !it.name.startsWith(".") && it.canonicalPath.startsWith(root) }
            .sortedBy { it.path }
            .toList()
    }

    override val totalBytes: Long get() = files.sumOf { it.length() }

    override fun forEachFile(take: (name: String, content: InputStream) -> Unit) {
        if (!folder.isDirectory) throw IOException("there is no folder ${folder.path}")
        for (file in files) {
            file.inputStream().use { take(file.relativeTo(folder).invariantSeparatorsPath, it) }
        }
    }
}
