package dev.pocketspec.bundle

import java.io.File
import java.io.IOException
import java.io.InputStream
import java.io.OutputStream

/** What an import takes of the storage. */
interface Storage {
    fun freeBytes(folder: File): Long = folder.usableSpace

    fun write(file: File): OutputStream = file.outputStream()

    companion object : Storage
}

/** Refuses a bundle that the app cannot run, before it is put among the others: PocketspecException says why. */
fun interface BundleCheck {
    fun check(bundle: Bundle)
}

/**
 * Brings a bundle into [store], whole or not at all.
 *
 * Files go into a folder of their own first. There the manifest is read, each file is held against it, and [check] has
 * its say; then one renaming makes it a bundle. Nothing of an import that fails, is cancelled, or dies is left behind,
 * and a bundle of the same name stays as it was.
 */
class BundleImport(
    private val store: BundleStore,
    private val check: BundleCheck,
    private val storage: Storage = Storage,
) {
    /** The folder of the bundle from [source]. */
    fun run(source: BundleSource, progress: Progress): File {
        val work = store.workFolder()
        try {
            source.totalBytes?.let { requireSpace(work, it) }
            val files = Copy(work, storage, source.totalBytes ?: 0, progress)
            try {
                source.forEachFile(files::take)
            } catch (error: IOException) {
                throw PocketspecException("The bundle cannot be read (${error.message}); copy it here again.", error)
            }
            val root = bundleIn(work)
            val bundle = Bundle.read(root)
            removeUnlisted(root, bundle.manifest)
            bundle.verify(progress)
            check.check(bundle)
            return store.put(root, nameOf(bundle.manifest))
        } finally {
            work.deleteRecursively()
        }
    }

    private fun requireSpace(folder: File, bytes: Long) {
        val free = storage.freeBytes(folder) - SPARE
        if (bytes > free) throw noSpace(bytes, free)
    }

    /** The folder in [work] that has the manifest: itself, or the only folder in it, which zips often have. */
    private fun bundleIn(work: File): File {
        if (File(work, Manifest.FILE_NAME).isFile) return work
        val only = work.listFiles().orEmpty().singleOrNull()
        if (only != null && File(only, Manifest.FILE_NAME).isFile) return only
        throw PocketspecException("There is no ${Manifest.FILE_NAME} in it; choose all that the export wrote.")
    }

    /** Nothing comes in that the manifest does not name; packed weights are made per device, and not hashed. */
    private fun removeUnlisted(root: File, manifest: Manifest) {
        val packed = manifest.levels.mapNotNull { level -> level.native?.let { level.path(it.data) } }
        val kept = manifest.files.keys + packed + Manifest.FILE_NAME
        root.walkBottomUp().forEach { file ->
            val isKept = file.isFile && file.relativeTo(root).invariantSeparatorsPath in kept
            if (!isKept && file != root && file.list().isNullOrEmpty()) file.delete()
        }
    }

    private fun nameOf(manifest: Manifest): String {
        val plain = manifest.name.map { if (it.isLetterOrDigit() || it in "._-") it else '-' }.joinToString("")
        return plain.trimStart('.', '-').trimEnd('.').take(MOST_NAME).ifEmpty { "bundle" }
    }

    companion object {
        internal const val MOST_FILES = 1_000

        /** Bytes that are left free, for the conversation and for the system. */
        internal const val SPARE = 64L shl 20
        private const val MOST_NAME = 80

        internal fun noSpace(needed: Long, free: Long): PocketspecException {
            val missing = (needed - free + (1 shl 20) - 1) shr 20
            return PocketspecException("The bundle has no room: free at least $missing MiB of storage, import again.")
        }
    }
}

/** Writes the files of one import into [folder]. */
private class Copy(
    private val folder: File,
    private val storage: Storage,
    private val total: Long,
    private val progress: Progress,
) {
    private val piece = ByteArray(PIECE)
    private var done = 0L
    private var count = 0

    fun take(name: String, content: InputStream) {
        FileNames.fault(name)?.let {
            throw PocketspecException("It has a file named \"${shown(name)}\", which $it; import bundles you trust.")
        }
        if (++count > BundleImport.MOST_FILES) {
            throw PocketspecException("It has more than ${BundleImport.MOST_FILES} files; choose one bundle alone.")
        }
        val file = File(folder, name)
        val parent = file.parentFile
        if (file.exists() || parent == null || !(parent.isDirectory || parent.mkdirs())) {
            throw PocketspecException("The bundle has \"$name\" twice; export it again and import it once more.")
        }
        val output = writing { storage.write(file) }
        output.use { copy(content, it) }
    }

    private fun copy(content: InputStream, output: OutputStream) {
        while (true) {
            val bytes = content.read(piece)
            if (bytes < 0) return
            val free = storage.freeBytes(folder) - BundleImport.SPARE
            if (bytes > free) throw BundleImport.noSpace(maxOf(total - done, bytes.toLong()), free)
            writing { output.write(piece, 0, bytes) }
            done += bytes
            progress.report("Copying files", done, total)
        }
    }

    private fun <T> writing(action: () -> T): T = try {
        action()
    } catch (error: IOException) {
        throw PocketspecException("It cannot be written (${error.message}); free some storage, import again.", error)
    }

    private fun shown(name: String) = name.map { if (it.code < 0x20 || it.code in 0x7F..0x9F) '?' else it }
        .joinToString("").take(80)

    private companion object {
        const val PIECE = 1 shl 18
    }
}
